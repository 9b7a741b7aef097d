"""From failing crash states to causes: which store was lost, why it could be, and the least loss that still fails.

The names are those of the field (pmemcheck, Agamotto, XFDetector, Witcher).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from emu.persistence.crashstate import FULL, Initial
from emu.persistence.events import Event, Fence, FenceKind, Flush, Store, WriteBack, line_of, split
from emu.persistence.explore import Exploration, Node, Recovery, Result, Verdict
from emu.persistence.image import Image, PartId, candidates, example
from emu.persistence.model import Timeline

MISSING_FLUSH = "missing flush"
MISSING_FENCE = "missing fence"
ORDERING = "persistence ordering"
ATOMICITY = "persistence atomicity"
TORN = "torn write"
RECOVERY_LOGIC = "recovery logic bug"
MISSING_MAP_SYNC = "missing MAP_SYNC"

_SECONDS = 20.0
_MOST_FAILURES = 64
_LOOK_BACK = 64


@dataclass(slots=True)
class Failure:
    """A cause of failing recoveries. ``lost`` are the numbers of the lost stores (the smallest set found; one that is
    not before the crash point had yet to be made), ``forced`` of those that their loss takes along; ``persisted`` is a
    store that did persist and should not have without them. ``event`` is the crash point (power fails just before it)
    that ``contents`` belongs to, ``events`` all where this was found.
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

    @property
    def names(self) -> tuple[str, ...]:
        """The cause, and the class of bug that it is a case of."""
        ordering = self.kind in (MISSING_FLUSH, MISSING_FENCE) and self.persisted is not None
        return (self.kind, ORDERING) if ordering else (self.kind,)


@dataclass(frozen=True, slots=True)
class _Cause:
    kind: str
    why: str
    lost: tuple[int, ...]
    persisted: int | None = None


