"""The page for authors of guests names every port that the board has."""

from __future__ import annotations

import re
from pathlib import Path

from emu.board import map as board_map

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "write-your-own-guest.md"


def windows() -> set[int]:
    """The first port of each window of the map."""
    found = set()
    for value in vars(board_map).values():
        for window in value if isinstance(value, tuple) else (value,):
            if isinstance(window, range):
                found.add(window.start)
    return found


def test_every_window_is_in_the_table() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| 0x")]
    named = {int(port, 16) for row in rows for port in re.findall(r"0x[0-9A-F]+", row)}
    assert windows() - named == set()
