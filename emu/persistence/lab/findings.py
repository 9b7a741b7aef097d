"""From failing crash states to causes: which store was lost, why it could be, and the least loss that still fails.

A cause is named by the repair that it needs, and only after that repair was put into the trace and made the failure
impossible (``repairs``). Small repairs are tried first: a fence, a flush and a fence, a store that cannot tear, another
order, stores that take effect together. The names are those of the field (pmemcheck, Agamotto, XFDetector, Witcher).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from emu.persistence.lab.explore import Exploration, Interrupted, Recovery, Result, Verdict
from emu.persistence.lab.memories import Memories
from emu.persistence.model.crashstate import FULL, CrashState, Initial, Read
from emu.persistence.model.events import UNIT, Event, Fence, LabelWrite, Store, WriteBack, split
from emu.persistence.model.image import Image, PartId, candidates, example
from emu.persistence.model.repairs import Editor, Repair, reaches
from emu.persistence.model.timeline import Timeline
from emu.units import CACHE_LINE

MISSING_FLUSH = "missing flush"
MISSING_FENCE = "missing fence"
ORDERING = "persistence ordering"
ATOMICITY = "persistence atomicity"
TORN = "torn write"
PERSISTED_LOCK = "persisted lock"
RECOVERY_LOGIC = "recovery logic bug"
MISSING_MAP_SYNC = "missing MAP_SYNC"
UNEXPLAINED = "unexplained"

_MOST_FAILURES = 64
_LOOK_BACK = 64
_POINTS_BACK = 256


@dataclass(slots=True)
class Failure:
    """A cause of failing recoveries. ``lost`` are the numbers of the lost stores (the smallest set found; one that is
    not before the crash point had yet to be made), ``forced`` of those that their loss takes along; ``persisted`` is a
    store that did persist and should not have without them. ``event`` is the crash point (power fails just before it)
    that ``contents`` belongs to, ``events`` all where this was found. ``promise`` is the operation that had said that
    it was done; recovery was not asked then, and ``verdict`` says so.
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

    @property
    def names(self) -> tuple[str, ...]:
        """The cause, and the class of bug that it is a case of."""
        ordering = self.kind in (MISSING_FLUSH, MISSING_FENCE) and self.persisted is not None
        return (self.kind, ORDERING) if ordering else (self.kind,)


@dataclass(frozen=True, slots=True)
class _Cause:
    """``repair`` makes the failure impossible; None where no repair was found."""

    kind: str
    why: str
    lost: tuple[int, ...] = ()
    persisted: int | None = None
    repair: Repair | None = None


