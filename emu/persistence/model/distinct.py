"""Counts the different memories over all crash points without listing them.

At one crash point the cells (see ``Rules``) are independent, so its memories are a product. A memory counts once even
if several crash points allow it. In a cell, units whose stores never wait in order with those of another are
independent, too; here each of these *groups* of units counts as a cell of its own.

Most cells never hold again what they held before: each of their contents is allowed by crash points that follow each
other without a gap. So is what all these cells hold together, and how many of their contents are allowed from point a
to point b, and by no other points, follows from products: those allowed at a and at b, less those that are allowed
before a or after b too. Only a few pairs (a, b) that lie close together have any. For each such pair the other cells,
whose contents come and go, are taken one after the other: contents that the same points allow are interchangeable, so
only their number matters for the cells that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

from emu.persistence.model.crashstate import FULL, CrashState, Initial, content_of, possible_values
from emu.persistence.model.timeline import Timeline

_MOST_CONTENTS = 1 << 16
_MOST_CLASSES = 1 << 18
_MOST_STEPS = 10_000_000  # of about a microsecond
_STEPS_OF_A_STATE = 10

Contents = frozenset[tuple[int, ...]]
"""What a cell can hold at one crash point."""


class _TooMany(Exception):
    pass


def count_distinct(
    timeline: Timeline, initial: Initial, *, steps: int = _MOST_STEPS, is_late: Callable[[], bool] = bool
) -> int | None:
    """The number of different memories; None when finding it would take more ``steps``: counted, so that the answer is
    the same on every host. None, too, once it ``is_late``.
    """
    try:
        return _Count(timeline, initial, steps, is_late).total()
    except _TooMany:
        return None


def _groups(timeline: Timeline) -> Iterator[list[int]]:
    """The units, by cells and, in these, by groups that are independent of each other at all crash points."""
    cells: dict[int, list[int]] = {}
    for unit in sorted(timeline.units):
        cells.setdefault(timeline.rules.cell(unit), []).append(unit)
    if timeline.rules.pages_can_be_lost:
        yield from cells.values()
        return
    for units in cells.values():
        group = {unit: unit for unit in units}  # to one of its group, and at last to itself

        def first(unit: int, group: dict[int, int] = group) -> int:
            while group[unit] != unit:
                unit = group[unit]
            return unit

        for ordered in timeline.ordered(units):
            for unit in ordered[1:]:
                group[first(unit)] = first(ordered[0])
        groups: dict[int, list[int]] = {}
        for unit in units:
            groups.setdefault(first(unit), []).append(unit)
        yield from groups.values()


class _Count:
    def __init__(self, timeline: Timeline, initial: Initial, steps: int, is_late: Callable[[], bool]) -> None:
        self._timeline = timeline
        self._initial = initial
        self._steps_left = steps
        self._is_late = is_late
        self._now: list[Contents] = []  # of each cell, at the crash point that is being looked at
        self._changes: list[dict[int, Contents]] = [{} for _ in timeline.points]
        self._returning: set[int] = set()  # cells of which a content is allowed again after it was not
        for number, units in enumerate(_groups(timeline)):
            self._look_at(number, units)

    def _look_at(self, number: int, units: Sequence[int]) -> None:
        gone: set[tuple[int, ...]] = set()
        before: Contents | None = None
        for point in self._timeline.changes_of(units):
            self._spend(len(units))
            contents = self._in_order(units, point) or self._in_any_order(units, point)
            if before is None:
                self._now.append(contents)
            elif contents != before:
                self._changes[point][number] = contents
                gone |= before - contents
                if not gone.isdisjoint(contents):
                    self._returning.add(number)
            before = contents

    def _in_order(self, units: Sequence[int], point: int) -> Contents | None:
        """What units of a group can hold where all that is pending of them persists one part after the other, which is
        the rule; None elsewhere.
        """
        timeline = self._timeline
        if timeline.rules.pages_can_be_lost:
            return None
        values, steps = [], []
        for place, unit in enumerate(units):
            component = timeline.component(timeline.rules.component(unit), point)
            entry = None if component is None else component.units.get(unit)
            below = timeline.durable(unit, point) if entry is None else entry.contents[0]
            values.append(content_of(unit, below, self._initial))
            if entry is None:
                continue
            if entry.length > _MOST_CONTENTS:
                raise _TooMany
            for part, content in zip(entry.parts[: entry.length], entry.contents[1:], strict=False):
                if part.nt and len(units) > 1:
                    return None
                steps.append((part.event, place, content))
        if len({event for event, _, _ in steps}) < len(steps):
            return None
        self._spend(len(steps) * len(units))
        found = {tuple(values)}
        for _, place, content in sorted(steps):
            values[place] = content_of(units[place], content, self._initial)
            found.add(tuple(values))
        return frozenset(found)

    def _in_any_order(self, units: Sequence[int], point: int) -> Contents:
        if any(self._timeline.pending_parts(unit, point) > _MOST_CONTENTS for unit in units):
            raise _TooMany
        found = set()
        state = CrashState.at(self._timeline, point, self._initial)
        self._spend(_STEPS_OF_A_STATE)
        for values, _ in possible_values(state, [(unit, FULL) for unit in units]):
            found.add(values)
            if len(found) > _MOST_CONTENTS:
                raise _TooMany
            self._spend(_STEPS_OF_A_STATE * len(units))
        return frozenset(found)

    def _spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0 or self._is_late():
            raise _TooMany

    def total(self) -> int:
        steady, returning = 1, 1  # contents of all cells of either kind, at the crash point that is being looked at
        for cell, contents in enumerate(self._now):
            if cell in self._returning:
                returning *= len(contents)
            else:
                steady *= len(contents)
        total, before = 0, dict[int, int]()
        for first, changes in enumerate(self._changes):
            for cell, contents in changes.items():
                if cell in self._returning:
                    returning = returning // len(self._now[cell]) * len(contents)
                else:
                    steady = steady // len(self._now[cell]) * len(contents)
                self._now[cell] = contents
            shared = dict(self._shared(first, steady))
            for last, count in shared.items():
                only = count - before.get(last, 0) - shared.get(last + 1, 0) + before.get(last + 1, 0)
                if only:
                    total += only * self._others(first, last, returning)
            before = shared
        return total

    def _shared(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """For each crash point from ``first`` on, how many contents of the cells that never return are allowed from
        there to it, until there are none. ``count`` are allowed at ``first``.
        """
        left: dict[int, int] = {}
        yield first, count
        for last in range(first + 1, len(self._changes)):
            for cell, contents in self._changes[last].items():
                if cell not in self._returning:
                    both = len(self._now[cell] & contents)
                    count = count // left.get(cell, len(self._now[cell])) * both
                    left[cell] = both
                    if not count:
                        return
            self._spend(1 + len(self._changes[last]))
            yield last, count

    def _others(self, first: int, last: int, count: int) -> int:
        """How many contents of the cells that return are allowed by some crash point from ``first`` to ``last``.
        ``count`` are allowed at ``first``.
        """
        changed = {cell for at in range(first + 1, last + 1) for cell in self._changes[at] if cell in self._returning}
        same = count // prod(len(self._now[cell]) for cell in changed)
        # Classes of crash points that have allowed the same contents so far -> number of contents.
        classes: dict[int, int] = {(1 << last - first + 1) - 1: 1}
        for cell in changed:
            by_points = self._by_points(cell, first, last)
            merged: dict[int, int] = {}
            self._spend(len(classes) * len(by_points))
            for before, count in classes.items():
                for points, contents in by_points.items():
                    if both := before & points:
                        merged[both] = merged.get(both, 0) + count * contents
            if len(merged) > _MOST_CLASSES:
                raise _TooMany
            classes = merged
        return same * sum(classes.values())

    def _by_points(self, cell: int, first: int, last: int) -> Mapping[int, int]:
        """For each set of crash points (bit 0 for ``first``), how many contents of the cell exactly these allow."""
        allowed: dict[tuple[int, ...], int] = {}
        now = self._now[cell]
        for point in range(first, last + 1):
            now = self._changes[point].get(cell, now) if point > first else now
            for content in now:
                allowed[content] = allowed.get(content, 0) | 1 << point - first
        result: dict[int, int] = {}
        for points in allowed.values():
            result[points] = result.get(points, 0) + 1
        return result
