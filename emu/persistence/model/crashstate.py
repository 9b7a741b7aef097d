"""One crash, seen by whoever reads the memory after it: what can these bytes hold, given what was read before?

A ``CrashState`` is a set of possible memories, described by what is known of each cell. Reading bytes splits it: one
``CrashState`` for each value that they can have. A second crash, during recovery, adds a ``Layer`` on top.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from emu.persistence.model.events import UNIT, page_of
from emu.persistence.model.pending import Content
from emu.persistence.model.timeline import Timeline

Initial = Callable[[int], int]
"""The content of a unit before anything ran: its 8 bytes as a little-endian number."""

Read = tuple[int, int, int]
"""``(unit, mask, value)`` of one read of bytes that nothing in this run had read or stored before."""


FULL = (1 << 8 * UNIT) - 1


def content_of(unit: int, content: Content, initial: Initial) -> int:
    """The 8 bytes of a unit, of which ``content`` was stored."""
    mask, value = content
    return value if mask == FULL else initial(unit) & ~mask | value


@dataclass(frozen=True, slots=True)
class Layer:
    """One power failure: the trace that it ended, and where."""

    timeline: Timeline
    point: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and self.timeline is other.timeline and self.point == other.point

    def __hash__(self) -> int:
        return hash((id(self.timeline), self.point))


Ranges = tuple[tuple[int, int], ...]
"""A set of numbers as closed ranges, in order and apart."""


class Known(NamedTuple):
    """What reads have told about one cell in one layer: pages that were (not) lost; for each component the cuts still
    possible and, where these do not say it, the numbers of persisted parts still possible in a unit.
    """

    lost: tuple[tuple[int, bool], ...] = ()
    cuts: tuple[tuple[int, Ranges], ...] = ()
    parts: tuple[tuple[int, Ranges], ...] = ()


_NOTHING_KNOWN = Known()


def _put(pairs: tuple[tuple[int, Ranges], ...], key: int, value: Ranges) -> tuple[tuple[int, Ranges], ...]:
    return tuple(sorted({**dict(pairs), key: value}.items())) if pairs else ((key, value),)


def _clip(ranges: Ranges, low: int, high: int) -> Ranges:
    return tuple([(max(first, low), min(last, high)) for first, last in ranges if first <= high and low <= last])


def _join(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Ranges in order of their beginnings, those that touch or overlap made one."""
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class CrashState:
    """A set of possible memories. ``known`` maps a cell to its alternatives: one ``Known`` per layer, lowest first."""

    initial: Initial
    layers: tuple[Layer, ...]
    known: Mapping[int, tuple[tuple[Known, ...], ...]]

    @classmethod
    def at(cls, timeline: Timeline, point: int, initial: Initial) -> CrashState:
        """Everything that is possible at crash point ``point`` of ``timeline``."""
        return cls(initial, (Layer(timeline, point),), {})

    def crash_again(self, timeline: Timeline, point: int) -> CrashState:
        """The memories after a second crash, at ``point`` of the trace of a recovery that started from this state."""
        return CrashState(self.initial, (*self.layers, Layer(timeline, point)), self.known)

    def read(self, unit: int, mask: int) -> list[tuple[int, CrashState]]:
        """Each value that the bytes of ``unit`` under ``mask`` can have, with the memories in which they have it.

        The order is that of the events: the value that persisted first comes first.
        """
        certain = self._certain(unit)
        if certain is not None:
            return [(certain & mask, self)]
        cell = self.layers[-1].timeline.rules.cell(unit)
        alternatives = self.known.get(cell, ((),))
        values: dict[int, dict[tuple[Known, ...], None]] = {}
        for alternative in alternatives:
            padded = alternative + (_NOTHING_KNOWN,) * (len(self.layers) - len(alternative))
            for value, known in self._read_layer(len(self.layers) - 1, padded, unit, mask):
                values.setdefault(value, {})[known] = None
        if len(values) == 1:
            return [(value, self) for value in values]
        return [
            (value, CrashState(self.initial, self.layers, {**self.known, cell: tuple(known)}))
            for value, known in values.items()
        ]

    def after(self, path: Iterable[Read]) -> CrashState | None:
        """The memories from which recovery can read ``path``; None if there is none."""
        state = self
        for unit, mask, value in path:
            found = next((left for seen, left in state.read(unit, mask) if seen == value), None)
            if found is None:
                return None
            state = found
        return state

    def _certain(self, unit: int) -> int | None:
        """The content of a unit that can hold only one, where that is quickly seen: most reads are of such units."""
        if len(self.layers) > 1:
            return None
        layer = self.layers[0]
        since, contents = layer.timeline.settled(unit)
        content = contents[bisect_right(since, layer.point) - 1]
        return None if content is None else content_of(unit, content, self.initial)

    def _read_layer(
        self, number: int, known: tuple[Known, ...], unit: int, mask: int
    ) -> Iterator[tuple[int, tuple[Known, ...]]]:
        if number < 0 or not mask:
            yield (self.initial(unit) & mask if mask else 0), known
            return
        for (covered, value), learned in _read_one(self.layers[number], known[number], unit, mask):
            above = (*known[:number], learned, *known[number + 1 :])
            for below, result in self._read_layer(number - 1, above, unit, mask & ~covered):
                yield value | below, result

    def losses(self, unit: int) -> tuple[bool, bool]:
        """Of the cell of ``unit`` at the last crash: whether something is known to be lost that had been stored before,
        and whether something that was pending is known to have persisted.
        """
        layer = self.layers[-1]
        number, rules = len(self.layers) - 1, layer.timeline.rules
        alternatives = [
            known[number] if number < len(known) else _NOTHING_KNOWN
            for known in self.known.get(rules.cell(unit), ((),))
        ]
        return (
            not any(_may_be_whole(layer, known) for known in alternatives),
            not any(_may_be_empty(known) for known in alternatives),
        )

    def value(self, unit: int, mask: int) -> int | None:
        """The value of the bytes if they can have only one."""
        values = self.read(unit, mask)
        return values[0][0] if len(values) == 1 else None

    def units(self) -> list[int]:
        """Every unit that can differ from its initial content, in order."""
        return sorted({unit for layer in self.layers for unit in layer.timeline.units_at(layer.point)})


