"""What a command is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from emu.monitor.control import Control
from emu.monitor.schema import NOTHING, Struct, Type


@dataclass(frozen=True, slots=True)
class Command:
    """``run`` gets arguments that ``arguments`` accepted, and returns a value of type ``returns``.

    It raises QmpError or EmuError when it refuses; then nothing has changed.
    """

    run: Callable[[Control, dict[str, Any]], Any]
    arguments: Struct = NOTHING
    returns: Type = NOTHING
