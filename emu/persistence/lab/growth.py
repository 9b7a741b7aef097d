"""How the tree of reads grows: walkers go on to where their memories end, or wait where no run came by yet.

A ``Growth`` is the tree with those that wait in it. A *branch* of it, an open end with its walkers, needs nothing of
the rest: it can be taken away, grown by itself in another process, and put back (``Branch``, ``Grown``).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from emu.errors import EmuError
from emu.persistence.lab.chunks import Chunks
from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.lab.matters import Matters, units_above
from emu.persistence.lab.tree import Node, Reads, Tree, new_node
from emu.persistence.model.crashstate import CrashState, Initial, Known, Layer, Read, content_of
from emu.persistence.model.events import Event
from emu.persistence.model.timeline import Timeline, TimelineBuilder, build

Answer = Callable[[int, int], int]
"""Gives the value of the bytes of a unit under a mask."""


@dataclass(frozen=True, slots=True)
class Spin:
    """A loop that repeats the whole state of its machine: its ``instruction`` at ``pc`` reads the first of ``reads``,
    address and bytes of each that it reads where stores of the workload are.
    """

    pc: int
    instruction: str = ""
    reads: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a recovery ended, in the words of ``Exit``; ``output`` is the end of what it printed. ``spin``: it did not,
    and never would have.
    """

    ok: bool
    reason: str
    status: int
    code: int | None = None
    detail: str = ""
    output: str = ""
    spin: Spin | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One recovery: what it read of the tracked units, how it ended, and what it did to the persistent memory, each
    event with the number of reads that came before it.
    """

    reads: Sequence[Read]
    verdict: Verdict
    trace: tuple[tuple[int, Event], ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """What can hold one value only in the memories of a crash point: most of what recovery reads. Reads of units that
    ``matters`` has not need not be told of (None: of all they must).
    """

    timeline: Timeline
    initial: Initial
    point: int
    matters: frozenset[int] | None = None

    def since(self, other: Settled | None) -> Iterator[tuple[int, int | None]]:
        """The units whose content is another than it was for ``other`` (all for None), and their content; None where
        they can have several.
        """
        timeline = self.timeline
        known = other is not None and other.timeline is timeline and other.initial is self.initial
        units = timeline.changed(other.point, self.point) if other is not None and known else timeline.units
        return ((unit, self.content(unit)) for unit in units)

    def content(self, unit: int) -> int | None:
        """What a unit holds; None where it can hold several things."""
        since, contents = self.timeline.settled(unit)
        content = contents[bisect_right(since, self.point) - 1]
        return None if content is None else content_of(unit, content, self.initial)


class Recovery(Protocol):
    """Runs recovery. It must be deterministic: the same answers give the same run.

    ``answer`` knows the content of every tracked unit. A recovery that is told what is ``settled``, and what the reads
    are ``given`` that it will make, need not ask for it.
    """

    def run(
        self, tracked: frozenset[int], answer: Answer, settled: Settled | None = None, given: Sequence[Read] = ()
    ) -> Run: ...


@dataclass(frozen=True, slots=True)
class Crash:
    """One power failure of a chain: at crash point ``point`` of the workload, or after ``events`` of a recovery."""

    point: int = 0
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """Run recovery on a memory of those that ``crashes`` leave and of which ``known`` is known. Where a read can have
    several values, it has that of ``given``, and later on that which persisted last. The first ``depth`` reads are
    known, the last of them as ``last``; the result leaves them out. For ``matters`` see ``Settled``.
    """

    crashes: tuple[Crash, ...]
    known: Mapping[int, tuple[tuple[Known, ...], ...]]
    given: tuple[Read, ...]
    depth: int
    last: Read | None
    matters: frozenset[int] | None = None


class Nondeterministic(EmuError):
    """Recovery did different things after it had read the same bytes."""


class Interrupted(Exception):
    """The run was ended before it came to a verdict, because somebody asked for it."""


def state_of(job: Job, timeline: Timeline, initial: Initial) -> CrashState:
    """The memories that a job is about."""
    layers = [Layer(timeline, job.crashes[0].point)]
    for crash in job.crashes[1:]:
        again = build(crash.events, timeline.rules)
        layers.append(Layer(again, again.points[-1].number))
    return CrashState(initial, tuple(layers), job.known)


def execute(job: Job, recovery: Recovery, tracked: frozenset[int], timeline: Timeline, initial: Initial) -> Run:
    """Do one job; the run's reads lack the first ``job.depth``. Nondeterministic when these are not what they were."""
    state = state_of(job, timeline, initial)

    def answer(unit: int, mask: int) -> int:
        nonlocal state
        value, state = state.read(unit, mask)[-1]
        return value

    settled = Settled(timeline, initial, job.crashes[0].point, job.matters) if len(job.crashes) == 1 else None
    run = recovery.run(tracked, answer, settled, job.given)
    if job.last is not None and (len(run.reads) < job.depth or run.reads[job.depth - 1] != job.last):
        unit, mask, value = job.last
        raise Nondeterministic(
            f"recovery read {value:#x} from the unit at {unit:#x} (mask {mask:#x}) after all that it had read before; "
            "this time it did something else"
        )
    return replace(run, reads=run.reads[job.depth :])


