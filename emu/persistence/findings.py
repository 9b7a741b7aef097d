"""From failing crash states to causes: which store was lost, why it could be, and the least loss that still fails.

The names are those of the field (pmemcheck, Agamotto, XFDetector, Witcher).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from emu.persistence.crashstate import FULL, Initial
from emu.persistence.events import Event, Fence, FenceKind, Flush, Store, line_of, split
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


@dataclass(slots=True)
class Failure:
    """A cause of failing recoveries. ``lost`` are the numbers of the lost stores (the smallest set found), ``forced``
    of those that their loss takes along; ``later`` is a store made after them that did persist. ``event`` is the crash
    point (power fails just before it) that ``contents`` belongs to, ``events`` all where this was found.
    """

    kind: str
    explanation: str
    event: int
    verdict: Verdict
    lost: tuple[int, ...]
    forced: tuple[int, ...] = ()
    lost_pages: tuple[int, ...] = ()
    later: int | None = None
    contents: dict[int, int] = field(default_factory=dict)
    uncertain_reads: tuple[int, ...] = ()
    events: set[int] = field(default_factory=set)


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

    def _verdict(self, image: Image) -> Verdict:
        contents = image.contents()

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
        return not self._verdict(image).ok

    def _note(self, image: Image, read: set[int]) -> bool:
        verdict = self._verdict(image)
        if verdict.ok:
            return False
        event = self._timeline.points[image.point].event
        roots = sorted({root.event for root in image.roots})
        kind, later, why = self._classify(image, event, read)
        key = (kind, *(self._events[root].pc for root in roots), len(image.lost_pages), verdict.reason, verdict.code)
        failure = self._failures.get(key)
        if failure is None:
            lost = {part.event for part in image.lost()}
            failure = self._failures[key] = Failure(
                kind,
                why,
                event,
                verdict,
                tuple(roots),
                tuple(sorted(lost - set(roots))),
                tuple(sorted(image.lost_pages)),
                later,
                image.contents(),
                tuple(sorted(read & {root.unit for root in candidates(self._timeline, image.point, read)})),
            )
        failure.events.add(event)
        return True

    def _classify(self, image: Image, crash: int, read: set[int]) -> tuple[str, int | None, str]:
        """(name, a later store that persisted, why the loss was possible)."""
        if image.lost_pages:
            return MISSING_MAP_SYNC, None, (
                "the file system had not journalled the blocks of a page that was stored to, so the page came back "
                "as it was; a mapping made with MAP_SYNC journals them before the first store"
            )  # fmt: skip
        if not image.roots:
            return ATOMICITY, None, (
                "nothing was lost: all stores made so far persisted, and recovery cannot cope with that state; "
                "the stores before and after the crash must take effect together"
            )  # fmt: skip
        root = min(image.roots)
        store = self._events[root.event]
        assert isinstance(store, Store)
        if self._is_torn(root, store, image):
            return TORN, None, (
                f"the {len(store.data)} bytes of the store are not one aligned 8-byte unit, "
                "so a part persisted without the rest"
            )  # fmt: skip
        lost_events = {part.event for part in image.lost()}
        after = [
            number
            for number in range(root.event + 1, crash)
            if isinstance(self._events[number], Store) and number not in lost_events
        ]
        touching = [number for number in after if self._touches(number, read)]
        later = next(iter(touching or after), None)
        kind, why = self._cause(root, store, crash, later)
        return kind, later, why

    def _is_torn(self, root: PartId, store: Store, image: Image) -> bool:
        """Whether it is the loss of a part that hurts, where the loss of the whole store would not."""
        units = [unit for unit, _, _ in split(store.address, store.data)]
        pending = [part for part in candidates(self._timeline, image.point, units) if part.event == root.event]
        if len(units) == 1 or all(part in image.roots for part in pending):
            return False
        return len(pending) < len(units) or not self._fails(self._without(image.point, pending))

    def _touches(self, number: int, units: set[int]) -> bool:
        store = self._events[number]
        return isinstance(store, Store) and any(unit in units for unit, _, _ in split(store.address, store.data))

    def _cause(self, root: PartId, store: Store, crash: int, later: int | None) -> tuple[str, str]:
        if not self._timeline.rules.flushes_count:
            return (ORDERING if later is not None else ATOMICITY), (
                "in a page cache flushes and fences make nothing durable, and pages are written back in any order"
            )
        if store.nt:
            if self._fence_between(root.event, crash) or (later is None and self._fence_between(root.event)):
                return self._order(later)
            return MISSING_FENCE, "no fence follows the non-temporal store, so it can wait in a write-combining buffer"
        line = line_of(root.unit)
        flushes = [n for n, event in enumerate(self._events) if isinstance(event, Flush) and event.line == line]
        after = [number for number in flushes if number > root.event]
        if not after:
            hint = "; its line was flushed before the store, which is too early" if flushes else ""
            return MISSING_FLUSH, f"the line of the store is never flushed after it{hint}"
        if later is not None and after[0] < crash and not self._fence_between(after[0], later):
            return MISSING_FENCE, "the line was flushed, but no fence waits for the flush before the later store"
        return self._order(later)

    def _order(self, later: int | None) -> tuple[str, str]:
        if later is not None:
            return ORDERING, "nothing makes the store persist before a later one, which did"
        return ATOMICITY, (
            "the store was still on its way, and what persisted before it is a state that recovery cannot cope with; "
            "the stores must take effect together"
        )

    def _fence_between(self, first: int, end: int | None = None) -> bool:
        return any(isinstance(event, Fence) for event in self._events[first + 1 : end])

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
        else:
            if event.kind is not FenceKind.LOCKED and not flushed and not nt_pending:
                note("redundant fence", number)
            flushed.clear()
            nt_pending = False
    return [Waste(kind, pc, len(numbers), numbers[0]) for (kind, pc), numbers in sorted(found.items())]
