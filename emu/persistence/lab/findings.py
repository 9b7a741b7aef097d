"""From failing crash states to causes: the least losses that still fail, named (``naming``), one cause for one bug."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from emu.persistence.lab.explore import Exploration, Interrupted, Recovery, Result, Verdict
from emu.persistence.lab.grouping import Found, joined
from emu.persistence.lab.memories import Memories
from emu.persistence.lab.naming import (
    ATOMICITY,
    MISSING_FENCE,
    MISSING_FLUSH,
    MISSING_MAP_SYNC,
    ORDERING,
    PERSISTED_LOCK,
    RECOVERY_LOGIC,
    ROBUSTNESS,
    TORN,
    UNEXPLAINED,
    Cause,
    End,
    Namer,
)
from emu.persistence.lab.nested import InRecovery, Second, second_failure
from emu.persistence.model.crashstate import FULL, Initial, Read
from emu.persistence.model.events import Event
from emu.persistence.model.image import Image, PartId, candidates, example
from emu.persistence.model.repairs import Repair
from emu.persistence.model.timeline import Timeline

__all__ = [
    "ATOMICITY",
    "MISSING_FENCE",
    "MISSING_FLUSH",
    "MISSING_MAP_SYNC",
    "ORDERING",
    "PERSISTED_LOCK",
    "RECOVERY_LOGIC",
    "ROBUSTNESS",
    "TORN",
    "UNEXPLAINED",
    "Analyst",
    "Failure",
]

_MOST_FAILURES = 64
_MANY = 8  # stores: nobody can make more of them take effect at once


@dataclass(slots=True)
class Failure:
    """A cause of failing recoveries. ``lost`` are the numbers of the lost stores (the smallest set found; one that is
    not before the crash point had yet to be made), ``forced`` of those that their loss takes along; ``persisted`` is a
    store that did persist and should not have without them. ``event`` is the crash point (power fails just before it)
    that ``contents`` belongs to, ``events`` all where this was found. ``also`` are lost stores of other failing
    memories that the same bug explains.

    ``promise`` is an operation that had said that it was done, though what it stored could be lost. Where that is all,
    recovery was not asked, and ``verdict`` says so. ``gave_up``: no repair was found, or no small one.
    ``in_recovery``: power failed during recovery too, and it is recovery that must be repaired.
    """

    kind: str
    explanation: str
    event: int
    verdict: Verdict
    lost: tuple[int, ...]
    forced: tuple[int, ...] = ()
    lost_pages: tuple[int, ...] = ()
    persisted: int | None = None
    contents: dict[int, int] = field(default_factory=dict)
    uncertain_reads: tuple[int, ...] = ()
    events: set[int] = field(default_factory=set)
    promise: int | None = None
    also: tuple[int, ...] = ()
    gave_up: bool = False
    in_recovery: InRecovery | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The cause, and the class of bug that it is a case of."""
        ordering = self.kind in (MISSING_FLUSH, MISSING_FENCE) and self.persisted is not None
        return (self.kind, ORDERING) if ordering else (self.kind,)


def with_promises(failures: Sequence[Failure], unkept: Sequence[Failure], events: Sequence[Event]) -> list[Failure]:
    """``failures``, and those of ``unkept`` promises that no cause among them explains: the same store not durable."""

    def places(failure: Failure) -> set[int]:
        return {events[number].pc or -1 - number for number in (*failure.lost, *failure.also)}

    kinds = (MISSING_FLUSH, MISSING_FENCE)
    result = list(failures)
    for promise in unkept:
        same = [
            one for one in failures if one.kind in kinds and promise.kind in kinds and places(one) & places(promise)
        ]
        for cause in same[:1]:
            cause.promise = promise.promise
            cause.events |= promise.events
            cause.also = tuple(sorted({*cause.also, *promise.lost} - set(cause.lost)))
        if not same:
            result.append(promise)
    return result


class _OutOfTime(Exception):
    pass


