"""The tree of everything that recoveries have read so far.

A run of recovery reads thousands of bytes and nearly all of them are the same in the next run. So a node keeps the
reads that follow it without a branch, in chunks that runs share: a chunk ends where its last unit says so, whatever
lies before it, and so two runs that go different ways for a moment fall into step again.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from emu.cpu.engine.trace import cut
from emu.persistence.model.crashstate import Initial, Read, content_of
from emu.persistence.model.events import Event
from emu.persistence.model.timeline import Timeline

if TYPE_CHECKING:
    from emu.persistence.lab.growth import Verdict, Walker

_READ = struct.Struct("<QQQ")
# About one unit in 33 ends a chunk, and no chunk is longer than this.
_ENDS, _AMONG, _LONGEST = 24, 797, 128


class Reads(Sequence[Read]):
    """Reads in their order, 24 bytes each: unit, mask and value."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @classmethod
    def of(cls, reads: Iterable[Read]) -> Reads:
        return reads if isinstance(reads, Reads) else cls(b"".join(_READ.pack(*read) for read in reads))

    def __len__(self) -> int:
        return len(self.data) // _READ.size

    def __iter__(self) -> Iterator[Read]:
        return _READ.iter_unpack(self.data)

    @overload
    def __getitem__(self, index: int) -> Read: ...
    @overload
    def __getitem__(self, index: slice) -> Reads: ...
    def __getitem__(self, index: int | slice) -> Read | Reads:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1
            return Reads(self.data[start * _READ.size : stop * _READ.size])
        at = range(len(self))[index] * _READ.size
        unit, mask, value = _READ.unpack_from(self.data, at)
        return unit, mask, value

    def pieces(self) -> Iterator[bytes]:
        """The reads in chunks, which end after certain units and not at certain places."""
        begin = 0
        for end in cut(self.data, ends=_ENDS, among=_AMONG, longest=_LONGEST):
            yield self.data[begin:end]
            begin = end


