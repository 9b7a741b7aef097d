"""Counterfactuals: a trace with one repair put in, and whether a failing recovery is still possible after it.

A repair is an edit of the trace: a fence or a flush more, a store moved behind another one, stores that take effect
together. The edited trace is judged by the same model, so whether a repair repairs is computed, not guessed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace

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
from emu.persistence.model.timeline import Timeline, TimelineBuilder

Step = tuple[int, Event | None]
"""An event of an edited trace, behind the number of the original event that comes next or that it is. None stands for
the host's write-back of everything, which a guest on a page cache can only ask for outside of the trace.
"""


Spend = Callable[[int], object]
"""Told of steps of work."""

_STEPS_OF_AN_EVENT, _STEPS_OF_A_POINT = 5, 10


def _for_nothing(steps: int) -> None:
    """Whoever does not count."""


class _Edit:
    """An edited trace, whose ``steps`` are applied as far as somebody asks, up to event ``end`` at least. The trace
    begins anew, with what persisted, behind each write-back of everything; there are no crash points before step
    ``first``. Besides the crash points of the edited trace there is one before each of the ``points`` among the
    original ``events``.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        rules: Rules,
        initial: Initial,
        *,
        end: int = 0,
        first: int = 0,
        events: Sequence[Event] = (),
        points: Container[int] = (),
        spend: Spend = _for_nothing,
    ) -> None:
        self._spend = spend
        self._steps = iter(steps)
        self._rules = rules
        self._contents = _Contents(initial)
        self._end = end
        self._first = first
        self._events = events
        self._points = points
        self._taken = 0
        self._next: Step | None = next(self._steps, None)
        self._builder, self._initial = TimelineBuilder(rules), initial
        # In order: the original event that power fails before, and where its memories are.
        self._crashes: list[int] = []
        self._memories: list[tuple[Timeline, int, Initial]] = []

    def allows(self, path: Sequence[Read], after: int, until: int) -> bool:
        """Whether some crash behind the original event ``after``, up to ``until``, lets recovery read ``path``."""
        until = max(until, self._end)
        taken = self._taken
        self._grow(until)
        self._spend(1 + (self._taken - taken) * _STEPS_OF_AN_EVENT)
        for at in range(bisect_right(self._crashes, after), bisect_right(self._crashes, until)):
            self._spend(_STEPS_OF_A_POINT)
            timeline, number, initial = self._memories[at]
            if CrashState.at(timeline, number, initial).after(path) is not None:
                return True
        return False

    def _grow(self, until: int) -> None:
        """Apply all that comes before the original event ``until``."""
        if self._crashes and self._crashes[-1] >= until:
            return
        while self._next is not None:
            tag, event = self._next
            original = tag < len(self._events) and event is self._events[tag]
            if original and tag >= until:
                break
            if event is None:
                self._crash_point(tag)
                self._builder, self._initial = TimelineBuilder(self._rules), self._contents.so_far()
            else:
                if self._builder.state.commits(event) or (original and tag in self._points):
                    self._crash_point(tag)
                self._builder.state.apply(event)
                self._contents.apply(event)
            self._next = next(self._steps, None)
            self._taken += 1
        self._crash_point(until)

    def _crash_point(self, before: int) -> None:
        point = self._builder.crash_point()
        if self._taken >= self._first:
            self._crashes.append(before)
            self._memories.append((self._builder.timeline, point.number, self._initial))


class _Contents:
    """What a trace leaves in each unit where everything persists, as of each moment that was asked for."""

    def __init__(self, initial: Initial) -> None:
        self._initial = initial
        self._asked = 0
        self._stored: dict[int, tuple[list[int], list[int]]] = {}  # since which moment, and what

    def apply(self, event: Event) -> None:
        if isinstance(event, Written):
            for unit, mask, value in split(event.address, event.data):
                since, contents = self._stored.setdefault(unit, ([], []))
                before = contents[-1] if contents else self._initial(unit)
                if not since or since[-1] != self._asked:
                    since.append(self._asked)
                    contents.append(before)
                contents[-1] = before & ~mask | value

    def so_far(self) -> Initial:
        moment = self._asked = self._asked + 1

        def content(unit: int) -> int:
            since, contents = self._stored.get(unit, _NEVER)
            at = bisect_left(since, moment)
            return contents[at - 1] if at else self._initial(unit)

        return content


_NEVER: tuple[list[int], list[int]] = [], []


class Repair:
    """Edits of a trace of which each covers some of the crash points. Recoveries are given by the ``path`` of what they
    read.
    """

    def __init__(self, *edits: _Edit) -> None:
        self._edits = edits

    def rules_out(self, path: Sequence[Read], after: int, until: int) -> bool:
        """Whether no crash behind the original event ``after``, up to ``until``, lets recovery read ``path``."""
        return not any(edit.allows(path, after, until) for edit in self._edits)


