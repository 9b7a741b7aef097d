"""The exit port (QEMU's ``isa-debug-exit``): the value a guest writes there becomes the exit status."""

from __future__ import annotations

from emu.devices.contract import End, ExitRequest
from emu.state import Apply, Fields, SavedState, nothing


class DebugExit:
    """A write of ``value`` ends the machine with status ``(value << 1) | 1``, so never with the 0 of a power-off.

    A process has an eight-bit status, so of the value only the low seven bits show in it; ``ExitRequest.code`` carries
    the whole value. As with QEMU the value is what one access brings: a 16-bit write to a window of one port writes its
    low byte. Reads give 0.
    """

    width = 4

    def __init__(self, end: End) -> None:
        self._end = end

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._end(ExitRequest("exit-port", ((value << 1) | 1) & 0xFF, value))

    def reset(self) -> None:
        """Nothing: the port has no registers."""

    def save(self) -> SavedState:
        return SavedState("debugexit", 1, {})

    def parse(self, state: SavedState) -> Apply:
        Fields(state, kind="debugexit", version=1).finish()
        return nothing

    def inspect(self) -> dict[str, object]:
        return {}
