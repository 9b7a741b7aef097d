"""Counts the different memories over all crash points without listing them.

At one crash point the cells (see ``Rules``) are independent, so its memories are a product. A memory counts once even
if several crash points allow it. The cells are taken one after the other: contents of a cell that the same crash
points allow are interchangeable, so only their number matters for the cells that follow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from emu.persistence.model.crashstate import FULL, CrashState, Initial, possible_values
from emu.persistence.model.timeline import Timeline

_MOST_CONTENTS = 1 << 16
_MOST_CLASSES = 1 << 18


class _TooMany(Exception):
    pass


def count_distinct(timeline: Timeline, initial: Initial, *, seconds: float = 10.0) -> int | None:
    """The number of different memories; None when finding it would take too long."""
    deadline = time.monotonic() + seconds
    cells: dict[int, list[int]] = {}
    for unit in sorted(timeline.units):
        cells.setdefault(timeline.rules.cell(unit), []).append(unit)
    # Classes of crash points that have allowed the same contents so far -> number of contents.
    classes: dict[int, int] = {(1 << len(timeline.points)) - 1: 1}
    try:
        for units in cells.values():
            by_points = _allowed(timeline, initial, units, deadline)
            merged: dict[int, int] = {}
            for before, count in classes.items():
                for points, contents in by_points.items():
                    both = before & points
                    if both:
                        merged[both] = merged.get(both, 0) + count * contents
                if len(merged) > _MOST_CLASSES or time.monotonic() > deadline:
                    raise _TooMany
            classes = merged
    except _TooMany:
        return None
    return sum(classes.values())


def _allowed(timeline: Timeline, initial: Initial, units: Sequence[int], deadline: float) -> dict[int, int]:
    """For each set of crash points (bit set), how many contents of the cell exactly these points allow."""
    contents: dict[tuple[int, ...], int] = {}
    versions: dict[tuple[object, ...], int] = {}
    for point in timeline.points:
        version = timeline.version(units, point.number)
        versions[version] = versions.get(version, 0) | 1 << point.number
    for points in versions.values():
        first = (points & -points).bit_length() - 1
        state = CrashState.at(timeline, first, initial)
        if any(timeline.pending_parts(unit, first) > _MOST_CONTENTS for unit in units):
            raise _TooMany
        for values, _ in possible_values(state, [(unit, FULL) for unit in units]):
            contents[values] = contents.get(values, 0) | points
            if len(contents) > _MOST_CONTENTS or (len(contents) % 256 == 0 and time.monotonic() > deadline):
                raise _TooMany
    result: dict[int, int] = {}
    for points in contents.values():
        result[points] = result.get(points, 0) + 1
    return result
