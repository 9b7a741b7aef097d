"""Colour on a terminal: whether it is wanted, and the few escape sequences that repeat what words say already."""

from __future__ import annotations

import os
from typing import TextIO

RED, GREEN, YELLOW, BOLD = "1;31", "1;32", "1;33", "1"


def wants_colour(stream: TextIO) -> bool:
    """Whether ``stream`` may be coloured: a terminal, unless NO_COLOR says no; anything, where FORCE_COLOR says yes.

    NO_COLOR decides when both are set and not empty (https://no-color.org, https://force-color.org).
    """
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def paint(text: str, colour: str) -> str:
    """``text`` in a colour, which ends with it."""
    return f"\x1b[{colour}m{text}\x1b[0m"
