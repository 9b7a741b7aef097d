"""The debug console of Bochs and QEMU: one port, by custom 0xE9. A byte written comes out; a read tells it is there."""

from __future__ import annotations

from emu.devices.contract import Sink
from emu.state import Apply, Fields, SavedState, nothing

READBACK = 0xE9


class DebugConsole:
    """Every byte written goes to ``sink`` at once; a read gives 0xE9, which is how guests find the console."""

    width = 1

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def read(self, offset: int, size: int) -> int:
        return READBACK

    def write(self, offset: int, size: int, value: int) -> None:
        self._sink(bytes((value & 0xFF,)))

    def reset(self) -> None:
        """Nothing: the console has no registers."""

    def save(self) -> SavedState:
        return SavedState("debugcon", 1, {})

    def parse(self, state: SavedState) -> Apply:
        Fields(state, kind="debugcon", version=1).finish()
        return nothing

    def inspect(self) -> dict[str, object]:
        return {"readback": READBACK}
