"""The board: where everything sits, and how a configuration becomes a machine."""

from emu.board.build import Outputs, build
from emu.board.slots import Slots

__all__ = ["Outputs", "Slots", "build"]