class Editor:
    """Makes the repairs of one trace. Those that add flushes or fences are for all of it, and made once for the same
    stores; the others reach up to a crash: power fails before event ``crash`` at the latest. ``points`` are the
    events that power can fail before; ``spend`` is told of the work, in steps of a microsecond, and may end it.
    """

    def __init__(
        self,
        events: Sequence[Event],
        rules: Rules,
        initial: Initial,
        points: Container[int],
        spend: Spend = _for_nothing,
    ) -> None:
        self._events = events
        self._rules = rules
        self._initial = initial
        self._points = points
        self._spend = spend
        self._made: dict[tuple[str, frozenset[int]], Repair] = {}
        self._flushes: dict[int, list[int]] = {}
        self._write_backs: list[int] = []  # of every line
        for number, event in enumerate(events):
            if isinstance(event, Flush):
                self._flushes.setdefault(event.line, []).append(number)
            elif isinstance(event, WriteBack):
                self._write_backs.append(number)

    def journalled(self, crash: int) -> Repair:
        """The mapping is made with MAP_SYNC."""
        return self._up_to(crash, self._steps(0, crash), replace(self._rules, media=Media.DAX_SYNC))

    def fenced(self, stores: Iterable[int]) -> Repair | None:
        """A fence after each of ``stores``: behind the flush that follows it where it needs one. None where flushes and
        fences mean nothing.
        """
        return self._throughout("fence", stores, self._fenced) if self._rules.flushes_count else None

    def fenced_before(self, event: int) -> Repair:
        """A fence before this event, and before all of the same instruction."""
        return self._throughout("before", [event], self._fenced_before)

    def durable(self, stores: Iterable[int]) -> Repair:
        """Each of ``stores`` is made durable right after it."""
        return self._throughout("durable", stores, self._made_durable)

    def removed(self, stores: Iterable[int], crash: int) -> Repair:
        """``stores`` do not reach the persistent memory at all."""
        is_one = self._is_like(stores)
        return self._up_to(crash, [step for step in self._steps(0, crash) if not is_one(step[0])])

    def moved(self, store: int, behind: Sequence[int], crash: int) -> Repair:
        """``store`` is made only after those ``behind`` which it goes are durable."""
        last = max(behind)
        steps = [*self._steps(0, store), *self._steps(store + 1, last + 1)]
        steps += [(last + 1, event) for event in self._make_durable(behind)]
        steps += [(last + 1, self._events[store]), *self._steps(last + 1, crash)]
        return self._up_to(max(crash, last + 1), steps)

    def together(self, stores: Iterable[int], crash: int) -> Repair:
        """``stores`` take effect at once, durably, where the last of them is."""
        whole = set(stores)
        last = max(whole)
        end = min(crash, last + 1)
        before = _Edit(
            [step for step in self._steps(0, end) if step[0] not in whole],
            self._rules, self._initial, end=end, spend=self._spend,
        )  # fmt: skip
        if crash <= last:
            return Repair(before)
        # And from there on: crash points before they are durable do not exist.
        inserted: list[Step] = [(last + 1, event) for event in self._make_durable(sorted(whole))]
        steps = [*self._steps(0, last + 1), *inserted, *self._steps(last + 1, crash)]
        first = last + 1 + len(inserted)
        return Repair(before, _Edit(steps, self._rules, self._initial, end=crash, first=first, spend=self._spend))

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

    def flush_after(self, number: int, line: int) -> int | None:
        """The first flush of ``line`` after event ``number``."""
        first = None
        for flushes in (self._flushes.get(line, []), self._write_backs):
            at = bisect_right(flushes, number)
            if at < len(flushes) and (first is None or flushes[at] < first):
                first = flushes[at]
        return first

    def flushed_before(self, number: int, line: int) -> bool:
        """Whether ``line`` was ever flushed before event ``number``."""
        return any(flushes and flushes[0] < number for flushes in (self._flushes.get(line), self._write_backs))

    def _places(self, stores: Iterable[int]) -> frozenset[int]:
        """The instructions that made ``stores``; one whose instruction is not known stands for itself, negative."""
        return frozenset(self._events[number].pc or -1 - number for number in stores)

    def _is_like(self, stores: Iterable[int]) -> Callable[[int], bool]:
        """Whether an event is one of ``stores``, or of the same instruction: a program is repaired in its source."""
        places, events = self._places(stores), self._events
        return lambda number: isinstance(events[number], Written) and (events[number].pc or -1 - number) in places

    def _throughout(
        self, what: str, stores: Iterable[int], edit: Callable[[Callable[[int], bool]], Iterator[Step]]
    ) -> Repair:
        key = what, self._places(stores)
        made = self._made.get(key)
        if made is None:
            steps = edit(self._is_like(stores))
            whole = _Edit(
                steps, self._rules, self._initial, events=self._events, points=self._points, spend=self._spend
            )
            made = self._made[key] = Repair(whole)
        return made

    def _fenced(self, is_one: Callable[[int], bool]) -> Iterator[Step]:
        due = set[int]()
        for number, event in enumerate(self._events):
            if is_one(number) and isinstance(event, Store):  # a label write is durable by itself
                if event.nt or self._rules.domain is PersistenceDomain.EADR:
                    due.add(number)
                else:
                    flushes = (self.flush_after(number, line) for line in self.lines(number))
                    due.update(flush for flush in flushes if flush is not None)
            yield number, event
            if number in due:
                yield number + 1, Fence(FenceKind.SFENCE)

    def _fenced_before(self, is_one: Callable[[int], bool]) -> Iterator[Step]:
        for number, event in enumerate(self._events):
            if is_one(number):
                yield number, Fence(FenceKind.SFENCE)
            yield number, event

    def _made_durable(self, is_one: Callable[[int], bool]) -> Iterator[Step]:
        for number, event in enumerate(self._events):
            yield number, event
            if is_one(number):
                yield from ((number + 1, new) for new in self._make_durable([number]))

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

    def _up_to(self, crash: int, steps: Iterable[Step], rules: Rules | None = None) -> Repair:
        return Repair(_Edit(steps, rules or self._rules, self._initial, end=crash, spend=self._spend))
