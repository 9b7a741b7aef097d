"""Names causes: which store was lost, why it could be, and what repairs it.

A cause is named by the repair that it needs, and only after that repair was put into the trace and made the failure
impossible (``repairs``). Small repairs are tried first: a fence, a flush and a fence, a store that cannot tear, another
order, stores that take effect together. The names are those of the field (pmemcheck, Agamotto, XFDetector, Witcher).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

from emu.persistence.lab.linux import is_user
from emu.persistence.lab.memories import Memories
from emu.persistence.model.crashstate import CrashState, Initial, Read
from emu.persistence.model.events import UNIT, Event, Fence, Store, Told, WriteBack, Written, split
from emu.persistence.model.image import Image
from emu.persistence.model.repairs import Editor, Repair
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
MISSING_FSYNC = "missing fsync"
ROBUSTNESS = "robustness violation"
UNEXPLAINED = "unexplained"


_LOOK_BACK = 64
_POINTS_BACK = 256
_STEPS_OF_A_POINT = 60
_LATER_STORE = "a later store"


@dataclass(frozen=True, slots=True)
class Cause:
    """``repair`` makes the failure impossible; None where no repair was found. ``word`` is what recovery waits for."""

    kind: str
    why: str
    lost: tuple[int, ...] = ()
    persisted: int | None = None
    repair: Repair | None = None
    word: int | None = None


class Lacking(NamedTuple):
    """A cause that is not in the trace: the kernel had not written what belongs to a file. ``lost`` are stores of the
    program that recovery does not find for that reason.
    """

    kind: str
    lost: tuple[int, ...]


LookForSync = Callable[[int, tuple[Read, ...]], Lacking | None]
"""What a program lacks when power fails before this event and recovery, which makes these reads, fails."""


@dataclass(frozen=True, slots=True)
class Scene:
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

    def ended_by(self, repair: Repair) -> bool:
        """Whether ``repair`` makes the failure impossible."""
        return repair.rules_out(self.path, self.after, self.crash)


class Namer:
    """Names the causes of failing memories of one trace. Power failed from event ``first`` on. ``unsynced`` is asked
    about a Linux guest, before repairs of stores that are its kernel's, which no author of a program can make.
    """

    def __init__(
        self,
        timeline: Timeline,
        events: Sequence[Event],
        initial: Initial,
        memories: Memories,
        *,
        first: int = 0,
        unsynced: LookForSync | None = None,
    ) -> None:
        self._timeline = timeline
        self._events = events
        self._initial = initial
        self._memories = memories
        self._unsynced = unsynced
        self._end = memories.end
        points = frozenset(point.event for point in timeline.points)
        self.editor = Editor(events, timeline.rules, initial, points, memories.patience.spend)
        self._before = first - 1
        self._late_ones: dict[tuple[object, ...], tuple[str, int | None]] = {}

    def fixes(self, cause: Cause) -> tuple[Repair, ...]:
        """The places for the flush or fence that ``cause`` lacks: at the lost stores; a fence may also stand before the
        store that persisted without them, and then waits for all that was flushed until there.
        """
        if cause.kind not in (MISSING_FLUSH, MISSING_FENCE) or cause.repair is None:
            return ()
        if cause.kind == MISSING_FLUSH or cause.persisted is None:
            return (cause.repair,)
        return cause.repair, self.editor.fenced_before(cause.persisted)

    def begin(self, path: tuple[Read, ...], point: int) -> int:
        """The event of the last crash point before ``point`` that does not allow ``path``; the one before all crashes
        if all do.

        What fails in the same way behind such a point is the same failure; before it, it is another one.
        """
        for earlier in range(point - 1, max(-1, point - _POINTS_BACK), -1):
            self._memories.patience.spend(_STEPS_OF_A_POINT)
            if CrashState.at(self._timeline, earlier, self._initial).after(path) is None:
                return self._timeline.points[earlier].event
        return self._before if point < _POINTS_BACK else self._timeline.points[point - _POINTS_BACK].event

    def name(self, image: Image, crash: int, path: tuple[Read, ...]) -> Cause:
        roots = sorted(image.roots)
        lost = tuple(dict.fromkeys(root.event for root in roots))
        made = bool(lost) or bool(image.lost_pages)
        if not made:
            lost = self._awaited(crash, path)
        scene = Scene(image, crash, self.begin(path, image.point), path, made, lost)
        cause = self._lock(scene)
        if cause is not None:
            return cause
        if image.lost_pages:
            repair = self.editor.journalled(crash)
            if scene.ended_by(repair):
                why = (
                    "the file system had not journalled the blocks of a page that was stored to, so the page came back "
                    "as it was; a mapping made with MAP_SYNC journals them before the first store"
                )
                return Cause(MISSING_MAP_SYNC, why, (), None, repair)
        if self._unsynced is not None and not self._is_programs_own(lost):
            cause = self._not_written(self._unsynced, crash, path)
            if cause is not None:
                return cause
        if not lost and not self._end(self._memories.after(len(self._events)))[0].ok:
            why = "nothing was lost and nothing was left to do, yet recovery fails"
            if crash < len(self._events):
                why = "recovery fails when everything persisted up to here, and also when the whole run did"
            return Cause(RECOVERY_LOGIC, why)
        if not lost:
            return Cause(UNEXPLAINED, f"everything persisted, and the next {_LOOK_BACK} stores do not end the failure")
        for attempt in (self._late, self._torn, self._order, self._together):
            cause = attempt(scene)
            if cause is not None:
                return cause
        if self._unsynced is not None and self._is_programs_own(lost):
            cause = self._not_written(self._unsynced, crash, path)
            if cause is not None:
                return cause
        accepted = self._accepted(range(min(scene.crash, *scene.lost), -1, -1), scene)
        if accepted is None and not self._end(self._memories.after(0))[0].ok:
            return Cause(RECOVERY_LOGIC, "recovery fails already on what was there before the first store")
        why = "no fence or flush more, no other order and no grouping of these stores was found to make this impossible"
        return Cause(UNEXPLAINED, why, lost)

    def _is_programs_own(self, lost: tuple[int, ...]) -> bool:
        """Whether a program, not the kernel, has made some of these stores."""
        return any(is_user(self._events[number].pc) for number in lost)

    @staticmethod
    def _not_written(look: LookForSync, crash: int, path: tuple[Read, ...]) -> Cause | None:
        """The kernel had not written to the medium what belongs to a file."""
        lacking = look(crash, path)
        if lacking is None:
            return None
        if lacking.kind == MISSING_MAP_SYNC:
            why = (
                "the program's stores are on the medium, but what the file system notes about their blocks is not: "
                "with the same mappings made with MAP_SYNC recovery succeeds"
            )
        else:
            why = (
                "what the file system notes about the program's files is not on the medium: with a sync before the "
                "power failure recovery succeeds"
            )
        return Cause(lacking.kind, why, lacking.lost)

    def _awaited(self, crash: int, path: tuple[Read, ...]) -> tuple[int, ...]:
        """The stores from event ``crash`` on that end the failure, once they are made; empty if none do."""
        units, made = {unit for unit, _, _ in path}, list[int]()
        for number in range(crash, len(self._events)):
            if not self.touches(number, units):
                continue
            made.append(number)
            verdict, read = self._end(self._memories.after(number + 1))
            units = {unit for unit, _, _ in read}
            if verdict.ok:
                needed = [n for n in made if not self._memories.accepts(self._memories.after(number + 1, without={n}))]
                return tuple(needed or made)
            if len(made) == _LOOK_BACK:
                break
        return ()

    def _lock(self, scene: Scene) -> Cause | None:
        """Recovery waits for ever for a word that the program would have put back: it holds a lock that nobody has."""
        contents = scene.image.contents()
        spin = self._end(contents)[0].spin
        for address, _ in spin.reads if spin is not None else ():
            unit = address & -UNIT
            taken = self._last_store(scene, unit)
            if taken is None:
                continue
            free = self._memories.after(taken)[unit]
            given = next((n for n in range(taken + 1, len(self._events)) if self.touches(n, {unit})), None)
            if given is None or self._memories.after(given + 1)[unit] != free:
                continue
            if self._memories.accepts({**contents, unit: free}):
                stores = [number for number in range(scene.crash) if self.touches(number, {unit})]
                repair = self.editor.removed(stores, scene.crash)
                if scene.ended_by(repair):
                    why = (
                        "the word that recovery waits for was stored before the power failed, and nobody is left who "
                        "would put it back"
                    )
                    return Cause(PERSISTED_LOCK, why, (), taken, repair, unit)
        return None

    def _last_store(self, scene: Scene, unit: int) -> int | None:
        """The last store to ``unit`` that persisted whole."""
        gone = {(part.event, part.unit) for part in scene.image.lost()}
        return next(
            (n for n in range(scene.crash - 1, -1, -1) if self.touches(n, {unit}) and (n, unit) not in gone), None
        )

    def _late(self, scene: Scene) -> Cause | None:
        """The stores were made and could be lost because nothing made them durable in time."""
        if not scene.made:
            return None
        rules = self._timeline.rules
        if not rules.flushes_count:
            repair = self.editor.durable(scene.lost)
            return self._if_repaired(
                ORDERING, lambda later: f"nothing makes the store persist before {later}, which did", scene, repair
            )
        fenced = self.editor.fenced(scene.lost)
        if fenced is not None:
            cause = self._if_repaired(MISSING_FENCE, partial(self._why_no_fence, scene), scene, fenced)
            if cause is not None:
                return cause
        if not self.editor.flushes_help(scene.lost):
            return None
        repair = self.editor.durable(scene.lost)
        return self._if_repaired(MISSING_FLUSH, partial(self._why_no_flush, scene), scene, repair)

    def _if_repaired(self, kind: str, why: Callable[[str], str], scene: Scene, repair: Repair) -> Cause | None:
        if not scene.ended_by(repair):
            return None
        # Of the same instructions lost for the same reason it is said once what persisted without them.
        key = (kind, *map(self.place, scene.lost))
        if key not in self._late_ones:
            persisted = self._later(scene)
            self._late_ones[key] = why(self._later_event(persisted)), persisted
        text, persisted = self._late_ones[key]
        return Cause(kind, text, scene.lost, persisted, repair)

    def _later_event(self, number: int | None) -> str:
        event = None if number is None else self._events[number]
        if not isinstance(event, Told):
            return _LATER_STORE
        return "what was printed" if event.printed else f'"{event.text.decode()}"'

    def _why_no_fence(self, scene: Scene, later: str) -> str:
        number, store = next((n, event) for n in scene.lost if isinstance(event := self._events[n], Store))
        if store.nt:
            fenced = any(isinstance(event, Fence | WriteBack) for event in self._events[number + 1 :])
            when = f"only after {later}" if fenced else "never"
            return f"a fence follows the non-temporal store {when}, so it can wait in a write-combining buffer"
        if not self.editor.flushes_help(scene.lost):
            return "no fence waits for the store to leave the store buffer before what came to the medium past it"
        return f"the line was flushed, but no fence waits for the flush before {later}"

    def _why_no_flush(self, scene: Scene, later: str) -> str:
        root = min(scene.image.roots)
        line = root.unit & -CACHE_LINE
        if self.editor.flush_after(root.event, line) is None:
            early = self.editor.flushed_before(root.event, line)
            hint = "; its line was flushed before the store, which is too early" if early else ""
            return f"the line of the store is never flushed after it{hint}"
        without = ", which persisted without it" if later == _LATER_STORE else ""
        return f"the line of the store is flushed only after {later}{without}"

    def _torn(self, scene: Scene) -> Cause | None:
        """A part of a store persisted without the others."""
        gone = {(part.event, part.unit) for part in scene.image.lost()}
        for number in scene.lost if scene.image.roots else ():
            store = self._events[number]
            assert isinstance(store, Store)
            units = [unit for unit, _, _ in split(store.address, store.data)]
            if len(units) > 1 and not all((number, unit) in gone for unit in units):
                repair = self.editor.together([number], scene.crash)
                if scene.ended_by(repair):
                    size = len(store.data)
                    why = f"the {size} bytes of the store are not one aligned 8-byte unit: one part persisted alone"
                    return Cause(TORN, why, (number,), None, repair)
        return None

    def _order(self, scene: Scene) -> Cause | None:
        """An earlier store persisted, and would do no harm had it come after the lost ones."""
        earlier = self._culprit(scene)
        if earlier is None or not self._memories.accepts(self._memories.after(max(scene.lost) + 1, without={earlier})):
            return None
        repair = self.editor.moved(earlier, scene.lost, scene.crash)
        if not scene.ended_by(repair):
            return None
        why = "the program makes the stores in the wrong order: this one must persist before an earlier one"
        return Cause(ORDERING, why, scene.lost, earlier, repair)

    def _together(self, scene: Scene) -> Cause | None:
        """Some stores took effect and others did not, and nothing but all or none of them is right."""
        earlier = self._culprit(scene)
        group = {*scene.lost, earlier} if earlier is not None else self._transaction(scene)
        if not group:
            return None
        repair = self.editor.together(group, scene.crash)
        if not scene.ended_by(repair):
            return None
        why = (
            "recovery cannot cope with a state in which some stores were made and this one was not; "
            "they must take effect together"
        )
        persisted = max((number for number in group if number < min(scene.lost)), default=None)
        lost = {*scene.lost, *(number for number in group if number >= scene.crash)}
        return Cause(ATOMICITY, why, tuple(sorted(lost)), persisted, repair)

    def _transaction(self, scene: Scene) -> set[int]:
        """The stores between the last memory before the lost ones and the first one after them that recovery accepts,
        each taken as if nothing had been lost; without those that need not be in it. Empty if there is no such memory.
        """
        first = self._accepted(range(min(scene.crash, *scene.lost), -1, -1), scene)
        last = self._accepted(range(max(scene.lost) + 1, len(self._events) + 1), scene)
        if first is None or last is None:
            return set()
        group = {*scene.lost, *(number for number in range(first, last) if self.touches(number, scene.units))}
        if scene.ended_by(self.editor.together(group, scene.crash)):
            for number in sorted(group - set(scene.lost)):
                if scene.ended_by(self.editor.together(group - {number}, scene.crash)):
                    group.remove(number)
        return group

    def _accepted(self, ends: range, scene: Scene) -> int | None:
        """The first of ``ends`` such that recovery accepts the memory of all stores before it."""
        units, tried = scene.units, 0
        for end in ends:
            # A store that recovery does not read changes nothing for it; what it reads changes on the way.
            changed = end - 1 if ends.step > 0 else end
            if end != ends[0] and not self.touches(changed, units):
                continue
            verdict, read = self._end(self._memories.after(end))
            if verdict.ok:
                return end
            units |= {unit for unit, _, _ in read}
            tried += 1
            if tried == _LOOK_BACK:
                break
        return None

    def _survivors(self, scene: Scene, numbers: Iterable[int]) -> Iterator[int]:
        """The stores among ``numbers`` that persisted, at least in part, and that recovery reads."""
        gone = {(part.event, part.unit) for part in scene.image.lost()}
        units = scene.units
        for number in numbers:
            if any(unit in units and (number, unit) not in gone for unit in self._units(number)):
                yield number

    def _harms(self, scene: Scene, store: int) -> bool:
        """Whether recovery accepts the failing memory when it lacks ``store`` too."""
        lost = {(part.event, part.unit) for part in scene.image.lost()}
        return self._memories.accepts(self._memories.after(scene.crash, {store}, lost, scene.image.lost_pages))

    def _later(self, scene: Scene) -> int | None:
        """A store after the lost one that persisted: if possible one without which recovery succeeds."""
        later = range(scene.lost[0] + 1, scene.crash)
        read = list(islice(self._survivors(scene, later), _LOOK_BACK))
        harmful = (number for number in read if self._harms(scene, number))
        return next(harmful, read[0] if read else None)

    def _culprit(self, scene: Scene) -> int | None:
        """The last store before the lost ones that persisted and without which recovery succeeds."""
        earlier = range(min(scene.crash, *scene.lost) - 1, -1, -1)
        near = islice(self._survivors(scene, earlier), _LOOK_BACK)
        return next((number for number in near if self._harms(scene, number)), None)

    def place(self, number: int) -> int:
        """The instruction that made an event; an event that none is known of stands for itself."""
        return self._events[number].pc or -1 - number

    def touches(self, number: int, units: set[int]) -> bool:
        return not units.isdisjoint(self._units(number))

    def _units(self, number: int) -> list[int]:
        """What event ``number`` stores to."""
        event = self._events[number]
        if not isinstance(event, Written):
            return []
        return [unit for unit, _, _ in split(event.address, event.data)]
