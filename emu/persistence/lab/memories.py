"""Memories that an analysis makes up, and what recovery makes of them: with a bounded amount of work."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.lab.explore import Exploration, Recovery, Run, Verdict
from emu.persistence.lab.tree import Tree
from emu.persistence.model.crashstate import Initial, Read
from emu.persistence.model.events import Event, Written, page_of, split

# Basic blocks: how much longer recovery may run on an impossible memory than on that of the whole run, and at least.
_TIMES_AS_LONG = 8
_LEAST_BLOCKS = 1 << 16


# What a run of recovery costs beside its basic blocks, and how many of these make a step.
_STEPS_OF_A_RUN, _BLOCKS_OF_A_STEP = 800, 16

MOST_STEPS = 20_000_000
"""Of one search for causes."""


class GaveUp(Exception):
    """An analysis has done as much as it may; the message says what that was."""


class Patience:
    """Ends an analysis after more than ``limit`` steps, or at the ``deadline``. Steps are counted, not timed,
    so the same analysis ends at the same place on every host, however busy. A step is about a microsecond: what takes
    it longer counts as several.
    """

    def __init__(self, limit: int, deadline: Deadline = NEVER) -> None:
        self.limit = limit
        self.deadline = deadline
        self.spent = 0

    def spend(self, steps: int) -> None:
        """``GaveUp`` where these are too many."""
        self.spent += steps
        if self.spent > self.limit:
            raise GaveUp(f"the search was given up after {self.limit:,} steps")
        if not self.deadline.left:
            raise GaveUp(str(self.deadline))


class Budgeted(Protocol):
    """A machine that runs recoveries: each may run ``budget`` basic blocks, the last one took ``blocks``."""

    budget: int

    @property
    def blocks(self) -> int: ...


class Memories:
    """Memories of one trace, by the content of each unit that was stored to; also impossible ones, on which a recovery
    may go astray for long: ``machine``, where recovery runs, is told not to let it.
    """

    def __init__(
        self,
        exploration: Exploration,
        events: Sequence[Event],
        initial: Initial,
        recovery: Recovery,
        patience: Patience,
        machine: Budgeted | None = None,
    ) -> None:
        # What the analysis runs itself is kept apart: a result that nobody explored stays one that nobody explored.
        self._trees = (exploration.tree, Tree()) if exploration.whole else (Tree(),)
        self._cut_short = Tree()
        self._initial = initial
        self._recovery = recovery
        self._machine = machine
        self._most_blocks: int | None = None
        self.patience = patience
        self._end = len(events)
        self._writes: dict[int, list[tuple[int, int, int]]] = {}
        for number, event in enumerate(events):
            if isinstance(event, Written):
                for unit, mask, value in split(event.address, event.data):
                    self._writes.setdefault(unit, []).append((number, mask, value))
        self._steps = 1 + sum(map(len, self._writes.values()))
        # Where power fails in a part of the trace only, the stores behind it were not explored.
        self._tracked = exploration.tracked | self._writes.keys()
        self._unexplored = self._writes.keys() - exploration.tracked

    def after(
        self,
        end: int,
        without: Collection[int] = (),
        lost: Collection[tuple[int, int]] = (),
        lost_pages: Collection[int] = (),
    ) -> dict[int, int]:
        """The memory in which all stores before event ``end`` persisted, but for the stores ``without``, the parts
        ``lost`` (event, unit) and everything in ``lost_pages``.
        """
        self.patience.spend(self._steps)
        contents: dict[int, int] = {}
        for unit, writes in self._writes.items():
            content = self._initial(unit)
            if page_of(unit) not in lost_pages:
                for number, mask, value in writes:
                    if number < end and number not in without and (number, unit) not in lost:
                        content = content & ~mask | value
            contents[unit] = content
        return contents

    def end(self, contents: dict[int, int]) -> tuple[Verdict, tuple[Read, ...]]:
        """How recovery ends on a memory and what it reads: known from a tree of reads, or found by running it."""
        self.patience.spend(3 * len(contents))
        known = self._known(contents, self._trees)
        if known is not None:
            return known
        run = self._run(contents)
        self._trees[-1].add(run.reads, run.verdict)
        return run.verdict, tuple(run.reads)

    def accepts(self, contents: dict[int, int]) -> bool:
        """Whether recovery ends well, in reasonable time, on a memory that need not be possible."""
        known = self._known(contents, (*self._trees, self._cut_short))
        if known is not None:
            return known[0].ok
        if self._machine is None:
            run = self._run(contents)
        else:
            usual = self._machine.budget
            most = self._reasonable(self._machine)
            self._machine.budget = min(usual, most)
            try:
                run = self._run(contents)
            finally:
                self._machine.budget = usual
        self._cut_short.add(run.reads, run.verdict)
        return run.verdict.ok

    def _reasonable(self, machine: Budgeted) -> int:
        if self._most_blocks is None:
            self._run(self.after(self._end))
            self._most_blocks = max(_LEAST_BLOCKS, _TIMES_AS_LONG * machine.blocks)
        return self._most_blocks

    def _known(self, contents: dict[int, int], trees: Sequence[Tree]) -> tuple[Verdict, tuple[Read, ...]] | None:
        unexplored = any(self._content(contents, unit) != self._initial(unit) for unit in self._unexplored)
        for tree in trees[unexplored:]:
            node = tree.find(lambda unit: self._content(contents, unit))
            if node is not None and node.verdict is not None:
                path = node.path()
                self.patience.spend(3 * len(path))
                return node.verdict, path
        return None

    def _content(self, contents: dict[int, int], unit: int) -> int:
        return contents[unit] if unit in contents else self._initial(unit)

    def _run(self, contents: dict[int, int]) -> Run:
        run = self._recovery.run(self._tracked, lambda unit, mask: self._content(contents, unit) & mask)
        blocks = 0 if self._machine is None else self._machine.blocks
        self.patience.spend(_STEPS_OF_A_RUN + len(run.reads) + blocks // _BLOCKS_OF_A_STEP)
        return run