@dataclass(frozen=True, slots=True)
class Walker:
    """A set of memories on its way through the tree. ``key`` orders walkers the same way in every exploration.

    ``lost`` is the number of cells (see ``Rules``: cache lines, mostly) of which these memories lack something,
    ``kept`` of those whose pending stores persisted, at least in part; each as far as reads have told.
    """

    key: tuple[int, ...]
    crashes: tuple[Crash, ...]
    state: CrashState
    observed: tuple[int, ...]
    given: tuple[Read, ...] = ()
    lost: int = 0
    kept: int = 0

    @property
    def point(self) -> int:
        return self.crashes[0].point

    @property
    def rank(self) -> int:
        """What is explored first: everything persisted, nothing did, one cell lost, two, ..."""
        return self.lost if self.kept else 0

    def forks(self, unit: int, mask: int, options: Sequence[tuple[int, CrashState]]) -> Iterator[tuple[int, Walker]]:
        """One walker for each value that the bytes can have, with that value."""
        lost, kept = self.state.losses(unit)
        for number, (value, left) in enumerate(options):
            now_lost, now_kept = left.losses(unit)
            yield value, Walker((*self.key, number), self.crashes, left, self.observed,
                                (*self.given, (unit, mask, value)),
                                self.lost + (now_lost and not lost), self.kept + (now_kept and not kept))  # fmt: skip


@dataclass(slots=True)
class Result:
    """What recovery makes of the memories in which ``observed`` was seen and that lead to one leaf (open: not run).

    ``points`` are all crash points that allow it, ``direct`` those that do without a second crash; ``latest`` is the
    walker from the latest point, ``shortest`` the one with the fewest crashes.
    """

    observed: tuple[int, ...]
    leaf: Node
    latest: Walker
    shortest: Walker
    points: set[int] = field(default_factory=set)
    direct: set[int] = field(default_factory=set)


OnFailure = Callable[[Result], None]
"""Told of each result that is no success when it is found; more crash points may be added to it later."""

_Place = tuple[Node, int] | None
"""Where a walker goes on: behind the fork of a node, with this value; None for the beginning."""


