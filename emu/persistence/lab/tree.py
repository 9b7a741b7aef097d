"""The tree of everything that recoveries have read so far.

A node keeps the reads that follow it without a branch, as numbers of chunks that all runs share (``lab.chunks``): so
what a run has read costs the tree little, and following it costs little where it can only be as it was.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from emu.persistence.lab.chunks import Chunks
from emu.persistence.model.crashstate import Read
from emu.persistence.model.events import Event

if TYPE_CHECKING:
    from emu.persistence.lab.growth import Verdict, Walker

_READ = struct.Struct("<QQQ")


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


@dataclass(slots=True, eq=False)
class Node:
    """A place in the tree: what was read before it lies above it. After ``depth`` reads it goes on with ``length``
    more, those of the ``chunks`` of these numbers in ``table``; then it forks at ``read``, ends with a ``verdict``, or
    is open: no run came by yet.

    ``crashes`` are what recovery had done, as events, at its crash points, each with the number of reads before it.
    """

    parent: Node | None
    came_by: Read | None
    depth: int
    table: Chunks
    chunks: array[int]
    length: int
    children: dict[int, Node]
    waiting: list[Walker]
    crashes: list[tuple[int, tuple[Event, ...]]]
    read: tuple[int, int] | None = None
    verdict: Verdict | None = None

    @property
    def is_open(self) -> bool:
        return self.read is None and self.verdict is None

    @property
    def reads(self) -> Reads:
        """The reads from the beginning to the end of this node."""
        parts: list[bytes] = []
        node: Node | None = self
        while node is not None:
            parts += [self.table.data(number) for number in reversed(node.chunks)]
            if node.came_by is not None:
                parts.append(_READ.pack(*node.came_by))
            node = node.parent
        return Reads(b"".join(reversed(parts)))

    def path(self) -> tuple[Read, ...]:
        """As ``reads``, to be compared and hashed."""
        return tuple(self.reads)

    def child(self, value: int) -> Node:
        """Where it goes on when the read at the fork gives ``value``."""
        found = self.children.get(value)
        if found is None:
            assert self.read is not None
            found = self.children[value] = new_node(self.table, self, (*self.read, value), self.forks_at + 1)
        return found

    @property
    def forks_at(self) -> int:
        """How many reads lie above its fork or its end."""
        return self.depth + self.length

    def go_on(self, chunks: array[int]) -> None:
        """Let the reads of these chunks be what follows it."""
        self.chunks, self.length = chunks, self.table.size(chunks)

    def pieces(self) -> Iterator[Reads]:
        """The reads of each of its chunks."""
        return (Reads(self.table.data(number)) for number in self.chunks)


def new_node(table: Chunks, parent: Node | None = None, came_by: Read | None = None, depth: int = 0) -> Node:
    """An open node."""
    return Node(parent, came_by, depth, table, array("I"), 0, {}, [], [])


class Tree:
    """Nodes, and the ``chunks`` that they share."""

    def __init__(self, chunks: Chunks | None = None) -> None:
        self.chunks = chunks or Chunks()
        self.root = new_node(self.chunks)

    def grow(self, node: Node, reads: Iterable[Read], verdict: Verdict) -> None:
        """A run came by the open ``node``, read ``reads`` behind it and ended with ``verdict``."""
        node.go_on(self.chunks.add(Reads.of(reads).data))
        node.verdict = verdict

    def split(self, node: Node, chunk: int, at: int) -> Node:
        """A new node above ``node``, which forks at read ``at`` of its chunk number ``chunk``. ``node`` is what comes
        after that read gave the value that it has had so far.
        """
        reads = Reads(self.chunks.data(node.chunks[chunk]))
        unit, mask, value = reads[at]
        upper = new_node(self.chunks, node.parent, node.came_by, node.depth)
        upper.read = unit, mask
        upper.children[value] = node
        before, behind = node.chunks[:chunk], node.chunks[chunk + 1 :]
        upper.length = self.chunks.size(before) + at
        upper.chunks = before + self.chunks.add(reads[:at].data)
        if node.parent is None or node.came_by is None:
            self.root = upper
        else:
            node.parent.children[node.came_by[2]] = upper
        node.chunks = self.chunks.add(reads[at + 1 :].data) + behind
        node.length -= upper.length + 1
        forks_at = upper.forks_at
        node.parent, node.came_by, node.depth = upper, (unit, mask, value), forks_at + 1
        upper.crashes = [crash for crash in node.crashes if crash[0] <= forks_at]
        node.crashes = node.crashes[len(upper.crashes) :]
        return upper

    def add(self, reads: Iterable[Read], verdict: Verdict) -> Node:
        """Put a whole run, from its beginning, into the tree; where it ends, also when that was known."""
        path = Reads.of(reads)
        node, done = self.root, 0
        while not node.is_open:
            place = self._leaves(node, path, done)
            if place is not None:
                node = self.split(node, *place)
            done = node.forks_at + 1
            if node.read is None or done > len(path):
                return node
            node = node.child(path[done - 1][2])
        self.grow(node, path[done:], verdict)
        return node

    @staticmethod
    def _leaves(node: Node, path: Reads, done: int) -> tuple[int, int] | None:
        """Where in the chunks of ``node`` a path is another one, of which ``done`` reads lie above it."""
        for number, piece in enumerate(node.pieces()):
            if path.data[done * _READ.size : (done + len(piece)) * _READ.size] != piece.data:
                return number, next(at for at, read in enumerate(piece) if path[done + at] != read)
            done += len(piece)
        return None

    def find(self, content: Callable[[int], int]) -> Node | None:
        """Where recovery ends in the memory of these units, if a run has told."""
        node: Node | None = self.root
        while node is not None:
            for piece in node.pieces():
                if any(content(unit) & mask != value for unit, mask, value in piece):
                    return None
            if node.read is None:
                return node if node.verdict is not None else None
            unit, mask = node.read
            node = node.children.get(content(unit) & mask)
        return None
