"""Where a recovery can begin: moments that earlier ones came to, each behind the reads that lead to it.

A recovery is a function of what it reads, so two of them that make the same first reads with the same answers are in
the same state then, and the second can begin where the first one was. ``Beginnings`` keeps the tree of such moments.
One is worth its memory where many basic blocks lie before a read, and it is made when a second run comes by.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from emu.persistence.lab.chunks import Chunks
from emu.persistence.lab.input import Taken
from emu.persistence.lab.tree import Reads
from emu.units import MIB

if TYPE_CHECKING:
    from emu.cpu.snapshot import Snapshot
    from emu.persistence.lab.growth import Answer, Settled
    from emu.persistence.lab.undo import Copies
    from emu.persistence.model.crashstate import Initial
    from emu.persistence.model.timeline import Timeline

DISTANCE = 1 << 15
"""Basic blocks between two moments at least: a millisecond or two."""
_MOST_BRANCHES = 8  # those that runs came by lately
_MOST_MEMORY = 128 * MIB
_MOST_READS = 32 * MIB


def _nothing(unit: int) -> int:
    """Content before anything is known."""
    return 0


class Moment(NamedTuple):
    """A machine that stands before basic block ``block`` of a recovery, which has made ``reads``. ``close`` it.

    ``memory`` is what differs from the first moment (None for that one), ``devices`` puts these back, ``known`` is what
    the tracer knows, ``unknown`` the same by units; ``printed``, ``shown`` and ``line`` have come out of the machine,
    ``taken`` of its input has gone into it.
    """

    cpu: Snapshot
    memory: Copies | None
    devices: Callable[[], None]
    known: bytes
    unknown: dict[int, int]
    block: int
    reads: bytes = b""
    printed: bytes = b""
    shown: bytes = b""
    line: bytes = b""
    taken: Taken = Taken()

    def close(self) -> None:
        self.cpu.close()
        if self.memory is not None:
            self.memory.close()


class Place:
    """A place in the tree: behind the reads ``made`` from its ``parent`` on, before basic block ``block``. Their
    ``numbers`` are those in ``table``, where they were looked up last.
    """

    __slots__ = ("block", "branches", "made", "moment", "numbers", "parent", "table")

    def __init__(self, parent: Place | None, made: bytes, block: int) -> None:
        self.parent = parent
        self.made = made
        self.block = block
        self.branches: deque[Place] = deque(maxlen=_MOST_BRANCHES)
        self.moment: Moment | None = None
        self.table: Chunks | None = None
        self.numbers = array("I")

    def reads(self) -> bytes:
        """All reads from the beginning to here."""
        parts: list[bytes] = []
        place: Place | None = self
        while place is not None:
            parts.append(place.made)
            place = place.parent
        return b"".join(reversed(parts))


class Beginnings:
    """The tree; ``first`` is the moment at its root, which belongs to the caller. What is read of the ``tracked`` units
    is all in which runs differ. ``close`` it.
    """

    def __init__(self, first: Moment, tracked: frozenset[int]) -> None:
        self._first = first
        self.tracked = tracked
        self._timeline: Timeline | None = None
        self._initial: Initial = _nothing
        self._start_anew()

    def _start_anew(self) -> None:
        self._root = Place(None, b"", self._first.block)
        self._root.moment = self._first
        self._kept: dict[Place, int] = {}  # places with a moment and its size, the one used last at the end
        self._chunks = Chunks(self._timeline, self._initial)
        self._size_of_reads = 0

    def find(self, settled: Settled, answer: Answer) -> Place:
        """The last place on the way of a recovery in this memory that is known; ``answer`` is asked for no reads but
        those that the recovery makes, and in their order.
        """
        if settled.timeline is not self._timeline or settled.initial is not self._initial:
            self._timeline, self._initial = settled.timeline, settled.initial
            self._chunks = Chunks(settled.timeline, settled.initial)  # what was certain there was so of other memories
        place: Place | None = self._root
        while place is not None:
            found, place = place, next((b for b in place.branches if self._is_on_way(b, settled, answer)), None)
        return found

    def _is_on_way(self, place: Place, settled: Settled, answer: Answer) -> bool:
        if place.table is not self._chunks:
            place.table, place.numbers = self._chunks, self._chunks.add(place.made)
        for number, doubtful in self._chunks.doubtful(place.numbers, settled.point):
            reads = Reads(self._chunks.data(place.numbers[number]))
            for at in doubtful:
                unit, mask, value = reads[at]
                if answer(unit, mask) != value:
                    return False
        return True

    def nearest(self, place: Place) -> tuple[Place, Moment]:
        """``place``, or the last one before it, that has a moment."""
        while place.moment is None:
            assert place.parent is not None
            place = place.parent
        if place in self._kept:
            self._kept[place] = self._kept.pop(place)
        return place, place.moment

    def keep(self, place: Place, moment: Moment) -> None:
        """Let runs begin at ``place``, as long as there is room."""
        assert moment.memory is not None
        place.moment = moment
        self._kept[place] = moment.memory.size
        while len(self._kept) > 1 and sum(self._kept.values()) > _MOST_MEMORY:
            self._drop(next(iter(self._kept)))

    def add(self, place: Place, reads: bytes, pauses: Sequence[tuple[int, int]]) -> None:
        """A run came from ``place`` and made ``reads``; ``pauses`` are those in them with many blocks before: the place
        in ``reads`` and the read's block.
        """
        begin = 0
        for end, block in pauses:
            made = reads[begin:end]
            known = (branch for branch in place.branches if branch.made == made and branch.block == block)
            found = next(known, None)
            if found is None:
                found = Place(place, made, block)
                if len(place.branches) == _MOST_BRANCHES:
                    self._forget(place.branches[0])
                place.branches.append(found)
                self._size_of_reads += end - begin
            place, begin = found, end
        if self._size_of_reads > _MOST_READS:
            self.close()
            self._start_anew()

    def _forget(self, place: Place) -> None:
        """Nobody comes by there any more."""
        for branch in place.branches:
            self._forget(branch)
        if place in self._kept:
            self._drop(place)

    def _drop(self, place: Place) -> None:
        del self._kept[place]
        assert place.moment is not None
        place.moment.close()
        place.moment = None

    def close(self) -> None:
        for place in list(self._kept):
            self._drop(place)
