"""Memories that an analysis makes up, and what recovery makes of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from emu.persistence.lab.explore import Exploration, Recovery, Verdict
from emu.persistence.lab.tree import Tree
from emu.persistence.model.crashstate import Initial, Read
from emu.persistence.model.events import Event, Written, page_of, split


class Memories:
    """Memories of one trace, by the content of each unit that was stored to; also impossible ones."""

    def __init__(self, exploration: Exploration, events: Sequence[Event], initial: Initial, recovery: Recovery) -> None:
        self._tracked = exploration.tracked
        # What the analysis runs itself is kept apart: a result that nobody explored stays one that nobody explored.
        self._trees = (exploration.tree, Tree()) if exploration.whole else (Tree(),)
        self._initial = initial
        self._recovery = recovery
        self._writes: dict[int, list[tuple[int, int, int]]] = {}
        for number, event in enumerate(events):
            if isinstance(event, Written):
                for unit, mask, value in split(event.address, event.data):
                    self._writes.setdefault(unit, []).append((number, mask, value))

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

        def content(unit: int) -> int:
            return contents[unit] if unit in contents else self._initial(unit)

        for tree in self._trees:
            node = tree.find(content)
            if node is not None and node.verdict is not None:
                return node.verdict, node.path()
        run = self._recovery.run(self._tracked, lambda unit, mask: content(unit) & mask)
        self._trees[-1].add(run.reads, run.verdict)
        return run.verdict, tuple(run.reads)
