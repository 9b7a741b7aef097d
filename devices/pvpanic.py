"""The panic port of QEMU (``pvpanic``, docs/specs/pvpanic.rst): a guest says that its kernel crashed."""

from __future__ import annotations

from emu.devices.contract import End, ExitRequest
from emu.errors import Status
from emu.state import Apply, Fields, SavedState

PANICKED, CRASH_LOADED = 0x01, 0x02


class PanicPort:
    """Reads give the events that are understood; writing PANICKED ends the machine as a crash of the guest.

    CRASH_LOADED says that a crash kernel takes over, so the machine runs on.
    """

    width = 1

    def __init__(self, end: End) -> None:
        self._end = end
        self._crash_loaded = False

    def read(self, offset: int, size: int) -> int:
        return PANICKED | CRASH_LOADED

    def write(self, offset: int, size: int, value: int) -> None:
        if value & CRASH_LOADED:
            self._crash_loaded = True
        if value & PANICKED:
            self._end(ExitRequest("panic", Status.GUEST_CRASHED))

    def reset(self) -> None:
        self._crash_loaded = False

    def save(self) -> SavedState:
        return SavedState("pvpanic", 1, {"crash_loaded": self._crash_loaded})

    def parse(self, state: SavedState) -> Apply:
        take = Fields(state, kind="pvpanic", version=1)
        crash_loaded = take.boolean("crash_loaded")
        take.finish()

        def apply() -> None:
            self._crash_loaded = crash_loaded

        return apply

    def inspect(self) -> dict[str, object]:
        return {"crash_loaded": self._crash_loaded}