class Analyst:
    """Explains the failures of one exploration by running recovery on chosen memories."""

    def __init__(
        self,
        exploration: Exploration,
        timeline: Timeline,
        events: Sequence[Event],
        initial: Initial,
        recovery: Recovery,
    ) -> None:
        self._exploration = exploration
        self._timeline = timeline
        self._events = events
        self._initial = initial
        self._recovery = recovery
        self._deadline = time.monotonic() + _SECONDS
        self._failures: dict[tuple[object, ...], Failure] = {}
        self.gave_up = False

    def explain(self) -> list[Failure]:
        """One ``Failure`` for each cause, the earliest crash point first."""
        failing = [result for result in self._exploration.results if result.leaf.verdict and not result.leaf.verdict.ok]
        by_point: dict[int, list[Result]] = {}
        for result in failing:
            for point in result.direct:
                by_point.setdefault(point, []).append(result)
        for point in sorted(by_point):
            if time.monotonic() > self._deadline or len(self._failures) >= _MOST_FAILURES:
                self.gave_up = True
                break
            self._explain_point(point, by_point[point])
        for result in failing:
            if not result.direct:
                self._explain_nested(result)
        return sorted(self._failures.values(), key=lambda failure: (failure.event, failure.lost, failure.kind))

    def _explain_point(self, point: int, results: list[Result]) -> None:
        read = {unit for result in results for unit, _, _ in result.leaf.path()}
        whole = Image(self._timeline, self._initial, point)
        if self._note(whole, read):
            return
        parts = candidates(self._timeline, point, read)
        found = [root for root in parts if self._fails(self._without(point, [root]))]
        pages = [page for page in self._pages(point) if self._fails(self._without(point, [], [page]))]
        for page in pages:
            self._note(self._without(point, [], [page]), read)
        lost = {root: set(self._without(point, [root]).lost()) for root in found}
        for root in found:
            if not any(lost[other] < lost[root] for other in found):
                self._note(self._without(point, [root]), read)
        if not found and not pages:
            for result in results:
                self._reduce(result, point, read)

    def _pages(self, point: int) -> list[int]:
        return self._timeline.pages_stored(point) if self._timeline.rules.pages_can_be_lost else []

    def _without(self, point: int, roots: Iterable[PartId], pages: Iterable[int] = ()) -> Image:
        return Image(self._timeline, self._initial, point, frozenset(roots), frozenset(pages))

    def _reduce(self, result: Result, point: int, read: set[int]) -> None:
        """No single loss explains it: take a memory that fails and undo losses as long as it still does."""
        walker = result.latest if result.latest.point == point else result.shortest
        image = example(walker.state, self._timeline, self._initial, walker.point)
        for root in sorted(image.roots):
            smaller = self._without(walker.point, image.roots - {root}, image.lost_pages)
            if self._fails(smaller):
                image = smaller
        for page in sorted(image.lost_pages):
            smaller = self._without(walker.point, image.roots, image.lost_pages - {page})
            if self._fails(smaller):
                image = smaller
        self._note(image, read)

    def _ending(self, contents: Mapping[int, int]) -> Verdict:
        """What recovery makes of a memory: from the tree of reads if it is there, else by running it."""

        def content(unit: int) -> int:
            return contents[unit] if unit in contents else self._initial(unit)

        node: Node | None = self._exploration.tree
        while node is not None and node.read is not None:
            unit, mask = node.read
            node = node.children.get(content(unit) & mask)
        if node is not None and node.verdict is not None:
            return node.verdict
        return self._recovery.run(self._exploration.tracked, lambda unit, mask: content(unit) & mask).verdict

    def _fails(self, image: Image) -> bool:
        if time.monotonic() > self._deadline:
            self.gave_up = True
            return False
        return not self._ending(image.contents()).ok

    def _note(self, image: Image, read: set[int]) -> bool:
        verdict = self._ending(image.contents())
        if verdict.ok:
            return False
        event = self._timeline.points[image.point].event
        cause = self._classify(image, event, read)
        key = (cause.kind, *(self._events[number].pc for number in cause.lost), len(image.lost_pages), verdict.reason,
               verdict.code)  # fmt: skip
        failure = self._failures.get(key)
        if failure is None:
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
                image.contents(),
                tuple(sorted(uncertain)),
            )
        failure.events.add(event)
        return True

    def _classify(self, image: Image, crash: int, read: set[int]) -> _Cause:
        if image.lost_pages:
            why = (
                "the file system had not journalled the blocks of a page that was stored to, so the page came back "
                "as it was; a mapping made with MAP_SYNC journals them before the first store"
            )
            return _Cause(MISSING_MAP_SYNC, why, ())
        roots = sorted(image.roots)
        if not roots:
            return self._prefix(self._next_store(crash, read), image, read)
        lost = tuple(dict.fromkeys(root.event for root in roots))
        store = self._events[lost[0]]
        assert isinstance(store, Store)
        if self._is_torn(roots[0], store, image):
            why = f"the {len(store.data)} bytes of the store are not one aligned 8-byte unit: one part persisted alone"
            return _Cause(TORN, why, lost)
        gone = {part.event for part in image.lost()}
        later = [number for number in range(lost[0] + 1, crash) if number not in gone and self._is_store(number)]
        persisted = next((number for number in later if self._touches(number, read)), next(iter(later), None))
        found = self._broken_promise(roots[0], store, crash, persisted)
        if found is not None:
            return _Cause(*found, lost, persisted)
        if persisted is not None:
            why = "nothing makes the store persist before a later one, which did"
            return _Cause(ORDERING, why, lost, persisted)
        return self._prefix(lost[0], image, read)

    def _prefix(self, store: int | None, image: Image, read: set[int]) -> _Cause:
        """All stores before ``store`` persisted, and that is a state that recovery does not accept. Would it, had the
        store come before one of them?
        """
        if store is None:
            return _Cause(RECOVERY_LOGIC, "nothing was lost and nothing was left to do, yet recovery fails", ())
        for earlier in range(store - 1, max(-1, store - _LOOK_BACK), -1):
            if self._touches(earlier, read) and self._passes_swapped(store, earlier):
                why = "the program makes the stores in the wrong order: this one must persist before an earlier one"
                return _Cause(ORDERING, why, (store,), earlier)
        why = (
            "recovery cannot cope with a state in which some stores were made and this one was not; "
            "they must take effect together"
        )
        return _Cause(ATOMICITY, why, (store,))

    def _next_store(self, crash: int, read: set[int]) -> int | None:
        numbers = [number for number in range(crash, len(self._events)) if self._is_store(number)]
        return next((number for number in numbers if self._touches(number, read)), next(iter(numbers), None))

    def _passes_swapped(self, store: int, earlier: int) -> bool:
        """Whether recovery accepts the memory in which all stores up to ``store`` persisted except ``earlier``."""
        contents: dict[int, int] = {}
        for number, event in enumerate(self._events[: store + 1]):
            if isinstance(event, Store) and number != earlier:
                for unit, mask, value in split(event.address, event.data):
                    contents[unit] = contents.get(unit, self._initial(unit)) & ~mask | value
        return time.monotonic() < self._deadline and self._ending(contents).ok

    def _is_torn(self, root: PartId, store: Store, image: Image) -> bool:
        """Whether it is the loss of a part that hurts, where the loss of the whole store would not."""
        units = [unit for unit, _, _ in split(store.address, store.data)]
        pending = [part for part in candidates(self._timeline, image.point, units) if part.event == root.event]
        if len(units) == 1 or all(part in image.roots for part in pending):
            return False
        return len(pending) < len(units) or not self._fails(self._without(image.point, pending))

    def _is_store(self, number: int) -> bool:
        return isinstance(self._events[number], Store)

    def _touches(self, number: int, units: set[int]) -> bool:
        store = self._events[number]
        return isinstance(store, Store) and any(unit in units for unit, _, _ in split(store.address, store.data))

    def _broken_promise(self, root: PartId, store: Store, crash: int, later: int | None) -> tuple[str, str] | None:
        """(name, explanation) when a flush or fence that should make the store durable is not there."""
        if not self._timeline.rules.flushes_count:
            return None
        if store.nt:
            if self._fence_between(root.event, crash) or (later is None and self._fence_between(root.event)):
                return None
            return MISSING_FENCE, "no fence follows the non-temporal store, so it can wait in a write-combining buffer"
        line = line_of(root.unit)
        flushes = [n for n, event in enumerate(self._events)
                   if isinstance(event, WriteBack) or (isinstance(event, Flush) and event.line == line)]  # fmt: skip
        after = [number for number in flushes if number > root.event]
        if not after:
            hint = "; its line was flushed before the store, which is too early" if flushes else ""
            return MISSING_FLUSH, f"the line of the store is never flushed after it{hint}"
        if later is not None and after[0] < crash and not self._fence_between(after[0], later):
            return MISSING_FENCE, "the line was flushed, but no fence waits for the flush before a later store"
        return None

    def _fence_between(self, first: int, end: int | None = None) -> bool:
        return any(isinstance(event, Fence | WriteBack) for event in self._events[first + 1 : end])

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


