"""Counterfactuals: a trace with one repair put in, and whether a failing recovery is still possible after it.

A repair is an edit of the trace: a fence or a flush more, a store moved behind another one, stores that take effect
together. The edited trace is judged by the same model, so whether a repair repairs is computed, not guessed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from emu.config import PersistenceDomain
from emu.persistence.model.crashstate import CrashState, Initial, Read
from emu.persistence.model.events import (
    Event,
    Fence,
    FenceKind,
    Flush,
    FlushKind,
    Store,
    WriteBack,
    Written,
    line_of,
    split,
)
from emu.persistence.model.rules import Media, Rules
from emu.persistence.model.timeline import Timeline, build

Step = tuple[int, Event | None]
"""An event of an edited trace, behind the number of the original event that comes next or that it is. None stands for
the host's write-back of everything, which a guest on a page cache can only ask for outside of the trace.
"""


@dataclass(frozen=True, slots=True)
class _View:
    """A part of an edited trace: its crash points and, for each, the original event that power fails before."""

    timeline: Timeline
    initial: Initial
    points: tuple[tuple[int, int], ...]


class Repair:
    """An edited trace. Recoveries are given by the ``path`` of what they read."""

    def __init__(self, views: Sequence[_View]) -> None:
        self._views = views

    def rules_out(self, path: Sequence[Read], after: int) -> bool:
        """Whether no crash behind the original event ``after`` lets recovery read ``path``."""
        return not any(
            event > after and CrashState.at(view.timeline, number, view.initial).after(path) is not None
            for view in self._views
            for number, event in view.points
        )


class Editor:
    """Makes the repairs of one trace. Each reaches up to a crash: power fails before event ``crash`` at the latest."""

    def __init__(self, events: Sequence[Event], rules: Rules, initial: Initial) -> None:
        self._events = events
        self._rules = rules
        self._initial = initial
        self._flushes: dict[int, list[int]] = {}
        self._write_backs: list[int] = []  # of every line
        for number, event in enumerate(events):
            if isinstance(event, Flush):
                self._flushes.setdefault(event.line, []).append(number)
            elif isinstance(event, WriteBack):
                self._write_backs.append(number)

    def journalled(self, crash: int) -> Repair:
        """The mapping is made with MAP_SYNC."""
        return self._repair(self._steps(0, crash), crash, replace(self._rules, media=Media.DAX_SYNC))

    def fenced(self, stores: Iterable[int], crash: int) -> Repair | None:
        """A fence after each of ``stores``: behind the flush that follows it where it needs one; None if none does."""
        places = set[int]()
        for number in self._like(stores, crash):
            store = self._events[number]
            if not isinstance(store, Store):  # a label write, durable by itself
                continue
            if store.nt or self._rules.domain is PersistenceDomain.EADR:
                places.add(number)
            else:
                flushes = (self.flush_after(number, line, crash) for line in self.lines(number))
                places.update(place for place in flushes if place is not None)
        if not places or not self._rules.flushes_count:
            return None
        return self._repair(self._inserted({place: [Fence(FenceKind.SFENCE)] for place in places}, crash), crash)

    def durable(self, stores: Iterable[int], crash: int) -> Repair:
        """Each of ``stores`` is made durable right after it."""
        edits = {number: self._make_durable([number]) for number in self._like(stores, crash)}
        return self._repair(self._inserted(edits, crash), crash)

    def removed(self, stores: Iterable[int], crash: int) -> Repair:
        """``stores`` do not reach the persistent memory at all."""
        gone = set(self._like(stores, crash))
        return self._repair([step for step in self._steps(0, crash) if step[0] not in gone], crash)

    def moved(self, store: int, behind: Sequence[int], crash: int) -> Repair:
        """``store`` is made only after those ``behind`` which it goes are durable."""
        last = max(behind)
        steps = [*self._steps(0, store), *self._steps(store + 1, last + 1)]
        steps += [(last + 1, event) for event in self._make_durable(behind)]
        steps += [(last + 1, self._events[store]), *self._steps(last + 1, crash)]
        return self._repair(steps, max(crash, last + 1))

    def together(self, stores: Iterable[int], crash: int) -> Repair:
        """``stores`` take effect at once, durably, where the last of them is."""
        whole = set(stores)
        last = max(whole)
        before = [step for step in self._steps(0, min(crash, last + 1)) if step[0] not in whole]
        views = list(self._views(before, min(crash, last + 1), self._rules))
        if crash > last:
            # And from there on: crash points before they are durable do not exist.
            inserted: list[Step] = [(last + 1, event) for event in self._make_durable(sorted(whole))]
            steps = [*self._steps(0, last + 1), *inserted, *self._steps(last + 1, crash)]
            views += self._views(steps, crash, self._rules, first=last + 1 + len(inserted))
        return Repair(views)

    def flushes_help(self, stores: Iterable[int]) -> bool:
        """Whether a flush can make any of ``stores`` durable: not where caches survive, nor past them."""
        if self._rules.domain is PersistenceDomain.EADR or not self._rules.flushes_count:
            return False
        return any(isinstance(store, Store) and not store.nt for store in map(self._events.__getitem__, stores))

    def lines(self, number: int) -> list[int]:
        """The cache lines of a store; a label write has none."""
        store = self._events[number]
        if not isinstance(store, Store):
            return []
        return list(dict.fromkeys(line_of(unit) for unit, _, _ in split(store.address, store.data)))

    def flush_after(self, number: int, line: int, end: int | None = None) -> int | None:
        """The first flush of ``line`` after event ``number`` and before event ``end``."""
        first = None
        for flushes in (self._flushes.get(line, []), self._write_backs):
            at = bisect_right(flushes, number)
            if at < len(flushes) and (end is None or flushes[at] < end):
                first = end = flushes[at]
        return first

    def flushed_before(self, number: int, line: int) -> bool:
        """Whether ``line`` was ever flushed before event ``number``."""
        return any(flushes and flushes[0] < number for flushes in (self._flushes.get(line), self._write_backs))

    def _like(self, stores: Iterable[int], crash: int) -> list[int]:
        """``stores`` and all that the same instructions made: a program is repaired in its source."""
        numbers = set(stores)
        places = {self._events[number].pc for number in numbers} - {0}
        same = (n for n, event in enumerate(self._events[:crash]) if isinstance(event, Store) and event.pc in places)
        return sorted(numbers.union(same))

    def _make_durable(self, stores: Iterable[int]) -> list[Event | None]:
        if not self._rules.flushes_count:
            return [None]
        fence: list[Event | None] = [Fence(FenceKind.SFENCE)]
        if self._rules.domain is PersistenceDomain.EADR:
            return fence
        lines = dict.fromkeys(line for number in stores for line in self.lines(number))
        return [Flush(line, FlushKind.CLWB) for line in lines] + fence

    def _steps(self, first: int, end: int) -> list[Step]:
        return list(zip(range(first, end), self._events[first:end], strict=False))

    def _inserted(self, edits: Mapping[int, Sequence[Event | None]], crash: int) -> list[Step]:
        """The trace with what ``edits`` puts behind each event."""
        steps: list[Step] = []
        for number, event in self._steps(0, crash):
            steps.append((number, event))
            steps += [(number + 1, new) for new in edits.get(number, ())]
        return steps

    def _repair(self, steps: Sequence[Step], end: int, rules: Rules | None = None) -> Repair:
        return Repair(list(self._views(steps, end, rules or self._rules)))

    def _views(self, steps: Sequence[Step], end: int, rules: Rules, first: int = 0) -> Iterator[_View]:
        """The parts between write-backs of everything; without the crash points before step ``first``."""
        cuts = [at for at, (_, event) in enumerate(steps) if event is None]
        initial, start = self._initial, 0
        for stop in (*cuts, len(steps)):
            part = [event for _, event in steps[start:stop] if event is not None]
            timeline = build(part, rules)
            events = [event for event, _ in steps[start:stop]] + [steps[stop][0] if stop < len(steps) else end]
            points = tuple((p.number, events[p.event]) for p in timeline.points if start + p.event >= first)
            yield _View(timeline, initial, points)
            initial, start = _after(part, initial), stop + 1


def _after(events: Iterable[Event], initial: Initial) -> Initial:
    """The content of each unit once all of ``events`` persisted."""
    contents: dict[int, int] = {}
    for event in events:
        if isinstance(event, Written):
            for unit, mask, value in split(event.address, event.data):
                contents[unit] = contents.get(unit, initial(unit)) & ~mask | value
    return lambda unit: contents[unit] if unit in contents else initial(unit)
