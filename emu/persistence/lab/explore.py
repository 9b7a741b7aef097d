"""Read-driven exploration: run recovery once for each thing that it can read, not once for each possible memory.

Recovery is a function of the bytes it reads. The explorer keeps the tree of all reads seen so far, one branch for each
value read, a verdict at each leaf, and walks every crash point through it: a read whose bytes have one value follows
its branch, a read that can have several forks. Where the tree ends, recovery is run once, and the tree grows by what
that run read. So two crash points, or a thousand memories, that recovery cannot tell apart cost one run.
(The idea of forking at the first read is that of Jaaru, ASPLOS 2021; the tree shared by all crash points is ours.)

Work is done in rounds: all open ends of one round are known before it starts, and each grows by itself, as far as was
said beforehand, here or in another process. So the result depends neither on the number of jobs nor on which of them is
faster. The first rounds are for the fewest losses: the memories in which everything persisted, or nothing did, then
those that lack something of one cell (a cache line, mostly), then of two; the others follow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.lab.growth import (
    Answer,
    Crash,
    End,
    Growth,
    Interrupted,
    Job,
    Nondeterministic,
    OnFailure,
    Recovery,
    Result,
    Run,
    Settled,
    Spin,
    Verdict,
    Walker,
    execute,
)
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.matters import Matters
from emu.persistence.lab.tree import Tree
from emu.persistence.model.crashstate import CrashState, Initial, possible_values
from emu.persistence.model.timeline import Timeline

__all__ = [
    "Answer", "Crash", "Exploration", "Explorer", "Interrupted", "Job", "Limits", "LocalWorker", "Nondeterministic",
    "OnFailure", "Progress", "Recovery", "Result", "Run", "Settled", "Spin", "Verdict", "Walker", "Workers", "execute",
    "explore",
]  # fmt: skip

_MOST_WALKERS = 1 << 20
# Memories that lack something of fewer cells than this are tried in the order of their number.
_IN_ORDER = 3
# Runs by which an open end grows before all open ends are looked at again.
_BRANCH = 64
_ANY_RANK = 1 << 62


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop early. ``first_failure``: when one has been found."""

    executions: int = 100_000
    deadline: Deadline = NEVER
    depth: int = 1
    first_failure: bool = False


class Workers(Protocol):
    """Grows many open ends at once: something is yielded for each of them, in their order, when it has grown."""

    def grow(self, growth: Growth, ends: Sequence[End], tracked: frozenset[int]) -> Iterator[None]: ...


@dataclass(slots=True)
class LocalWorker:
    """Grows the ends one after the other in this process."""

    recovery: Recovery
    timeline: Timeline
    initial: Initial

    def grow(self, growth: Growth, ends: Sequence[End], tracked: frozenset[int]) -> Iterator[None]:
        for end in ends:
            growth.branch(end, lambda job: execute(job, self.recovery, tracked, self.timeline, self.initial))
            yield


@dataclass(slots=True)
class Exploration:
    """All results, in a fixed order, and the ``tree`` of all reads; unless it is ``whole``, it has those only that can
    matter (see ``lab.matters``). ``incomplete_because`` is empty when every possible memory was covered.

    ``covered`` says what was tried for certain when not all was: the memories of all crash points in which at most so
    many cells (see ``Rules``; cache lines, mostly) lack stores that had been made; -1 for none of them.

    ``first`` is the first result that failed, as it was known when it was found.
    """

    results: list[Result]
    executed: int
    incomplete_because: list[str]
    tracked: frozenset[int]
    tree: Tree
    covered: int | None = None
    first: Result | None = None
    whole: bool = True


Progress = Callable[[int, int, float], None]
"""Told the number of runs done, of those known to be still needed, and the share of crash points that need none."""