@dataclass(frozen=True, slots=True)
class Waste:
    """Something that costs time or hides a bug, though no crash state fails: ``count`` times at ``pc``."""

    kind: str
    pc: int
    count: int
    first_event: int


def find_waste(events: Sequence[Event]) -> list[Waste]:
    """Redundant flushes and fences, flushes of clean lines, bytes overwritten while pending; by instruction."""
    found: dict[tuple[str, int], list[int]] = {}

    def note(kind: str, number: int) -> None:
        found.setdefault((kind, events[number].pc), []).append(number)

    dirty: dict[int, dict[int, int]] = {}  # line -> unit -> bytes stored since the line was last flushed
    flushed: set[int] = set()  # lines flushed since the last fence
    nt_pending = False
    for number, event in enumerate(events):
        if isinstance(event, Store):
            nt_pending = nt_pending or event.nt
            for unit, mask, _ in split(event.address, event.data):
                line = dirty.setdefault(line_of(unit), {})
                if line.get(unit, 0) & mask:
                    note("overwrite before persist", number)
                if not event.nt:
                    line[unit] = line.get(unit, 0) | mask
        elif isinstance(event, Flush):
            if not dirty.pop(event.line, None):
                note("redundant flush" if event.line in flushed else "flush of clean line", number)
            flushed.add(event.line)
        elif isinstance(event, WriteBack):
            dirty.clear()
            flushed.clear()
            nt_pending = False
        elif isinstance(event, Fence):
            if event.kind is not FenceKind.LOCKED and not flushed and not nt_pending:
                note("redundant fence", number)
            flushed.clear()
            nt_pending = False
    return [Waste(kind, pc, len(numbers), numbers[0]) for (kind, pc), numbers in sorted(found.items())]