@dataclass(frozen=True, slots=True)
class _Scene:
    """One failing memory: recovery reads ``path`` from it. ``lost`` are the stores that it lacks; where none of those
    made is lost, those yet to be made that would end the failure. Crash points up to event ``after`` do not allow it.
    """

    image: Image
    crash: int
    after: int
    path: tuple[Read, ...]
    made: bool
    lost: tuple[int, ...]

    @property
    def units(self) -> set[int]:
        """What recovery reads."""
        return {unit for unit, _, _ in self.path}


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
        self._editor = Editor(events, timeline.rules, initial)
        self._deadline = time.monotonic() + seconds
        self._before = first - 1
        self._failures: dict[tuple[object, ...], Failure] = {}
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
        return sorted(self._failures.values(), key=lambda failure: (failure.event, failure.lost, failure.kind))

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
            after = self._begin(path, point)
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
        cause = self._classify(image, event, path)
        self._explained.add(path)
        key = (cause.kind, *(self._events[number].pc for number in cause.lost), len(image.lost_pages), verdict.reason,
               verdict.code)  # fmt: skip
        failure = self._failures.get(key)
        if failure is None:
            if len(self._failures) >= _MOST_FAILURES:
                raise _OutOfTime
            forced = {part.event for part in image.lost()} - set(cause.lost)
            uncertain = {root.unit for root in candidates(self._timeline, image.point, read)}
            failure = self._failures[key] = Failure(
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
            )
        failure.events.add(event)
        return cause.repair

    def _begin(self, path: tuple[Read, ...], point: int) -> int:
        """The event of the last crash point before ``point`` that does not allow ``path``; the one before all crashes
        if all do.

        What fails in the same way behind such a point is the same failure; before it, it is another one.
        """
        for earlier in range(point - 1, max(-1, point - _POINTS_BACK), -1):
            if not reaches(CrashState.at(self._timeline, earlier, self._initial), path):
                return self._timeline.points[earlier].event
        return self._before if point < _POINTS_BACK else self._timeline.points[point - _POINTS_BACK].event

    def _classify(self, image: Image, crash: int, path: tuple[Read, ...]) -> _Cause:
        roots = sorted(image.roots)
        lost = tuple(dict.fromkeys(root.event for root in roots))
        made = bool(lost) or bool(image.lost_pages)
        if not made:
            lost = self._awaited(crash, path)
        scene = _Scene(image, crash, self._begin(path, image.point), path, made, lost)
        cause = self._lock(scene)
        if cause is not None:
            return cause
        if image.lost_pages:
            repair = self._editor.journalled(crash)
            if repair.rules_out(path, scene.after):
                why = (
                    "the file system had not journalled the blocks of a page that was stored to, so the page came back "
                    "as it was; a mapping made with MAP_SYNC journals them before the first store"
                )
                return _Cause(MISSING_MAP_SYNC, why, (), None, repair)
        if not lost and not self._end(self._memories.after(len(self._events)))[0].ok:
            why = "nothing was lost and nothing was left to do, yet recovery fails"
            if crash < len(self._events):
                why = "recovery fails when everything persisted up to here, and also when the whole run did"
            return _Cause(RECOVERY_LOGIC, why)
        if not lost:
            return _Cause(UNEXPLAINED, f"everything persisted, and the next {_LOOK_BACK} stores do not end the failure")
        for attempt in (self._late, self._torn, self._order, self._together):
            cause = attempt(scene)
            if cause is not None:
                return cause
        accepted = self._accepted(range(min(scene.crash, *scene.lost), -1, -1), scene)
        if accepted is None and not self._end(self._memories.after(0))[0].ok:
            return _Cause(RECOVERY_LOGIC, "recovery fails already on what was there before the first store")
        why = "no fence or flush more, no other order and no grouping of these stores was found to make this impossible"
        return _Cause(UNEXPLAINED, why, lost)

    def _awaited(self, crash: int, path: tuple[Read, ...]) -> tuple[int, ...]:
        """The stores from event ``crash`` on that end the failure, once they are made; empty if none do."""
        units, made = {unit for unit, _, _ in path}, list[int]()
        for number in range(crash, len(self._events)):
            if not self._touches(number, units):
                continue
            made.append(number)
            verdict, read = self._end(self._memories.after(number + 1))
            units = {unit for unit, _, _ in read}
            if verdict.ok:
                needed = [n for n in made if not self._end(self._memories.after(number + 1, without={n}))[0].ok]
                return tuple(needed or made)
            if len(made) == _LOOK_BACK:
                break
        return ()

    def _lock(self, scene: _Scene) -> _Cause | None:
        """Recovery waits for ever for a word that the program would have put back: it holds a lock that nobody has."""
        contents = scene.image.contents()
        spin = self._end(contents)[0].spin
        for address, _ in spin.reads if spin is not None else ():
            unit = address & -UNIT
            taken = self._last_store(scene, unit)
            if taken is None:
                continue
            free = self._memories.after(taken)[unit]
            given = next((n for n in range(taken + 1, len(self._events)) if self._touches(n, {unit})), None)
            if given is None or self._memories.after(given + 1)[unit] != free:
                continue
            if self._end({**contents, unit: free})[0].ok:
                repair = self._editor.removed([taken], scene.crash)
                if repair.rules_out(scene.path, scene.after):
                    why = (
                        "the word that recovery waits for was stored before the power failed, and nobody is left who "
                        "would put it back"
                    )
                    return _Cause(PERSISTED_LOCK, why, (), taken, repair)
        return None

    def _last_store(self, scene: _Scene, unit: int) -> int | None:
        """The last store to ``unit`` that persisted whole."""
        gone = {(part.event, part.unit) for part in scene.image.lost()}
        return next(
            (n for n in range(scene.crash - 1, -1, -1) if self._touches(n, {unit}) and (n, unit) not in gone), None
        )

    def _late(self, scene: _Scene) -> _Cause | None:
        """The stores were made and could be lost because nothing made them durable in time."""
        if not scene.made:
            return None
        rules = self._timeline.rules
        if not rules.flushes_count:
            repair = self._editor.durable(scene.lost, scene.crash)
            why = "nothing makes the store persist before a later one, which did"
            return self._if_repaired(ORDERING, why, scene, repair)
        fenced = self._editor.fenced(scene.lost, scene.crash)
        if fenced is not None:
            cause = self._if_repaired(MISSING_FENCE, self._why_no_fence(scene), scene, fenced)
            if cause is not None:
                return cause
        if not self._editor.flushes_help(scene.lost):
            return None
        repair = self._editor.durable(scene.lost, scene.crash)
        return self._if_repaired(MISSING_FLUSH, self._why_no_flush(scene), scene, repair)

    def _if_repaired(self, kind: str, why: str, scene: _Scene, repair: Repair) -> _Cause | None:
        if not repair.rules_out(scene.path, scene.after):
            return None
        return _Cause(kind, why, scene.lost, self._later(scene), repair)

    def _why_no_fence(self, scene: _Scene) -> str:
        number, store = next((n, event) for n in scene.lost if isinstance(event := self._events[n], Store))
        if store.nt:
            later = any(isinstance(event, Fence | WriteBack) for event in self._events[number + 1 :])
            when = "only after a later store" if later else "never"
            return f"a fence follows the non-temporal store {when}, so it can wait in a write-combining buffer"
        if not self._editor.flushes_help(scene.lost):
            return "no fence waits for the store to leave the store buffer before what came to the medium past it"
        return "the line was flushed, but no fence waits for the flush before a later store"

    def _why_no_flush(self, scene: _Scene) -> str:
        root = min(scene.image.roots)
        line = root.unit & -CACHE_LINE
        if self._editor.flush_after(root.event, line) is None:
            early = self._editor.flushed_before(root.event, line)
            hint = "; its line was flushed before the store, which is too early" if early else ""
            return f"the line of the store is never flushed after it{hint}"
        return "the line of the store is flushed only after a later store, which persisted without it"

    def _torn(self, scene: _Scene) -> _Cause | None:
        """A part of a store persisted without the others."""
        gone = {(part.event, part.unit) for part in scene.image.lost()}
        for number in scene.lost if scene.image.roots else ():
            store = self._events[number]
            assert isinstance(store, Store)
            units = [unit for unit, _, _ in split(store.address, store.data)]
            if len(units) > 1 and not all((number, unit) in gone for unit in units):
                repair = self._editor.together([number], scene.crash)
                if repair.rules_out(scene.path, scene.after):
                    size = len(store.data)
                    why = f"the {size} bytes of the store are not one aligned 8-byte unit: one part persisted alone"
                    return _Cause(TORN, why, (number,), None, repair)
        return None

    def _order(self, scene: _Scene) -> _Cause | None:
        """An earlier store persisted, and would do no harm had it come after the lost ones."""
        earlier = self._culprit(scene)
        if earlier is None or not self._end(self._memories.after(max(scene.lost) + 1, without={earlier}))[0].ok:
            return None
        repair = self._editor.moved(earlier, scene.lost, scene.crash)
        if not repair.rules_out(scene.path, scene.after):
            return None
        why = "the program makes the stores in the wrong order: this one must persist before an earlier one"
        return _Cause(ORDERING, why, scene.lost, earlier, repair)

    def _together(self, scene: _Scene) -> _Cause | None:
        """Some stores took effect and others did not, and nothing but all or none of them is right."""
        earlier = self._culprit(scene)
        group = {*scene.lost, earlier} if earlier is not None else self._transaction(scene)
        if not group:
            return None
        repair = self._editor.together(group, scene.crash)
        if not repair.rules_out(scene.path, scene.after):
            return None
        why = (
            "recovery cannot cope with a state in which some stores were made and this one was not; "
            "they must take effect together"
        )
        persisted = max((number for number in group if number < min(scene.lost)), default=None)
        lost = {*scene.lost, *(number for number in group if number >= scene.crash)}
        return _Cause(ATOMICITY, why, tuple(sorted(lost)), persisted, repair)

    def _transaction(self, scene: _Scene) -> set[int]:
        """The stores between the last memory before the lost ones and the first one after them that recovery accepts,
        each taken as if nothing had been lost; without those that need not be in it. Empty if there is no such memory.
        """
        first = self._accepted(range(min(scene.crash, *scene.lost), -1, -1), scene)
        last = self._accepted(range(max(scene.lost) + 1, len(self._events) + 1), scene)
        if first is None or last is None:
            return set()
        group = {*scene.lost, *(number for number in range(first, last) if self._touches(number, scene.units))}
        if self._editor.together(group, scene.crash).rules_out(scene.path, scene.after):
            for number in sorted(group - set(scene.lost)):
                if self._editor.together(group - {number}, scene.crash).rules_out(scene.path, scene.after):
                    group.remove(number)
        return group

    def _accepted(self, ends: range, scene: _Scene) -> int | None:
        """The first of ``ends`` such that recovery accepts the memory of all stores before it."""
        units, tried = scene.units, 0
        for end in ends:
            # A store that recovery does not read changes nothing for it; what it reads changes on the way.
            changed = end - 1 if ends.step > 0 else end
            if end != ends[0] and not self._touches(changed, units):
                continue
            verdict, read = self._end(self._memories.after(end))
            if verdict.ok:
                return end
            units |= {unit for unit, _, _ in read}
            tried += 1
            if tried == _LOOK_BACK:
                break
        return None

    def _survivors(self, scene: _Scene, numbers: Iterable[int]) -> Iterator[int]:
        """The stores among ``numbers`` that persisted, at least in part, and that recovery reads."""
        gone = {(part.event, part.unit) for part in scene.image.lost()}
        units = scene.units
        for number in numbers:
            if any(unit in units and (number, unit) not in gone for unit in self._units(number)):
                yield number

    def _end_without(self, scene: _Scene, stores: set[int]) -> tuple[Verdict, tuple[Read, ...]]:
        """How recovery ends when the failing memory lacks ``stores`` too."""
        lost = {(part.event, part.unit) for part in scene.image.lost()}
        return self._end(self._memories.after(scene.crash, stores, lost, scene.image.lost_pages))

    def _later(self, scene: _Scene) -> int | None:
        """A store after the lost one that persisted: if possible one without which recovery succeeds."""
        later = range(scene.lost[0] + 1, scene.crash)
        read = list(islice(self._survivors(scene, later), _LOOK_BACK))
        harmful = (number for number in read if self._end_without(scene, {number})[0].ok)
        return next(harmful, read[0] if read else None)

    def _culprit(self, scene: _Scene) -> int | None:
        """The last store before the lost ones that persisted and without which recovery succeeds."""
        earlier = range(min(scene.crash, *scene.lost) - 1, -1, -1)
        near = islice(self._survivors(scene, earlier), _LOOK_BACK)
        return next((number for number in near if self._end_without(scene, {number})[0].ok), None)

    def _touches(self, number: int, units: set[int]) -> bool:
        return not units.isdisjoint(self._units(number))

    def _units(self, number: int) -> list[int]:
        """What event ``number`` stores to."""
        event = self._events[number]
        return (
            [unit for unit, _, _ in split(event.address, event.data)] if isinstance(event, Store | LabelWrite) else []
        )

    def _explain_nested(self, result: Result) -> None:
        verdict = result.leaf.verdict
        assert verdict is not None
        walker = result.shortest
        event = self._timeline.points[walker.point].event
        inner = [len(crash.events) for crash in walker.crashes[1:]]
        key = (RECOVERY_LOGIC, len(inner), verdict.reason, verdict.code, verdict.output)
        failure = self._failures.get(key)
        if failure is None:
            state, contents = walker.state, {}
            for unit in state.units():
                contents[unit], state = state.read(unit, FULL)[-1]
            why = "power failed again during recovery, after " + ", then ".join(
                f"{count} of its events" for count in inner
            )
            failure = self._failures[key] = Failure(RECOVERY_LOGIC, why, event, verdict, (), contents=contents)
        failure.events.add(event)