class Analyst:
    """Explains the failures of one exploration by running recovery on chosen memories, for at most ``seconds``.

    Power failed from event ``first`` on.
    """

    def __init__(
        self,
        exploration: Exploration,
        timeline: Timeline,
        events: Sequence[Event],
        initial: Initial,
        recovery: Recovery,
        *,
        seconds: float = 20.0,
        first: int = 0,
    ) -> None:
        self._exploration = exploration
        self._timeline = timeline
        self._events = events
        self._initial = initial
        self._memories = Memories(exploration, events, initial, recovery)
        self._deadline = time.monotonic() + seconds
        self._namer = Namer(timeline, events, initial, self._memories, self._end, first=first)
        self._recovery = recovery
        self._nested: dict[tuple[object, ...], Found[Failure]] = {}
        self._found: dict[tuple[object, ...], Found[Failure]] = {}
        self._explained: set[tuple[Read, ...]] = set()
        self.unexplained = ""

    def explain(self) -> list[Failure]:
        """One ``Failure`` for each cause, the earliest crash point first. ``unexplained`` says what was left out."""
        failing = [result for result in self._exploration.results if result.leaf.verdict and not result.leaf.verdict.ok]
        by_point: dict[int, list[Result]] = {}
        for result in failing:
            for point in result.direct:
                by_point.setdefault(point, []).append(result)
        for result in failing:
            if not result.direct:
                self._explain_nested(result)
        try:
            for point in sorted(by_point):
                self._explain_point(point, by_point[point])
            for result in failing:
                if result.direct and result.leaf.path() not in self._explained:
                    self._reduce(result)
        except (_OutOfTime, Interrupted):
            open_ones = {result.leaf.path() for result in failing if result.direct} - self._explained
            self.unexplained = (
                f"the causes are not complete: the search for them was given up, {len(open_ones)} of the "
                f"{len({result.leaf.path() for result in failing})} failing states have none yet"
            )
        return self._joined()

    def look_at(self, result: Result) -> Failure | None:
        """The cause of one failing result, if it is a new one; None too where it takes too long to say."""
        if not result.direct or result.leaf.path() in self._explained:
            return None
        known = list(self._found.values())
        try:
            self._reduce(result)
        except (_OutOfTime, Interrupted):
            return None
        new = [found for found in self._found.values() if found not in known]
        if not new or any(found.repairs(new[0]) or found.shares(new[0]) for found in known):
            return None
        return new[0].failure

    def _joined(self) -> list[Failure]:
        """One failure for each bug."""
        failures = []
        for group in joined(list(self._found.values())):
            failure = group[0].failure
            lost = {number for one in group for number in (*one.failure.lost, *one.failure.also)}
            failure.also = tuple(sorted(lost - set(failure.lost)))
            if failure.kind == ATOMICITY and len(lost) > _MANY:
                failure.gave_up = True
                failure.explanation += (
                    f"; a smaller repair than for {len(lost)} stores was not found, so this was given up"
                )
            failure.events.update(*(one.failure.events for one in group))
            failures.append(failure)
        return sorted(failures, key=lambda failure: (failure.event, failure.lost, failure.kind))

    def _explain_point(self, point: int, results: list[Result]) -> None:
        """The least losses that fail at one crash point, and for which of the failing results they stand."""
        paths = {result.leaf.path() for result in results}
        read = {unit for path in paths for unit, _, _ in path}
        whole = Image(self._timeline, self._initial, point)
        if self._fails(whole):
            repairs = [self._note(whole, read)]
        else:
            parts = candidates(self._timeline, point, read)
            found = [root for root in parts if self._fails(self._without(point, [root]))]
            pages = [page for page in self._pages(point) if self._fails(self._without(point, [], [page]))]
            lost = {root: set(self._without(point, [root]).lost()) for root in found}
            least = [root for root in found if not any(lost[other] < lost[root] for other in found)]
            repairs = [self._note(self._without(point, [], [page]), read) for page in pages]
            repairs += [self._note(self._without(point, [root]), read) for root in least]
        for path in paths - self._explained:
            after = self._namer.begin(path, point)
            if any(repair is not None and repair.rules_out(path, after) for repair in repairs):
                self._explained.add(path)

    def _pages(self, point: int) -> list[int]:
        return self._timeline.pages_stored(point) if self._timeline.rules.pages_can_be_lost else []

    def _without(self, point: int, roots: Iterable[PartId], pages: Iterable[int] = ()) -> Image:
        return Image(self._timeline, self._initial, point, frozenset(roots), frozenset(pages))

    def _reduce(self, result: Result) -> None:
        """No single loss explains it: take a memory that fails and undo losses as long as it still does."""
        walker = result.latest if result.latest.point in result.direct else result.shortest
        image = example(walker.state, self._timeline, self._initial, walker.point)
        for root in sorted(image.roots):
            smaller = self._without(walker.point, image.roots - {root}, image.lost_pages)
            if self._fails(smaller):
                image = smaller
        for page in sorted(image.lost_pages):
            smaller = self._without(walker.point, image.roots, image.lost_pages - {page})
            if self._fails(smaller):
                image = smaller
        if self._fails(image):
            self._note(image, {unit for unit, _, _ in result.leaf.path()})
            self._explained.add(result.leaf.path())

    def _fails(self, image: Image) -> bool:
        return not self._end(image.contents())[0].ok

    def _end(self, contents: dict[int, int]) -> tuple[Verdict, tuple[Read, ...]]:
        if time.monotonic() > self._deadline:
            raise _OutOfTime
        return self._memories.end(contents)

    def _note(self, image: Image, read: set[int]) -> Repair | None:
        """Name the cause of a failing memory; its repair."""
        contents = image.contents()
        verdict, path = self._end(contents)
        event = self._timeline.points[image.point].event
        cause = self._namer.name(image, event, path)
        self._explained.add(path)
        found = self._found.get(self._key(cause, verdict))
        if found is None:
            if len(self._found) >= _MOST_FAILURES:
                raise _OutOfTime
            forced = {part.event for part in image.lost()} - set(cause.lost)
            uncertain = {root.unit for root in candidates(self._timeline, image.point, read)}
            failure = Failure(
                cause.kind,
                cause.why,
                event,
                verdict,
                cause.lost,
                tuple(sorted(forced)),
                tuple(sorted(image.lost_pages)),
                cause.persisted,
                contents,
                tuple(sorted(uncertain)),
                gave_up=cause.kind == UNEXPLAINED,
            )
            found = self._found[self._key(cause, verdict)] = Found(
                failure,
                cause.kind,
                frozenset(map(self._place, cause.lost)),
                frozenset(self._place(number) for number in (cause.persisted,) if number is not None),
                self._namer.repair_of(cause),
            )
        found.failure.events.add(event)
        found.add(event, path, self._namer.begin(path, image.point))
        return cause.repair

    def _key(self, cause: Cause, verdict: Verdict) -> tuple[object, ...]:
        """Equal for what is surely the same cause: the same kind about the same word, or stores of the same places."""
        if cause.word is not None:
            return cause.kind, cause.word
        if cause.lost:
            return (cause.kind, *map(self._place, cause.lost))
        return cause.kind, verdict.reason, verdict.code

    def _place(self, number: int) -> int:
        """The instruction that made an event; an event that none is known of stands for itself."""
        return self._events[number].pc or -1 - number

    def _explain_nested(self, result: Result) -> None:
        verdict = result.leaf.verdict
        assert verdict is not None
        walker = result.shortest
        event = self._timeline.points[walker.point].event
        # Where recovery was in its program when power failed tells one such cause from another.
        places = tuple(crash.events[-1].pc for crash in walker.crashes[1:] if crash.events)
        key = ("nested", places, verdict.reason, verdict.code)
        if key not in self._nested:
            self._nested[key] = self._note_nested(result, event, verdict)
        self._nested[key].failure.events.add(event)

    def _note_nested(self, result: Result, event: int, verdict: Verdict) -> Found[Failure]:
        walker, path = result.shortest, result.leaf.path()
        state, contents = walker.state, {}
        for unit in state.units():
            contents[unit], state = state.read(unit, FULL)[-1]
        second = Second(())
        with suppress(_OutOfTime, Interrupted):
            second = second_failure(walker, path, self._exploration, self._initial, self._recovery, self._in_time)
        if second.cause is not None and second.where is not None:
            why = f"power failed again during recovery, which lacks something itself: {second.cause.why}"
            failure = Failure(second.cause.kind, why, event, verdict, (), contents=contents, in_recovery=second.where)
            events = second.where.events
            key: tuple[object, ...] = (
                second.cause.kind,
                "nested",
                *(events[number].pc or -1 - number for number in second.where.lost),
            )
            return self._found.setdefault(key, Found(failure, "nested", frozenset()))
        counts = ", then ".join(f"{len(crash.events)} of its events" for crash in walker.crashes[1:])
        why = f"power failed again during recovery, after {counts}; no repair of recovery was found"
        failure = Failure(RECOVERY_LOGIC, why, event, verdict, (), contents=contents, gave_up=True)
        key = (RECOVERY_LOGIC, "nested", verdict.reason, verdict.code)
        found = self._found.setdefault(key, Found(failure, "nested", frozenset()))
        if second.read and len(walker.crashes) == 2:
            # A repair of the workload that keeps recovery from reading this ends the failure, too.
            found.add(event, second.read, self._namer.begin(second.read, walker.point))
        return found

    def _in_time(self, end: End) -> End:
        def ends(contents: dict[int, int]) -> tuple[Verdict, tuple[Read, ...]]:
            if time.monotonic() > self._deadline:
                raise _OutOfTime
            return end(contents)

        return ends
