"""The ports over which the init of `emu run linux` talks to emu (``emu.linux.protocol`` has the words).

Other guests do not have them.
"""

from __future__ import annotations

from emu.devices.contract import Sink, Window
from emu.hints import Protocol
from emu.state import Apply, Fields, SavedState, nothing


class InitHost(Protocol):
    """Whom init talks to. Called in the machine's thread, between two instructions of the guest's."""

    def said(self, message: int, argument: int) -> None:
        """Init wrote ``message`` (a byte) with 24 bits of ``argument``; unknown ones are ignored."""

    def role(self) -> int:
        """What init is to do, a byte."""


class InitPorts:
    """Two windows: one byte port for standard error, and the 32-bit control port.

    Nothing is kept here, so nothing is saved: what was said is the host's to remember.
    """

    def __init__(self, errors: Sink, host: InitHost) -> None:
        self._errors = errors
        self._host = host
        self.windows = (Window(1, self._read_errors, self._write_errors), Window(4, self._read, self._write))

    def _read_errors(self, offset: int, size: int) -> int:
        return 0xFF

    def _write_errors(self, offset: int, size: int, value: int) -> None:
        self._errors(bytes((value & 0xFF,)))

    def _read(self, offset: int, size: int) -> int:
        return self._host.role() if offset == 0 else 0

    def _write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self._host.said(value & 0xFF, value >> 8)

    def reset(self) -> None:
        """Nothing: the ports have no registers."""

    def save(self) -> SavedState:
        return SavedState("initport", 1, {})

    def parse(self, state: SavedState) -> Apply:
        Fields(state, kind="initport", version=1).finish()
        return nothing

    def inspect(self) -> dict[str, object]:
        return {}