def _middle(waiting: Sequence[Walker], rank: int) -> Walker:
    """Who of those of this rank goes first. The tree may grow with the crash points or shrink: from the middle one on,
    half of the others leave the new branch where it is theirs to leave it, whichever it is.
    """
    fit = sorted((walker for walker in waiting if walker.rank == rank), key=lambda walker: walker.key)
    return fit[len(fit) // 2]


def _job(walker: Walker, node: Node) -> Job:
    return Job(walker.crashes, walker.state.known, walker.given, node.depth, node.came_by, node.matters)


@dataclass(frozen=True, slots=True)
class End:
    """An open end that is to be grown: those of rank ``rank`` or lower below it, by at most ``budget`` runs."""

    node: Node
    rank: int
    budget: int


_Packed = tuple[
    tuple[int, ...], int, Mapping[int, tuple[tuple[Known, ...], ...]], tuple[int, ...], tuple[Read, ...], int, int
]
"""A walker without what every worker has."""


def _pack(walker: Walker) -> _Packed:
    return (walker.key, walker.point, walker.state.known, walker.observed, walker.given, walker.lost, walker.kept)


@dataclass(frozen=True, slots=True)
class Branch:
    """An open end for another process, which has ``seconds`` for it; no crashes of recovery itself. ``above`` are units
    that were read above it; for ``matters`` and ``span`` see ``Node``.
    """

    depth: int
    last: Read | None
    above: frozenset[int]
    matters: frozenset[int] | None
    span: int
    walkers: tuple[_Packed, ...]
    rank: int
    budget: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Grown:
    """A branch that has grown. ``nodes`` are its nodes, parents first: the place of each one's parent among them, what
    it came by, its depth, its chunks by their numbers where it has grown, how many reads these have, where it forks and
    how it ends. ``results`` have the place of their node, their points, the latest walker and, where it is another, the
    shortest; ``waiting`` name nodes by their places, too.
    """

    executed: int
    nodes: tuple[tuple[int, Read | None, int, array[int], int, tuple[int, int] | None, Verdict | None], ...]
    results: tuple[tuple[int, tuple[int, ...], _Packed, _Packed | None], ...]
    waiting: tuple[tuple[int, tuple[_Packed, ...], frozenset[int] | None, int], ...]
    whole: bool


class Growth:
    """A tree of reads and who waits in it. ``depth`` is the most power failures in a row; ``stop`` says when it must
    not go on; ``progress`` is told the numbers of runs done and of open ends. ``chunks`` are of this timeline.
    """

    def __init__(
        self,
        timeline: Timeline,
        initial: Initial,
        *,
        depth: int = 1,
        chunks: Chunks | None = None,
        matters: Matters | None = None,
        on_failure: OnFailure = lambda result: None,
        stop: Callable[[], object] = lambda: None,
        progress: Callable[[int, int], None] = lambda done, open_ends: None,
        deadline: Deadline = NEVER,
    ) -> None:
        self.tree = Tree(chunks or Chunks(timeline, initial))
        self.open: dict[Node, int] = {}  # the lowest rank of those that wait there
        self.results: dict[tuple[tuple[int, ...], int], Result] = {}
        self.executed = 0
        self.stored: set[int] = set()
        self._timeline = timeline
        self._initial = initial
        self.depth = depth
        self._on_failure = on_failure
        self._stop = stop
        self._progress = progress
        self._deadline = deadline
        self._matters = matters
        self._above = frozenset[int]()
        self.whole = True

    def ends(self, rank: int) -> list[tuple[Walker, Node]]:
        """The open ends where the lowest rank is this one, with the walker that goes first, in a fixed order."""
        ends = [(_middle(node.waiting, rank), node) for node, lowest in self.open.items() if lowest == rank]
        return sorted(ends, key=lambda end: end[0].key)

    def branch(self, end: End, run: Callable[[Job], Run]) -> None:
        """Grow one open end."""
        rest, self.open = self.open, {}
        self.open[end.node] = rest.pop(end.node)
        done = 0
        try:
            while self.open and done < end.budget and not self._stop():
                lowest = min(self.open.values())
                if lowest > end.rank:
                    break
                for walker, node in self.ends(lowest)[: end.budget - done]:
                    self._choose(node)
                    self._grow(node, run(_job(walker, node)))
                    done += 1
                    self._progress(self.executed, len(self.open) + len(rest))
                    if self._stop():
                        break
        finally:
            for node, lowest in self.open.items():
                rest[node] = min(lowest, rest.get(node, lowest))
            self.open = rest

    def _choose(self, node: Node) -> None:
        """Say which reads matter for those who wait at an open end."""
        if self._matters is not None and self._matters.choose(
            node, (walker.point for walker in node.waiting), self._above
        ):
            self.whole = False

    def _grow(self, node: Node, run: Run) -> None:
        del self.open[node]
        self.executed += 1
        self.tree.grow(node, run.reads, run.verdict)
        if self.depth > 1 and run.trace:
            self._add_crashes(node, run)
        waiting, node.waiting = node.waiting, []
        came_from = None if node.parent is None or node.came_by is None else (node.parent, node.came_by[2])
        for walker in sorted(waiting, key=lambda walker: walker.key):
            self.walk(walker, came_from)

    def _add_crashes(self, node: Node, run: Run) -> None:
        """Note the crash points inside this recovery that lie behind where its node begins."""
        events = tuple(event for _, event in run.trace)
        builder = TimelineBuilder(self._timeline.rules)
        for number, (reads, event) in enumerate(run.trace):
            if builder.state.changed and builder.state.commits(event) and reads >= node.depth:
                node.crashes.append((reads, events[:number]))
            builder.state.apply(event)
        if builder.state.changed:
            node.crashes.append((node.depth + len(run.reads), events))
        self.stored.update(unit for component in builder.state.components.values() for unit in component.units)
        self.stored.update(builder.state.durable)

    def walk(self, walker: Walker, came_from: _Place) -> None:
        """Let a walker go on to where its memories end, or wait for a run."""
        stack = [(walker, came_from)]
        while stack:
            walker, came_from = stack.pop()
            # Looked up only now: a node may have been split since.
            node = self.tree.root if came_from is None else came_from[0].child(came_from[1])
            while not node.is_open:
                place = self._leaves(walker, node)
                if place is not None:
                    node = self.tree.split(node, *place)
                self._crash_again(walker, node, stack)
                if node.read is None:
                    self.finish(walker, node)
                    break
                options = walker.state.read(*node.read)
                if len(options) > 1:
                    stack += [(fork, (node, value)) for value, fork in walker.forks(*node.read, options)]
                    break
                node = node.child(options[0][0])
            else:
                node.waiting.append(walker)
                self.open[node] = min(walker.rank, self.open.get(node, walker.rank))

    def _leaves(self, walker: Walker, node: Node) -> tuple[int, int] | None:
        """Where in the chunks of ``node`` the walker's memories do not all go on as before; None if they all do."""
        state = walker.state
        doubtful: Iterable[tuple[int, Sequence[int]]]
        if len(state.layers) == 1:
            doubtful = self.tree.chunks.doubtful(node.chunks, walker.point)
        else:
            doubtful = ((number, range(len(piece))) for number, piece in enumerate(node.pieces()))
        for number, places in doubtful:
            reads = Reads(self.tree.chunks.data(node.chunks[number]))
            for at in places:
                unit, mask, value = reads[at]
                options = state.read(unit, mask)
                if len(options) > 1 or options[0][0] != value:
                    return number, at
        return None

    def _crash_again(self, walker: Walker, node: Node, stack: list[tuple[Walker, _Place]]) -> None:
        if len(walker.crashes) >= self.depth:
            return
        for _, events in node.crashes:
            again = build(events, self._timeline.rules)
            state = walker.state.crash_again(again, again.points[-1].number)
            key, crashes = (*walker.key, -1, len(events)), (*walker.crashes, Crash(events=events))
            stack.append((Walker(key, crashes, state, walker.observed, (), walker.lost, walker.kept), None))

    def finish(self, walker: Walker, leaf: Node) -> None:
        """A walker has come to its end, or is not to go on from ``leaf``."""
        key = walker.observed, id(leaf)
        known = self.results.get(key)
        result = known or self.results.setdefault(key, Result(walker.observed, leaf, walker, walker))
        result.points.add(walker.point)
        if len(walker.crashes) == 1:
            result.direct.add(walker.point)
        if (len(walker.crashes), walker.key) < (len(result.shortest.crashes), result.shortest.key):
            result.shortest = walker
        if walker.key > result.latest.key:
            result.latest = walker
        if known is None and not _succeeded(leaf):
            self._on_failure(result)

    def take(self, end: End) -> Branch | Job:
        """An open end, to be grown elsewhere. Where recovery itself is crashed no branch stands alone: only a run."""
        node = end.node
        if self.depth > 1:
            return _job(_middle(node.waiting, self.open[node]), node)
        walkers = tuple(_pack(walker) for walker in node.waiting)
        above = frozenset[int]() if self._matters is None else units_above(node, self._above)
        return Branch(node.depth, node.came_by, above, node.matters, node.span, walkers, end.rank, end.budget,
                      self._deadline.left)  # fmt: skip

    def put(self, node: Node, grown: Grown | Run, numbers: Mapping[int, int]) -> None:
        """What became of the open end ``node`` elsewhere; ``numbers`` are those here of the chunks there."""
        if isinstance(grown, Run):
            self._grow(node, grown)
            return
        self.executed += grown.executed
        del self.open[node]
        node.waiting = []
        nodes: list[Node] = []
        for parent, came_by, depth, chunks, length, read, verdict in grown.nodes:
            here = node
            if nodes:
                assert came_by is not None
                here = nodes[parent].children[came_by[2]] = new_node(self.tree.chunks, nodes[parent], came_by, depth)
            here.chunks, here.length = array("I", [numbers[number] for number in chunks]), length
            here.read, here.verdict = read, verdict
            nodes.append(here)
        self.whole &= grown.whole
        for place, walkers, matters, span in grown.waiting:
            nodes[place].matters, nodes[place].span = matters, span
            nodes[place].waiting = [self._unpack(packed) for packed in walkers]
            self.open[nodes[place]] = min(walker.rank for walker in nodes[place].waiting)
        for place, points, last, first in grown.results:
            latest = self._unpack(last)
            shortest = latest if first is None else self._unpack(first)
            result = Result(latest.observed, nodes[place], latest, shortest, set(points), set(points))
            self.results[latest.observed, id(nodes[place])] = result
            if not _succeeded(nodes[place]):
                self._on_failure(result)

    def _unpack(self, packed: _Packed) -> Walker:
        key, point, known, observed, given, lost, kept = packed
        state = CrashState(self._initial, (Layer(self._timeline, point),), known)
        return Walker(key, (Crash(point),), state, observed, given, lost, kept)

    @classmethod
    def elsewhere(
        cls,
        branch: Branch,
        timeline: Timeline,
        initial: Initial,
        chunks: Chunks,
        matters: Matters | None,
        run: Callable[[Job], Run],
    ) -> Grown:
        """Grow a branch that was taken from another growth. What it reads is in ``chunks``."""
        until = Deadline.after(branch.seconds)
        growth = cls(
            timeline,
            initial,
            chunks=chunks,
            matters=matters,
            stop=lambda: not until.left,
        )
        root = growth.tree.root
        root.came_by, root.depth, root.matters, root.span = branch.last, branch.depth, branch.matters, branch.span
        growth._above = branch.above
        root.waiting = [growth._unpack(packed) for packed in branch.walkers]
        growth.open[root] = min(walker.rank for walker in root.waiting)
        growth.branch(End(root, branch.rank, branch.budget), run)
        return growth._grown()

    def _grown(self) -> Grown:
        places = {self.tree.root: 0}
        nodes = []
        for node in (order := [self.tree.root]):
            parent = places[node.parent] if node.parent is not None else 0
            nodes.append((parent, node.came_by, node.depth, node.chunks, node.length, node.read, node.verdict))
            for child in node.children.values():
                places[child] = len(order)
                order.append(child)
        results = tuple(
            (places[result.leaf], tuple(sorted(result.points)), _pack(result.latest),
             None if result.shortest is result.latest else _pack(result.shortest))
            for result in self.results.values()
        )  # fmt: skip
        waiting = tuple(
            (places[node], tuple(_pack(walker) for walker in node.waiting), node.matters, node.span)
            for node in self.open
        )
        return Grown(self.executed, tuple(nodes), results, waiting, self.whole)


def _succeeded(leaf: Node) -> bool:
    return leaf.verdict is None or leaf.verdict.ok
