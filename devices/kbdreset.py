"""What is left of a PC's keyboard controller without a keyboard: the command 0xFE resets the machine.

Status reads 0: nothing to read, ready for a command. Guests that wait for the controller before they open the A20 gate
or pulse the reset line therefore do not hang. Other commands and data are dropped; A20 is always open.
"""

from __future__ import annotations

from emu.devices.contract import Reset, Window
from emu.state import Apply, Fields, SavedState, nothing

PULSE_RESET = 0xFE


class KeyboardReset:
    """Windows for the data port and for the command and status port."""

    def __init__(self, reset: Reset) -> None:
        self._reset_machine = reset
        self.windows = (
            Window(1, _nothing, _dropped),
            Window(1, _nothing, self._command),
        )

    def _command(self, offset: int, size: int, value: int) -> None:
        if value == PULSE_RESET:
            self._reset_machine()

    def reset(self) -> None:
        """Nothing: there are no registers."""

    def save(self) -> SavedState:
        return SavedState("kbdreset", 1, {})

    def parse(self, state: SavedState) -> Apply:
        Fields(state, kind="kbdreset", version=1).finish()
        return nothing

    def inspect(self) -> dict[str, object]:
        return {}


def _nothing(offset: int, size: int) -> int:
    return 0


def _dropped(offset: int, size: int, value: int) -> None:
    """A byte for a keyboard that is not there."""