class Chunk:
    """Some reads that follow each other. From crash point ``first`` on and before ``last``, only the ``doubtful`` ones,
    each behind its position, can turn out otherwise; that is remembered for the crash points last asked about.
    """

    __slots__ = ("data", "doubtful", "first", "last")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.first, self.last = 0, 0
        self.doubtful: tuple[tuple[int, int, int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.data) // _READ.size

    def all(self) -> Iterator[tuple[int, int, int, int]]:
        """Each read behind its position."""
        return ((at, *read) for at, read in enumerate(Reads(self.data)))

    def look_at(self, timeline: Timeline, point: int, initial: Initial) -> tuple[tuple[int, int, int, int], ...]:
        """Find out which reads are ``doubtful``: those that need not give these values in a memory of ``point``."""
        first, last, doubtful = 0, len(timeline.points), []
        for number, (unit, mask, value) in enumerate(Reads(self.data)):
            since, contents = timeline.settled(unit)
            at = bisect_right(since, point)
            first = max(first, since[at - 1])
            last = min(last, since[at]) if at < len(since) else last
            content = contents[at - 1]
            if content is None or content_of(unit, content, initial) & mask != value:
                doubtful.append((number, unit, mask, value))
        self.first, self.last, self.doubtful = first, last, tuple(doubtful)
        return self.doubtful


@dataclass(slots=True, eq=False)
class Node:
    """A place in the tree: what was read before it lies above it. After ``depth`` reads it goes on with those of its
    ``chunks``; then it forks at ``read``, ends with a ``verdict``, or is open: no run came by yet.

    ``crashes`` are what recovery had done, as events, at its crash points, each with the number of reads before it.
    """

    parent: Node | None
    came_by: Read | None
    depth: int
    chunks: list[Chunk]
    children: dict[int, Node]
    waiting: list[Walker]
    crashes: list[tuple[int, tuple[Event, ...]]]
    read: tuple[int, int] | None = None
    verdict: Verdict | None = None

    @property
    def is_open(self) -> bool:
        return self.read is None and self.verdict is None

    def path(self, upto: int | None = None) -> tuple[Read, ...]:
        """The reads from the beginning to the end of this node, or only the first ``upto``."""
        parts: list[bytes] = []
        node: Node | None = self
        while node is not None:
            parts += [chunk.data for chunk in reversed(node.chunks)]
            if node.came_by is not None:
                parts.append(_READ.pack(*node.came_by))
            node = node.parent
        reads = Reads(b"".join(reversed(parts)))
        return tuple(reads if upto is None else reads[:upto])

    def child(self, value: int) -> Node:
        """Where it goes on when the read at the fork gives ``value``."""
        found = self.children.get(value)
        if found is None:
            assert self.read is not None
            depth = self.depth + sum(map(len, self.chunks)) + 1
            found = self.children[value] = new_node(self, (*self.read, value), depth)
        return found


def new_node(parent: Node | None = None, came_by: Read | None = None, depth: int = 0) -> Node:
    """An open node."""
    return Node(parent, came_by, depth, [], {}, [], [])


class Tree:
    """Nodes and the chunks that they share."""

    def __init__(self) -> None:
        self.root = new_node()
        self._chunks: dict[bytes, Chunk] = {}

    def chunk(self, data: bytes) -> Chunk:
        """The one chunk of these reads."""
        found = self._chunks.get(data)
        if found is None:
            found = self._chunks[data] = Chunk(data)
        return found

    def grow(self, node: Node, reads: Iterable[Read], verdict: Verdict) -> None:
        """A run came by the open ``node``, read ``reads`` behind it and ended with ``verdict``."""
        node.chunks = [self.chunk(data) for data in Reads.of(reads).pieces()]
        node.verdict = verdict

    def split(self, node: Node, chunk: int, at: int) -> Node:
        """A new node above ``node``, which forks at read ``at`` of its chunk number ``chunk``. ``node`` is what comes
        after that read gave the value that it has had so far.
        """
        reads = Reads(node.chunks[chunk].data)
        unit, mask, value = reads[at]
        upper = new_node(node.parent, node.came_by, node.depth)
        upper.read = unit, mask
        upper.children[value] = node
        upper.chunks = node.chunks[:chunk] + [self.chunk(data) for data in (reads[:at].data,) if data]
        if node.parent is None or node.came_by is None:
            self.root = upper
        else:
            node.parent.children[node.came_by[2]] = upper
        node.chunks = [self.chunk(data) for data in (reads[at + 1 :].data,) if data] + node.chunks[chunk + 1 :]
        forks_at = upper.depth + sum(map(len, upper.chunks))
        node.parent, node.came_by, node.depth = upper, (unit, mask, value), forks_at + 1
        upper.crashes = [crash for crash in node.crashes if crash[0] <= forks_at]
        node.crashes = node.crashes[len(upper.crashes) :]
        return upper

    def add(self, reads: Iterable[Read], verdict: Verdict) -> None:
        """Put a whole run, from its beginning, into the tree."""
        path = Reads.of(reads)
        node, done = self.root, 0
        while not node.is_open:
            place = self._leaves(node, path, done)
            if place is not None:
                node = self.split(node, *place)
            done = node.depth + sum(map(len, node.chunks)) + 1
            if node.read is None or done > len(path):
                return  # known
            node = node.child(path[done - 1][2])
        self.grow(node, path[done:], verdict)

    @staticmethod
    def _leaves(node: Node, path: Reads, done: int) -> tuple[int, int] | None:
        """Where in the chunks of ``node`` a path is another one, of which ``done`` reads lie above it."""
        for number, chunk in enumerate(node.chunks):
            if path.data[done * _READ.size : (done + len(chunk)) * _READ.size] != chunk.data:
                return number, next(at for at, read in enumerate(Reads(chunk.data)) if path[done + at] != read)
            done += len(chunk)
        return None

    def find(self, content: Callable[[int], int]) -> Node | None:
        """Where recovery ends in the memory of these units, if a run has told."""
        node: Node | None = self.root
        while node is not None:
            for chunk in node.chunks:
                if any(content(unit) & mask != value for unit, mask, value in Reads(chunk.data)):
                    return None
            if node.read is None:
                return node if node.verdict is not None else None
            unit, mask = node.read
            node = node.children.get(content(unit) & mask)
        return None