FIRST_FAILURE = "it was to stop at the first failure"
"""Why an exploration is not complete that found one."""
# The share of crash points is counted anew this often.
_COUNT_EVERY_S = 0.2


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
        matters: Matters | None = None,
    ) -> None:
        self._timeline = timeline
        self._initial = initial
        self._workers = workers
        self._tracked = tracked
        self._limits = limits or Limits()
        self._observe = observe
        self._progress = progress or (lambda done, open_ends, share: None)
        self._interruption = interruption or Interruption()
        self._deadline = self._limits.deadline
        self._on_failure = on_failure or (lambda result: None)
        self._first: Result | None = None
        self._share, self._counted = 0.0, 0.0
        self._growth = Growth(
            timeline,
            initial,
            depth=self._limits.depth,
            matters=matters if self._limits.depth == 1 else None,
            on_failure=self._note_failure,
            stop=self._must_stop,
            progress=lambda done, open_ends: self._show_progress(),
            deadline=self._deadline,
        )

    def _note_failure(self, result: Result) -> None:
        if self._first is None:
            self._first = replace(result, points=set(result.points), direct=set(result.direct))
        self._on_failure(result)

    @property
    def stored(self) -> set[int]:
        """The units that recovery stored to, where that matters."""
        return self._growth.stored

    def run(self) -> Exploration:
        """Walk all crash points through the tree until no end is open or a limit is reached."""
        growth = self._growth
        stopped = self._start()
        started = not stopped
        while growth.open and not stopped:
            try:
                stopped = self._round()
            except Interrupted:
                stopped = self._interruption.why
        covered = None
        if stopped:
            waiting = [(walker, node) for node in growth.open for walker in node.waiting]
            covered = min((walker.lost for walker, _ in waiting), default=0) - 1 if started else -1
            for walker, node in waiting:
                growth.finish(walker, node)
        results = sorted(growth.results.values(), key=lambda result: (result.observed, result.latest.key))
        because = [stopped] if stopped else []
        return Exploration(
            results, growth.executed, because, self._tracked, growth.tree, covered, self._first, growth.whole
        )

    def _start(self) -> str:
        walkers = 0
        for point in self._timeline.points:
            state = CrashState.at(self._timeline, point.number, self._initial)
            for number, (values, left) in enumerate(possible_values(state, self._observe)):
                crash = Crash(point.number)
                self._growth.walk(Walker((point.number, number), (crash,), left, values, (), *self._losses(left)),
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
        """Why there is nothing more to be done now, or nothing."""
        if self._interruption.asked:
            return self._interruption.why
        if self._limits.first_failure and self._first is not None:
            return FIRST_FAILURE
        if not self._deadline.left:
            return str(self._deadline)
        return ""

    def _show_progress(self) -> None:
        growth, now = self._growth, time.monotonic()
        if now - self._counted >= _COUNT_EVERY_S:
            waiting = {walker.point for node in growth.open for walker in node.waiting}
            self._share = 1 - len(waiting) / len(self._timeline.points)
            self._counted = now
        self._progress(growth.executed, len(growth.open), self._share)

    def _round(self) -> str:
        """Grow every open end of the lowest rank; returns why the exploration must stop, or nothing.

        What grows, and how far, depends on nothing but the tree: not on the number of workers, nor on which is faster.
        """
        growth = self._growth
        room = self._limits.executions - growth.executed
        if not room:
            return f"the limit on executions ({self._limits.executions}) was reached"
        lowest = min(growth.open.values())
        in_order = lowest < _IN_ORDER or self._limits.depth > 1
        ranks = [lowest] if in_order else sorted(set(growth.open.values()))
        nodes = [node for rank in ranks for _, node in growth.ends(rank)][:room]
        most = min(_BRANCH, room // len(nodes)) if self._limits.depth == 1 else 1
        ends = [End(node, lowest if in_order else _ANY_RANK, most) for node in nodes]
        for _ in self._workers.grow(growth, ends, self._tracked):
            self._show_progress()
            if stop := self._must_stop():
                return stop
        return ""


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
    matters: Matters | None = None,
) -> Exploration:
    """Every result of recovery over all crash points of ``timeline``, with crashes of recovery itself to a depth.
    Without ``matters`` all reads are kept.

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
            matters=matters,
        )
        found = explorer.run()
        if explorer.stored <= tracked:
            return found
        if interruption is not None and interruption.asked:
            # What lies behind a second crash was judged with units whose doubt was not known yet.
            found.results = [result for result in found.results if result.direct]
            return found
        tracked |= explorer.stored