def _read_one(layer: Layer, known: Known, unit: int, mask: int) -> Iterator[tuple[Content, Known]]:
    """The bytes under ``mask`` that this layer decides, in every way that it can, and what each way tells."""
    timeline, point = layer.timeline, layer.point
    if timeline.rules.pages_can_be_lost and timeline.page_stored(page_of(unit), point):
        page = page_of(unit)
        lost = dict(known.lost).get(page)
        if lost is not False:
            yield (0, 0), known if lost else known._replace(lost=tuple(sorted((*known.lost, (page, True)))))
        if lost:
            return
        if lost is None:
            known = known._replace(lost=tuple(sorted((*known.lost, (page, False)))))
    key = timeline.rules.component(unit)
    component = timeline.component(key, point)
    pending = component.units.get(unit) if component else None
    if component is None or pending is None:
        covered, value = timeline.durable(unit, point)
        yield (covered & mask, value & covered & mask), known
        return
    cuts = dict(known.cuts).get(key, ((0, component.length),))
    allowed = dict(known.parts).get(unit, ((0, pending.length),))
    lows, highs = pending.spans(component)
    values: dict[Content, list[tuple[int, int]]] = {}
    # How many parts persisted: for all numbers that the cuts allow, joined where neighbours show the same.
    for first, last in _numbers(lows, highs, cuts, allowed):
        for m in range(first, last + 1):
            covered, value = pending.contents[m]
            runs = values.setdefault((covered & mask, value & covered & mask), [])
            if runs and runs[-1][1] == m - 1:
                runs[-1] = runs[-1][0], m
            else:
                runs.append((m, m))
    if len(values) == 1:
        for seen in values:
            yield seen, known
        return
    for seen, runs in values.items():
        possible = _join(part for first, last in runs for part in _clip(cuts, lows[first], highs[last]))
        learned = Known(known.lost, _put(known.cuts, key, possible), known.parts)
        numbers = tuple(runs)
        if _numbers(lows, highs, possible, allowed) != numbers:
            learned = Known(known.lost, learned.cuts, _put(known.parts, unit, numbers))
        yield seen, learned


def _may_be_whole(layer: Layer, known: Known) -> bool:
    """Whether everything may have persisted of what a cell had pending."""
    if any(lost for _, lost in known.lost):
        return False
    for key, cuts in known.cuts:
        component = layer.timeline.component(key, layer.point)
        if component is not None and cuts[-1][1] < component.length:
            return False
    for unit, numbers in known.parts:
        component = layer.timeline.component(layer.timeline.rules.component(unit), layer.point)
        if component is not None and numbers[-1][1] < component.units[unit].length:
            return False
    return True


def _may_be_empty(known: Known) -> bool:
    """Whether nothing may have persisted of what a cell had pending."""
    return all(ranges[0][0] == 0 for _, ranges in (*known.cuts, *known.parts))


def _numbers(lows: list[int], highs: list[int], cuts: Ranges, allowed: Ranges) -> Ranges:
    """The numbers of persisted parts, among ``allowed``, that at least one of ``cuts`` allows."""
    ranges = ((bisect_left(highs, low), bisect_right(lows, high) - 1) for low, high in cuts)
    possible = _join((first, last) for first, last in ranges if first <= last)
    return _join(part for first, last in possible for part in _clip(allowed, first, last))


def possible_values(
    state: CrashState, ranges: Iterable[tuple[int, int]]
) -> Iterator[tuple[tuple[int, ...], CrashState]]:
    """Every combination of values of the ``(unit, mask)`` ranges, with the memories in which they have it."""
    wanted = list(ranges)
    stack: list[tuple[tuple[int, ...], CrashState]] = [((), state)]
    while stack:
        values, here = stack.pop()
        if len(values) == len(wanted):
            yield values, here
        else:
            unit, mask = wanted[len(values)]
            stack.extend(((*values, value), after) for value, after in reversed(here.read(unit, mask)))


def memories(state: CrashState) -> Iterator[dict[int, int]]:
    """Every possible memory, as the content of each unit that can differ from its initial one."""
    units = state.units()
    for values, _ in possible_values(state, [(unit, FULL) for unit in units]):
        yield dict(zip(units, values, strict=True))
