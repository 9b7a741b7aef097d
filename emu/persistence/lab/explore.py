"""Read-driven exploration: run recovery once for each thing that it can read, not once for each possible memory.

Recovery is a function of the bytes it reads. The explorer keeps the tree of all reads seen so far, one branch for each
value read, a verdict at each leaf, and walks every crash point through it: a read whose bytes have one value follows
its branch, a read that can have several forks. Where the tree ends, recovery is run once, and the tree grows by what
that run read. So two crash points, or a thousand memories, that recovery cannot tell apart cost one run.
(The idea of forking at the first read is that of Jaaru, ASPLOS 2021; the tree shared by all crash points is ours.)

Work is done in rounds: all open ends of one round are known before it starts and are taken in a fixed order, so the
result depends neither on the number of jobs nor on which of them is faster.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from emu.errors import EmuError
from emu.persistence.lab.interruption import INTERRUPTED, Interruption
from emu.persistence.lab.tree import Node, Tree
from emu.persistence.model.crashstate import CrashState, Initial, Known, Layer, Read, content_of, possible_values
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
    event with the number of reads that came before it. ``caveat`` says what the run did that reads do not show.
    """

    reads: Sequence[Read]
    verdict: Verdict
    trace: tuple[tuple[int, Event], ...] = ()
    caveat: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What can hold one value only in the memories of a crash point: most of what recovery reads."""

    timeline: Timeline
    initial: Initial
    point: int

    def since(self, other: Settled | None) -> Iterator[tuple[int, int | None]]:
        """The units whose content is another than it was for ``other`` (all for None), and their content; None where
        they can have several.
        """
        timeline = self.timeline
        known = other is not None and other.timeline is timeline and other.initial is self.initial
        units = timeline.changed(other.point, self.point) if other is not None and known else timeline.units
        for unit in units:
            since, contents = timeline.settled(unit)
            content = contents[bisect_right(since, self.point) - 1]
            yield unit, None if content is None else content_of(unit, content, self.initial)


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
    known, the last of them as ``last``; the result leaves them out.
    """

    crashes: tuple[Crash, ...]
    known: Mapping[int, tuple[tuple[Known, ...], ...]]
    given: tuple[Read, ...]
    depth: int
    last: Read | None


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop early; seconds are real time."""

    executions: int = 100_000
    seconds: float | None = None
    depth: int = 1


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

    settled = Settled(timeline, initial, job.crashes[0].point) if len(job.crashes) == 1 else None
    run = recovery.run(tracked, answer, settled, job.given)
    if job.last is not None and (len(run.reads) < job.depth or run.reads[job.depth - 1] != job.last):
        unit, mask, value = job.last
        raise Nondeterministic(
            f"recovery read {value:#x} from the unit at {unit:#x} (mask {mask:#x}) after all that it had read before; "
            "this time it did something else"
        )
    return replace(run, reads=run.reads[job.depth :])


class Workers(Protocol):
    """Does many jobs at once; the results come in the order of the jobs."""

    def execute(self, jobs: Sequence[Job], tracked: frozenset[int]) -> Iterator[Run]: ...


@dataclass(slots=True)
class LocalWorker:
    """Does the jobs one after the other in this process."""

    recovery: Recovery
    timeline: Timeline
    initial: Initial

    def execute(self, jobs: Sequence[Job], tracked: frozenset[int]) -> Iterator[Run]:
        for job in jobs:
            yield execute(job, self.recovery, tracked, self.timeline, self.initial)


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


@dataclass(slots=True)
class Exploration:
    """All results, in a fixed order, and the ``tree`` of all reads. ``incomplete_because`` is empty when every possible
    memory was covered.

    ``covered`` says what was tried for certain when not all was: the memories of all crash points in which at most so
    many cells (see ``Rules``; cache lines, mostly) lack stores that had been made; -1 for none of them.
    """

    results: list[Result]
    executed: int
    incomplete_because: list[str]
    tracked: frozenset[int]
    tree: Tree
    covered: int | None = None


_Place = tuple[Node, int] | None
"""Where a walker goes on: behind the fork of a node, with this value; None for the beginning."""

_MOST_WALKERS = 1 << 20

OnFailure = Callable[[Result], None]
"""Told of each result that is no success when it is found; more crash points may be added to it later."""

Progress = Callable[[int, int], None]
"""Told the number of runs done and of those known to be still needed."""


def _middle(waiting: Sequence[Walker], rank: int) -> Walker:
    """Who of those of this rank goes first. The tree may grow with the crash points or shrink: from the middle one on,
    half of the others leave the new branch where it is theirs to leave it, whichever it is.
    """
    fit = sorted((walker for walker in waiting if walker.rank == rank), key=lambda walker: walker.key)
    return fit[len(fit) // 2]


class Explorer:
    """One exploration of one timeline; see the module's text."""

    def __init__(
        self,
        timeline: Timeline,
        initial: Initial,
        workers: Workers,
        tracked: frozenset[int],
        *,
        limits: Limits | None = None,
        observe: Sequence[tuple[int, int]] = (),
        progress: Progress | None = None,
        interruption: Interruption | None = None,
        on_failure: OnFailure | None = None,
    ) -> None:
        self._timeline = timeline
        self._initial = initial
        self._workers = workers
        self._tracked = tracked
        self._limits = limits or Limits()
        self._observe = observe
        self._progress = progress or (lambda done, open_ends: None)
        self._interruption = interruption or Interruption()
        self._deadline = None if self._limits.seconds is None else time.monotonic() + self._limits.seconds
        self._on_failure = on_failure or (lambda result: None)
        self._tree = Tree()
        self._open: dict[Node, int] = {}  # the lowest rank of those that wait there
        self._results: dict[tuple[tuple[int, ...], int], Result] = {}
        self._executed = 0
        self._caveats: set[str] = set()
        self.stored: set[int] = set()

    def run(self) -> Exploration:
        """Walk all crash points through the tree until no end is open or a limit is reached."""
        stopped = self._start()
        started = not stopped
        while self._open and not stopped:
            try:
                stopped = self._round()
            except Interrupted:
                stopped = INTERRUPTED
        covered = None
        if stopped:
            waiting = [(walker, node) for node in self._open for walker in node.waiting]
            covered = min((walker.lost for walker, _ in waiting), default=0) - 1 if started else -1
            for walker, node in waiting:
                self._finish(walker, node)
        results = sorted(self._results.values(), key=lambda result: (result.observed, result.latest.key))
        because = sorted(self._caveats) + ([stopped] if stopped else [])
        return Exploration(results, self._executed, because, self._tracked, self._tree, covered)

    def _start(self) -> str:
        walkers = 0
        for point in self._timeline.points:
            state = CrashState.at(self._timeline, point.number, self._initial)
            for number, (values, left) in enumerate(possible_values(state, self._observe)):
                crash = Crash(point.number)
                self._walk(Walker((point.number, number), (crash,), left, values, (), *self._losses(left)),
                           None)  # fmt: skip
                walkers += 1
                if walkers > _MOST_WALKERS:
                    return f"the observed bytes can hold more than {_MOST_WALKERS} different values"
                if walkers % 256 == 0 and (stop := self._must_stop()):
                    return stop
            if stop := self._must_stop():
                return stop
        return ""

    @staticmethod
    def _losses(state: CrashState) -> tuple[int, int]:
        """How many cells are known to lack something, and to have kept something."""
        found = [state.losses(cell) for cell in state.known]
        return sum(lost for lost, _ in found), sum(kept for _, kept in found)

    def _must_stop(self) -> str:
        """Why there is no time left, or nothing."""
        if self._interruption.asked:
            return INTERRUPTED
        if self._deadline is not None and time.monotonic() > self._deadline:
            return f"the time limit of {self._limits.seconds:g} s was reached"
        return ""

    def _round(self) -> str:
        """Run recovery at every open end of the lowest rank; returns why the exploration must stop, or nothing."""
        lowest = min(self._open.values())
        ends = [(_middle(node.waiting, lowest), node) for node, rank in self._open.items() if rank == lowest]
        ends.sort(key=lambda end: end[0].key)
        room = self._limits.executions - self._executed
        jobs = [Job(walker.crashes, walker.state.known, walker.given, node.depth, node.came_by)
                for walker, node in ends[:room]]  # fmt: skip
        for (_, node), run in zip(ends, self._workers.execute(jobs, self._tracked), strict=False):
            del self._open[node]
            self._executed += 1
            self._caveats.update([run.caveat] if run.caveat else [])
            self._tree.grow(node, run.reads, run.verdict)
            if self._limits.depth > 1 and run.trace:
                self._add_crashes(node, run)
            waiting, node.waiting = node.waiting, []
            came_from = None if node.parent is None or node.came_by is None else (node.parent, node.came_by[2])
            for walker in sorted(waiting, key=lambda walker: walker.key):
                self._walk(walker, came_from)
            self._progress(self._executed, len(self._open))
            if stop := self._must_stop():
                return stop
        if len(ends) > room:
            return f"the limit of {self._limits.executions} executions was reached"
        return ""

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

    def _walk(self, walker: Walker, came_from: _Place) -> None:
        """Let a walker go on to where its memories end, or wait for a run."""
        stack = [(walker, came_from)]
        while stack:
            walker, came_from = stack.pop()
            # Looked up only now: a node may have been split since.
            node = self._tree.root if came_from is None else came_from[0].child(came_from[1])
            while not node.is_open:
                place = self._leaves(walker, node)
                if place is not None:
                    node = self._tree.split(node, *place)
                self._crash_again(walker, node, stack)
                if node.read is None:
                    self._finish(walker, node)
                    break
                options = walker.state.read(*node.read)
                if len(options) > 1:
                    stack += [(fork, (node, value)) for value, fork in walker.forks(*node.read, options)]
                    break
                node = node.child(options[0][0])
            else:
                node.waiting.append(walker)
                self._open[node] = min(walker.rank, self._open.get(node, walker.rank))

    def _leaves(self, walker: Walker, node: Node) -> tuple[int, int] | None:
        """Where in the chunks of ``node`` the walker's memories do not all go on as before; None if they all do."""
        state, point = walker.state, walker.point
        for number, chunk in enumerate(node.chunks):
            one = len(state.layers) == 1
            for at, unit, mask, value in chunk.doubtful(self._timeline, point, self._initial) if one else chunk.all():
                options = state.read(unit, mask)
                if len(options) > 1 or options[0][0] != value:
                    return number, at
        return None

    def _crash_again(self, walker: Walker, node: Node, stack: list[tuple[Walker, _Place]]) -> None:
        if len(walker.crashes) >= self._limits.depth:
            return
        for _, events in node.crashes:
            again = build(events, self._timeline.rules)
            state = walker.state.crash_again(again, again.points[-1].number)
            key, crashes = (*walker.key, -1, len(events)), (*walker.crashes, Crash(events=events))
            stack.append((Walker(key, crashes, state, walker.observed, (), walker.lost, walker.kept), None))

    def _finish(self, walker: Walker, leaf: Node) -> None:
        key = walker.observed, id(leaf)
        known = self._results.get(key)
        result = known or self._results.setdefault(key, Result(walker.observed, leaf, walker, walker))
        result.points.add(walker.point)
        if len(walker.crashes) == 1:
            result.direct.add(walker.point)
        if (len(walker.crashes), walker.key) < (len(result.shortest.crashes), result.shortest.key):
            result.shortest = walker
        if walker.key > result.latest.key:
            result.latest = walker
        if known is None and leaf.verdict is not None and not leaf.verdict.ok:
            self._on_failure(result)


def explore(
    timeline: Timeline,
    initial: Initial,
    workers: Workers,
    *,
    limits: Limits | None = None,
    observe: Sequence[tuple[int, int]] = (),
    progress: Progress | None = None,
    interruption: Interruption | None = None,
    on_failure: OnFailure | None = None,
) -> Exploration:
    """Every result of recovery over all crash points of ``timeline``, with crashes of recovery itself to a depth.

    A unit that recovery stores to is in doubt after a crash during recovery, so it must be tracked from the start:
    when such a unit turns up, the exploration begins anew.
    """
    tracked = frozenset(timeline.units)
    while True:
        explorer = Explorer(
            timeline,
            initial,
            workers,
            tracked,
            limits=limits,
            observe=observe,
            progress=progress,
            interruption=interruption,
            on_failure=on_failure,
        )
        found = explorer.run()
        if explorer.stored <= tracked:
            return found
        if interruption is not None and interruption.asked:
            # What lies behind a second crash was judged with units whose doubt was not known yet.
            found.results = [result for result in found.results if result.direct]
            return found
        tracked |= explorer.stored
