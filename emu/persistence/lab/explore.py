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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from emu.errors import EmuError
from emu.persistence.lab.interruption import INTERRUPTED, Interruption
from emu.persistence.model.crashstate import CrashState, Initial, Read, possible_values
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

    reads: tuple[Read, ...]
    verdict: Verdict
    trace: tuple[tuple[int, Event], ...] = ()
    caveat: str = ""


class Recovery(Protocol):
    """Runs recovery. It must be deterministic: the same answers give the same run."""

    def run(self, tracked: frozenset[int], answer: Answer) -> Run: ...


@dataclass(frozen=True, slots=True)
class Crash:
    """One power failure of a chain: at crash point ``point`` of the workload, or after ``events`` of a recovery; and
    what was read after it, which is all that is known about the memory it left.
    """

    point: int = 0
    events: tuple[Event, ...] = ()
    reads: tuple[Read, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """Run recovery on a memory of ``crashes``; where several values are possible take ``choices`` one after the other,
    then always the first. ``known`` reads lie behind us: the result leaves them out.
    """

    crashes: tuple[Crash, ...]
    choices: tuple[int, ...]
    known: int


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


def after(state: CrashState, reads: Iterable[Read]) -> CrashState:
    """The memories of ``state`` in which these reads give these values; Nondeterministic if there is none."""
    for unit, mask, value in reads:
        found = next((left for seen, left in state.read(unit, mask) if seen == value), None)
        if found is None:
            raise Nondeterministic(f"no possible memory holds {value:#x} in the unit at {unit:#x}")
        state = found
    return state


def state_of(timeline: Timeline, initial: Initial, crashes: Sequence[Crash]) -> CrashState:
    """The memories that a chain of crashes can leave."""
    state = after(CrashState.at(timeline, crashes[0].point, initial), crashes[0].reads)
    for crash in crashes[1:]:
        again = build(crash.events, timeline.rules)
        state = after(state.crash_again(again, again.points[-1].number), crash.reads)
    return state


def execute(job: Job, recovery: Recovery, tracked: frozenset[int], timeline: Timeline, initial: Initial) -> Run:
    """Do one job; the run's reads lack the first ``job.known``."""
    state = state_of(timeline, initial, job.crashes)
    choices = iter(job.choices)

    def answer(unit: int, mask: int) -> int:
        nonlocal state
        options = state.read(unit, mask)
        value, state = options[0]
        if len(options) > 1:
            wanted = next(choices, value)
            found = next((left for seen, left in options if seen == wanted), None)
            if found is None:
                raise Nondeterministic(f"no possible memory holds {wanted:#x} in the unit at {unit:#x}")
            value, state = wanted, found
        return value

    run = recovery.run(tracked, answer)
    return replace(run, reads=run.reads[job.known :])


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


@dataclass(slots=True, eq=False)
class Node:
    """A place in the tree of reads: what was read before it lies above it. Open until a run came by."""

    parent: Node | None = None
    came_by: Read | None = None
    depth: int = 0
    read: tuple[int, int] | None = None
    children: dict[int, Node] = field(default_factory=dict)
    verdict: Verdict | None = None
    crashes: list[tuple[Event, ...]] = field(default_factory=list)
    waiting: list[Walker] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.read is None and self.verdict is None

    def path(self) -> tuple[Read, ...]:
        """The reads that lead here."""
        reads = []
        node = self
        while node.parent is not None and node.came_by is not None:
            reads.append(node.came_by)
            node = node.parent
        return tuple(reversed(reads))

    def child(self, value: int) -> Node:
        if value not in self.children:
            assert self.read is not None
            self.children[value] = Node(self, (*self.read, value), self.depth + 1)
        return self.children[value]


@dataclass(frozen=True, slots=True)
class Walker:
    """A set of memories on its way through the tree. ``key`` orders walkers the same way in every exploration."""

    key: tuple[int, ...]
    crashes: tuple[Crash, ...]
    state: CrashState
    observed: tuple[int, ...]
    choices: tuple[int, ...] = ()

    @property
    def point(self) -> int:
        return self.crashes[0].point


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
    """

    results: list[Result]
    executed: int
    incomplete_because: list[str]
    tracked: frozenset[int]
    tree: Node


_MOST_WALKERS = 1 << 20

Progress = Callable[[int, int], None]
"""Told the number of runs done and of those known to be still needed."""


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
        self._root = Node()
        self._open: dict[Node, None] = {}
        self._results: dict[tuple[tuple[int, ...], int], Result] = {}
        self._executed = 0
        self._caveats: set[str] = set()
        self.stored: set[int] = set()

    def run(self) -> Exploration:
        """Walk all crash points through the tree until no end is open or a limit is reached."""
        stopped = self._start()
        while self._open and not stopped:
            try:
                stopped = self._round()
            except Interrupted:
                stopped = INTERRUPTED
        if stopped:
            for node in self._open:
                for walker in node.waiting:
                    self._finish(walker, node)
        results = sorted(self._results.values(), key=lambda result: (result.observed, result.latest.key))
        because = sorted(self._caveats) + ([stopped] if stopped else [])
        return Exploration(results, self._executed, because, self._tracked, self._root)

    def _start(self) -> str:
        walkers = 0
        for point in self._timeline.points:
            state = CrashState.at(self._timeline, point.number, self._initial)
            for number, (values, left) in enumerate(possible_values(state, self._observe)):
                reads = tuple((unit, mask, value) for (unit, mask), value in zip(self._observe, values, strict=True))
                crash = Crash(point.number, reads=reads)
                self._walk(Walker((point.number, number), (crash,), left, values), self._root)
                walkers += 1
                if walkers > _MOST_WALKERS:
                    return f"the observed bytes can hold more than {_MOST_WALKERS} different values"
                if walkers % 256 == 0 and (stop := self._must_stop()):
                    return stop
            if stop := self._must_stop():
                return stop
        return ""

    def _must_stop(self) -> str:
        """Why there is no time left, or nothing."""
        if self._interruption.asked:
            return INTERRUPTED
        if self._deadline is not None and time.monotonic() > self._deadline:
            return f"the time limit of {self._limits.seconds:g} s was reached"
        return ""

    def _round(self) -> str:
        """Run recovery at every open end; returns why the exploration must stop, or nothing."""
        ends = [(min(node.waiting, key=lambda walker: walker.key), node) for node in self._open]
        ends.sort(key=lambda end: end[0].key)
        room = self._limits.executions - self._executed
        jobs = [Job(walker.crashes, walker.choices, node.depth) for walker, node in ends[:room]]
        for (_, node), run in zip(ends, self._workers.execute(jobs, self._tracked), strict=False):
            del self._open[node]
            self._executed += 1
            self._caveats.update([run.caveat] if run.caveat else [])
            self._grow(node, run)
            waiting, node.waiting = node.waiting, []
            for walker in waiting:
                self._walk(walker, node)
            self._progress(self._executed, len(self._open))
            if stop := self._must_stop():
                return stop
        if len(ends) > room:
            return f"the limit of {self._limits.executions} executions was reached"
        return ""

    def _grow(self, node: Node, run: Run) -> None:
        first = node
        for unit, mask, value in run.reads:
            node.read = (unit, mask)
            node = node.child(value)
        node.verdict = run.verdict
        if self._limits.depth > 1 and run.trace:
            self._add_crashes(first, node, run)

    def _add_crashes(self, first: Node, leaf: Node, run: Run) -> None:
        """Note the crash points inside this recovery at those of its nodes that are new."""
        nodes: dict[int, Node] = {}
        node: Node | None = leaf
        while node is not None and node.depth >= first.depth:
            nodes[node.depth] = node
            node = node.parent
        events = tuple(event for _, event in run.trace)
        builder = TimelineBuilder(self._timeline.rules)
        for number, (reads, event) in enumerate(run.trace):
            if builder.state.changed and builder.state.commits(event) and reads in nodes:
                nodes[reads].crashes.append(events[:number])
            builder.state.apply(event)
        if builder.state.changed:
            leaf.crashes.append(events)
        self.stored.update(unit for component in builder.state.components.values() for unit in component.units)
        self.stored.update(builder.state.durable)

    def _walk(self, walker: Walker, start: Node) -> None:
        stack = [(walker, start)]
        while stack:
            walker, node = stack.pop()
            while True:
                if node.is_open:
                    node.waiting.append(walker)
                    self._open[node] = None
                    break
                self._crash_again(walker, node, stack)
                if node.verdict is not None:
                    self._finish(walker, node)
                    break
                assert node.read is not None
                options = walker.state.read(*node.read)
                if len(options) > 1:
                    for number, (value, left) in enumerate(options):
                        key, choices = (*walker.key, number), (*walker.choices, value)
                        fork = Walker(key, walker.crashes, left, walker.observed, choices)
                        stack.append((fork, node.child(value)))
                    break
                node = node.child(options[0][0])

    def _crash_again(self, walker: Walker, node: Node, stack: list[tuple[Walker, Node]]) -> None:
        if len(walker.crashes) >= self._limits.depth:
            return
        for number, events in enumerate(node.crashes):
            last = walker.crashes[-1]
            before = Crash(last.point, last.events, last.reads + node.path())
            crashes = (*walker.crashes[:-1], before, Crash(events=events))
            again = build(events, self._timeline.rules)
            state = walker.state.crash_again(again, again.points[-1].number)
            stack.append((Walker((*walker.key, -1, number), crashes, state, walker.observed), self._root))

    def _finish(self, walker: Walker, leaf: Node) -> None:
        result = self._results.setdefault((walker.observed, id(leaf)), Result(walker.observed, leaf, walker, walker))
        result.points.add(walker.point)
        if len(walker.crashes) == 1:
            result.direct.add(walker.point)
        if (len(walker.crashes), walker.key) < (len(result.shortest.crashes), result.shortest.key):
            result.shortest = walker
        if walker.key > result.latest.key:
            result.latest = walker


def explore(
    timeline: Timeline,
    initial: Initial,
    workers: Workers,
    *,
    limits: Limits | None = None,
    observe: Sequence[tuple[int, int]] = (),
    progress: Progress | None = None,
    interruption: Interruption | None = None,
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
        )
        found = explorer.run()
        if explorer.stored <= tracked:
            return found
        if interruption is not None and interruption.asked:
            # What lies behind a second crash was judged with units whose doubt was not known yet.
            found.results = [result for result in found.results if result.direct]
            return found
        tracked |= explorer.stored
