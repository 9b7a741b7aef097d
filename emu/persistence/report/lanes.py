"""What became of each cache line, event by event: the picture of a trace that reports draw.

A line is dirty while it has a store that nothing is on its way to make durable, flush pending while all that is
missing is a fence, and durable otherwise. The states are those of the model (``PersistState``), never guessed here.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from emu.config import PersistenceDomain
from emu.persistence.model.events import (
    UNIT,
    Event,
    Fence,
    Flush,
    FlushKind,
    LabelWrite,
    Store,
    Told,
    WriteBack,
    line_of,
)
from emu.persistence.model.rules import FailedCas, Media, Rules
from emu.persistence.model.timeline import PersistState
from emu.units import CACHE_LINE

MOST_EVENTS = 2000
MOST_LINES = 200
_AROUND = 48
_MOST_CLEAN = 8


class LineState(enum.StrEnum):
    """How far the newest stores to a cache line have come."""

    UNTOUCHED = "untouched"
    DIRTY = "dirty"
    WAITING = "flush pending"
    DURABLE = "durable"


@dataclass(slots=True)
class Lane:
    """One cache line: its state from ``since[i]`` (an event's number, just after it) is ``states[i]``; ``marks`` are
    the numbers of the shown stores to it and flushes of it.
    """

    line: int
    since: list[int] = field(default_factory=list)
    states: list[LineState] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)

    def after(self, event: int) -> LineState:
        """The state just after ``event``; -1 is before the first."""
        at = bisect_right(self.since, event)
        return self.states[at - 1] if at else LineState.UNTOUCHED

    def is_busy(self, window: range) -> bool:
        """Whether there is anything to see in these events: a mark, or a store that is not durable."""
        at = bisect_right(self.since, window.start)
        return (
            any(number in window for number in self.marks)
            or self.after(window.start - 1) in (LineState.DIRTY, LineState.WAITING)
            or (at < len(self.since) and self.since[at] in window)
        )


@dataclass(frozen=True, slots=True)
class Picture:
    """The shown events as windows in order, the shown lines lowest first, and what was left out. Many lines that are
    flushed but never stored to (``clean_left_out``) would only hide the others.
    """

    windows: tuple[range, ...]
    lanes: tuple[Lane, ...]
    events_left_out: int
    lines_left_out: int
    clean_left_out: int


def draw(events: Sequence[Event], rules: Rules, interesting: Iterable[int]) -> Picture:
    """The picture of a trace; a long one is cut to what lies around the ``interesting`` events."""
    numbers = sorted({number for number in interesting if 0 <= number < len(events)})
    windows = _windows(len(events), numbers)
    found = _lines(events, windows, numbers)
    until = events[: windows[-1].stop] if windows else ()
    stored = {line for event in until if isinstance(event, Store | LabelWrite) for line in lines_of(event)}
    clean = [line for line in found if line not in stored]
    if len(clean) > _MOST_CLEAN:
        found = [line for line in found if line in stored]
    else:
        clean = []
    lanes = _replay(until, rules, sorted(found[:MOST_LINES]), windows)
    count = sum(len(window) for window in windows)
    return Picture(tuple(windows), tuple(lanes), len(events) - count, max(0, len(found) - MOST_LINES), len(clean))


def _windows(count: int, interesting: Sequence[int]) -> list[range]:
    if count <= MOST_EVENTS or not interesting:
        return [range(min(count, MOST_EVENTS))] if count else []
    windows: list[range] = []
    room = MOST_EVENTS
    for number in interesting:
        start = max(number - _AROUND, windows[-1].stop if windows else 0)
        stop = min(max(number + _AROUND, start), count, start + room)
        room -= stop - start
        if windows and windows[-1].stop == start:
            windows[-1] = range(windows[-1].start, stop)
        elif stop > start:
            windows.append(range(start, stop))
    return windows


def lines_of(event: Event) -> range:
    """The cache lines that an event stores to or flushes; those of the label area, for a write to it."""
    if isinstance(event, Store | LabelWrite):
        return range(line_of(event.address), event.address + len(event.data), CACHE_LINE)
    return range(event.line, event.line + 1) if isinstance(event, Flush) else range(0)


def _lines(events: Sequence[Event], windows: Sequence[range], first: Sequence[int]) -> list[int]:
    """The lines that shown events store to or flush: those of the ``first`` events, then in order of appearance."""
    found: dict[int, None] = {}
    for number in (*first, *(number for window in windows for number in window)):
        found.update(dict.fromkeys(lines_of(events[number])))
    return list(found)


def _replay(events: Sequence[Event], rules: Rules, shown: Sequence[int], windows: Sequence[range]) -> list[Lane]:
    lanes = {line: Lane(line) for line in shown}
    state = PersistState(rules)
    last_store: dict[int, int] = {}
    last_flush: dict[int, int] = {}
    waiting: set[int] = set()

    def look_again(lines: Iterable[int], number: int) -> None:
        for line in lines:
            lane = lanes[line]
            flushed = last_store.get(line, -1) < last_flush.get(line, -1)
            now, waits = _state_of(state, line, flushed)
            (waiting.add if waits else waiting.discard)(line)
            if now is not lane.after(number):
                lane.since.append(number)
                lane.states.append(now)

    current = iter(windows)
    window = next(current, range(0))
    for number, event in enumerate(events):
        state.apply(event)
        if number >= window.stop:
            window = next(current, range(0))
        own = [line for line in lines_of(event) if line in lanes]
        for line in own:
            if number in window:
                lanes[line].marks.append(number)
            if isinstance(event, Store | LabelWrite):
                if isinstance(event, Store) and not event.nt:
                    last_store[line] = number
            else:
                last_flush[line] = number
        if own:
            look_again(own, number)
        if isinstance(event, WriteBack):
            look_again(lanes, number)
        elif _commits_others(event, rules):
            look_again(list(waiting), number)
    return list(lanes.values())


def _commits_others(event: Event, rules: Rules) -> bool:
    if isinstance(event, Fence):
        return not (event.failed and rules.failed_cas is FailedCas.LOAD)
    if rules.domain is not PersistenceDomain.EADR or not isinstance(event, Store | Flush | Told):
        return False
    # Under eADR these drain the store buffer: what becomes durable takes everything stored before it along.
    if isinstance(event, Told):
        return True
    return event.locked if isinstance(event, Store) else event.kind is FlushKind.CLFLUSH


def _state_of(state: PersistState, line: int, flushed: bool) -> tuple[LineState, bool]:
    """The line's state, and whether a fence could change it."""
    rules = state.rules
    regular = waits = stored = False
    for unit in range(line, line + CACHE_LINE, UNIT):
        stored = stored or unit in state.durable
        component = state.components.get(rules.component(unit))
        entry = component.units.get(unit) if component else None
        if entry is not None and entry.parts:
            regular = regular or entry.regular > 0
            waits = waits or len(entry.parts) > entry.regular
    if rules.media is Media.PAGE_CACHE:
        return (LineState.DIRTY if regular or waits else LineState.UNTOUCHED), False
    if regular and rules.domain is PersistenceDomain.ADR and not flushed:
        return LineState.DIRTY, waits
    if regular or waits:
        return LineState.WAITING, True
    return (LineState.DURABLE if stored else LineState.UNTOUCHED), False
