"""From failing crash states to causes: the least losses that still fail, named (``naming``), one cause for one bug."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from emu.persistence.lab.explore import FIRST_FAILURE, Exploration, Interrupted, Recovery, Result, Verdict
from emu.persistence.lab.grouping import Found, joined
from emu.persistence.lab.memories import Budgeted, GaveUp, Memories, Patience
from emu.persistence.lab.naming import (
    ATOMICITY,
    MISSING_FENCE,
    MISSING_FLUSH,
    MISSING_FSYNC,
    MISSING_MAP_SYNC,
    ORDERING,
    PERSISTED_LOCK,
    RECOVERY_LOGIC,
    ROBUSTNESS,
    TORN,
    UNEXPLAINED,
    Cause,
    LookForSync,
    Namer,
)
from emu.persistence.lab.nested import InRecovery, Second, second_failure
from emu.persistence.model.crashstate import FULL, CrashState, Initial, Read
from emu.persistence.model.events import Event
from emu.persistence.model.image import Image, PartId, candidates, example
from emu.persistence.model.possible import first_crash
from emu.persistence.model.timeline import Timeline

__all__ = [
    "ATOMICITY",
    "MISSING_FENCE",
    "MISSING_FLUSH",
    "MISSING_FSYNC",
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
_MOST_EARLIER = 64  # crash points
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


class Analyst:
    """Explains the failures of one exploration by running recovery on chosen memories, with the ``patience`` that it
    has; ``machine`` is where it runs (see ``Memories``). Power failed from event ``first`` on. Of a Linux guest
    ``unsynced`` knows what the kernel had not written yet; what it takes does not count.

    What failed first is explained first, from nothing but what recovery reads then. So its cause is the same whether
    or not anything else was explored, and a run that stops at the first failure names the first cause of a whole one.
    """

    def __init__(
        self,
        exploration: Exploration,
        timeline: Timeline,
        events: Sequence[Event],
        initial: Initial,
        recovery: Recovery,
        patience: Patience,
        *,
        first: int = 0,
        machine: Budgeted | None = None,
        unsynced: LookForSync | None = None,
    ) -> None:
        self._exploration = exploration
        self._timeline = timeline
        self._events = events
        self._initial = initial
        self._patience = patience
        self._machine = machine
        self._memories = Memories(exploration, events, initial, recovery, patience, machine)
        self._namer = Namer(timeline, events, initial, self._memories, first=first, unsynced=unsynced)
        self._recovery = recovery
        self._first: Found[Failure] | None = None
        self._nested: dict[tuple[object, ...], Found[Failure]] = {}
        self._found: dict[tuple[object, ...], Found[Failure]] = {}
        self._explained: set[tuple[Read, ...]] = set()
        self.unexplained = ""

    def explain(self) -> list[Failure]:
        """One ``Failure`` for each cause: that of what failed first, then the earliest crash point first.
        ``unexplained`` says what was left out.
        """
        results, first = self._exploration.results, self._exploration.first
        failing = [result for result in results if result.leaf.verdict and not result.leaf.verdict.ok]
        if first is not None and FIRST_FAILURE in self._exploration.incomplete_because:
            failing = [first]
        try:
            if first is not None:
                self._first = self._explain(first)
            if failing and failing[0] is not first:
                self._explain_all(failing)
        except GaveUp as end:
            self._say_unexplained(failing, str(end))
        except Interrupted:
            over = not self._patience.deadline.left
            self._say_unexplained(failing, str(self._patience.deadline) if over else "the search was interrupted")
        return self._joined()

    def _say_unexplained(self, failing: Sequence[Result], why: str) -> None:
        open_ones = {result.leaf.path() for result in failing if result.direct} - self._explained
        states = len({result.leaf.path() for result in failing})
        none_yet = f", {len(open_ones)} of the {states} failing states have none yet" if open_ones else ""
        self.unexplained = f"the causes are not complete: {why}{none_yet}"

    def _explain_all(self, failing: Sequence[Result]) -> None:
        by_point: dict[int, list[Result]] = {}
        for result in failing:
            for point in result.direct:
                by_point.setdefault(point, []).append(result)
            if not result.direct:
                self._explain_nested(result)
        for point in sorted(by_point):
            self._explain_point(point, by_point[point])
        for result in failing:
            if result.direct and result.leaf.path() not in self._explained:
                self._explain(result)

    def look_at(self, result: Result) -> Failure | None:
        """The cause of one failing result, if it is a new one; None too where it takes too long to say."""
        if not result.direct or result.leaf.path() in self._explained:
            return None
        known = list(self._found.values())
        try:
            self._explain(result)
        except (GaveUp, Interrupted):
            return None
        new = [found for found in self._found.values() if found not in known]
        if not new or any(found.repairs(new[0]) or found.shares(new[0]) for found in known):
            return None
        return new[0].failure

    def _joined(self) -> list[Failure]:
        """One failure for each bug."""
        failures = []
        for group in joined(list(self._found.values()), self._first):
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
        first = None if self._first is None else self._first.failure
        return sorted(failures, key=lambda one: (one is not first, one.event, one.lost, one.kind))

    def _explain_point(self, point: int, results: list[Result]) -> None:
        """The least losses that fail at one crash point, and for which of the failing results they stand."""
        paths = {result.leaf.path() for result in results}
        read = {unit for path in paths for unit, _, _ in path}
        whole = Image(self._timeline, self._initial, point)
        if self._fails(whole):
            causes = [self._note(whole, read)]
        else:
            parts = candidates(self._timeline, point, read)
            found = [root for root in parts if self._fails(self._without(point, [root]))]
            pages = [page for page in self._pages(point) if self._fails(self._without(point, [], [page]))]
            lost = {root: set(self._without(point, [root]).lost()) for root in found}
            least = [root for root in found if not any(lost[other] < lost[root] for other in found)]
            causes = [self._note(self._without(point, [], [page]), read) for page in pages]
            causes += [self._note(self._without(point, [root]), read) for root in least]
        repairs = [cause.repair for cause, _ in causes if cause.repair is not None]
        event = self._timeline.points[point].event
        for path in paths - self._explained:
            after = self._namer.begin(path, point)
            if any(repair.rules_out(path, after, event) for repair in repairs):
                self._explained.add(path)

    def _pages(self, point: int) -> list[int]:
        return self._timeline.pages_stored(point) if self._timeline.rules.pages_can_be_lost else []

    def _without(self, point: int, roots: Iterable[PartId], pages: Iterable[int] = ()) -> Image:
        return Image(self._timeline, self._initial, point, frozenset(roots), frozenset(pages))

    def _explain(self, result: Result) -> Found[Failure] | None:
        """Also what a second crash came to first is explained by the first one, where that alone can leave it."""
        path = result.leaf.path()
        self._patience.spend(len(path) + len(self._timeline.points))
        point = first_crash(self._timeline, path, self._initial)
        return self._explain_nested(result) if point is None else self._reduce(path, point)

    def _reduce(self, path: tuple[Read, ...], point: int) -> Found[Failure] | None:
        """Take a memory that fails, of the first crash point that leaves it, and undo losses while it still does."""
        state = CrashState.at(self._timeline, point, self._initial).after(path)
        assert state is not None, "a crash has left what recovery read"
        image = example(state, self._timeline, self._initial, point)
        while (smaller := self._with_less_lost(self._with_fewer_lost(image))) != image:
            image = smaller
        if not self._fails(image):
            return None
        image = self._at_first_crash(image)
        _, found = self._note(image, {unit for unit, _, _ in path})
        self._explained.add(path)
        return found

    def _at_first_crash(self, image: Image) -> Image:
        """The same losses at the first crash point where they fail: nobody wants to look at a later one."""
        begin = image.point
        if image.roots or image.lost_pages:
            made = max((root.event for root in image.roots), default=0)
            begin = bisect_right(self._timeline.points, made, key=lambda point: point.event)
        for point in range(begin, min(image.point, begin + _MOST_EARLIER)):
            earlier = self._same_losses(image, point)
            if earlier is not None and self._fails(earlier):
                return earlier
        while not image.roots and not image.lost_pages and image.point:
            earlier = self._without(image.point - 1, ())
            if not self._fails(earlier):
                break
            image = earlier
        return image

    def _same_losses(self, image: Image, point: int) -> Image | None:
        """The memory of another crash point that lacks the same parts of stores and pages; None where there is none."""
        if not image.lost_pages <= set(self._pages(point)):
            return None
        wanted = {(root.event, root.unit) for root in image.roots}
        parts = candidates(self._timeline, point, {unit for _, unit in wanted})
        roots = [part for part in parts if (part.event, part.unit) in wanted]
        return self._without(point, roots, image.lost_pages) if len(roots) == len(wanted) else None

    def _with_fewer_lost(self, image: Image) -> Image:
        """``image`` without the losses that it fails without: many at once, then fewer (Zeller's delta debugging)."""
        losses: list[PartId | int] = [*sorted(image.roots), *sorted(image.lost_pages)]
        size = len(losses)
        while size:
            at = 0
            while at < len(losses):
                fewer = losses[:at] + losses[at + size :]
                roots = [loss for loss in fewer if isinstance(loss, PartId)]
                smaller = self._without(image.point, roots, [loss for loss in fewer if isinstance(loss, int)])
                if self._fails(smaller):
                    image, losses = smaller, fewer
                else:
                    at += size
            size //= 2
        return image

    def _with_less_lost(self, image: Image) -> Image:
        """``image`` with only a part of what a loss forces, later stores to the same line, if it fails with that."""
        for root in sorted(image.roots):
            rest = self._without(image.point, image.roots - {root}, image.lost_pages)
            forced = sorted(set(image.lost()) - set(rest.lost()) - {root}, reverse=True)
            less = (self._without(image.point, rest.roots | {part}, image.lost_pages) for part in forced[:_MANY])
            image = next(filter(self._fails, less), image)
        return image

    def _fails(self, image: Image) -> bool:
        return not self._memories.end(image.contents())[0].ok

    def _note(self, image: Image, read: set[int]) -> tuple[Cause, Found[Failure]]:
        """Name the cause of a failing memory, and note it with those that are the same."""
        contents = image.contents()
        verdict, path = self._memories.end(contents)
        event = self._timeline.points[image.point].event
        cause = self._namer.name(image, event, path)
        self._explained.add(path)
        found = self._found.get(self._key(cause, verdict))
        if found is None:
            if len(self._found) >= _MOST_FAILURES:
                raise GaveUp(f"the search ended with {_MOST_FAILURES}")
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
                frozenset(map(self._namer.place, cause.lost)),
                frozenset(self._namer.place(number) for number in (cause.persisted,) if number is not None),
                self._namer.fixes(cause),
            )
        found.failure.events.add(event)
        found.add(event, path, self._namer.begin(path, image.point))
        return cause, found

    def _key(self, cause: Cause, verdict: Verdict) -> tuple[object, ...]:
        """Equal for what is surely the same cause: the same kind about the same word, or stores of the same places."""
        if cause.word is not None:
            return cause.kind, cause.word
        if cause.lost:
            return (cause.kind, *map(self._namer.place, cause.lost))
        return cause.kind, verdict.reason, verdict.code

    def _explain_nested(self, result: Result) -> Found[Failure]:
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
        return self._nested[key]

    def _note_nested(self, result: Result, event: int, verdict: Verdict) -> Found[Failure]:
        walker, path = result.shortest, result.leaf.path()
        state, contents = walker.state, {}
        for unit in state.units():
            contents[unit], state = state.read(unit, FULL)[-1]
        second = Second(())
        with suppress(GaveUp, Interrupted):
            second = second_failure(
                walker, path, self._exploration, self._initial, self._recovery, self._patience, self._machine
            )
        if second.cause is not None and second.where is not None:
            why = f"power failed again during recovery, which lacks something itself: {second.cause.why}"
            failure = Failure(second.cause.kind, why, event, verdict, (), contents=contents, in_recovery=second.where)
            events = second.where.events
            key: tuple[object, ...] = (
                second.cause.kind,
                "nested",
                *(events[number].pc or -1 - number for number in second.where.lost),
            )
        else:
            counts = ", then ".join(f"{len(crash.events)} of its events" for crash in walker.crashes[1:])
            why = f"power failed again during recovery, after {counts}; no repair of recovery was found"
            failure = Failure(RECOVERY_LOGIC, why, event, verdict, (), contents=contents, gave_up=True)
            key = (RECOVERY_LOGIC, "nested", verdict.reason, verdict.code)
        found = self._found.setdefault(key, Found(failure, "nested", frozenset()))
        if second.read and len(walker.crashes) == 2:
            # A repair of the workload that keeps recovery from reading this ends the failure, too.
            found.add(event, second.read, self._namer.begin(second.read, walker.point))
        return found
