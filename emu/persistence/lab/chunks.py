"""Reads of recoveries in chunks, each kept once and known by its number, over the cffi module ``_chunks``.

A run of recovery reads thousands of bytes and nearly all of them are the same in the next run. A chunk ends where its
last unit says so, whatever lies before it, and so two runs that go different ways for a moment fall into step again.
"""

from __future__ import annotations

import struct
import weakref
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from emu.errors import HostError
from emu.persistence.lab._chunks import ffi, lib
from emu.persistence.model.crashstate import Initial, content_of
from emu.persistence.model.timeline import Timeline

if TYPE_CHECKING:
    from emu.native import Pointer
    from emu.persistence.lab._chunks import emu_chunks

READ_SIZE = ffi.sizeof("emu_read")
"""Bytes of a read: unit, mask and value, 8 bytes each, little-endian."""

_LONGEST = 128


class Chunks:
    """Chunks, numbered from 0. Of the reads in them it is known which can turn out otherwise in the memories of a crash
    point of ``timeline``; without one all can.

    HostError where there is no memory left.
    """

    def __init__(self, timeline: Timeline | None = None, initial: Initial = lambda unit: 0) -> None:
        self._timeline = timeline
        self._initial = initial
        self._settled: set[int] = set()
        made: emu_chunks = lib.emu_chunks_new()
        if not made:
            raise _starved()
        self._chunks = made
        self._places = ffi.new("uint32_t[]", _LONGEST)
        self._count = ffi.new("size_t *")
        weakref.finalize(self, lib.emu_chunks_free, made)

    def __iter__(self) -> Iterator[bytes]:
        """The reads of each chunk."""
        return map(self.data, range(self._chunks.chunk_count))

    def add(self, reads: bytes) -> array[int]:
        """The numbers of the chunks that these reads are cut into."""
        count, before = len(reads) // READ_SIZE, self._chunks.chunk_count
        numbers = array("I", bytes(4 * count))
        found = lib.emu_chunks_add(
            self._chunks, ffi.cast("emu_read *", ffi.from_buffer(reads)), count, _as_numbers(numbers)
        )
        if found < 0:
            raise _starved()
        if self._timeline is not None:
            for number in range(before, self._chunks.chunk_count):
                for unit, _, _ in struct.iter_unpack("<QQQ", self.data(number)):
                    if unit not in self._settled:
                        self._settle(self._timeline, unit)
        return numbers[:found]

    def data(self, number: int) -> bytes:
        """The reads of a chunk."""
        reads = lib.emu_chunks_reads(self._chunks, number, self._count)
        return bytes(ffi.buffer(reads, self._count[0] * READ_SIZE))

    def size(self, numbers: array[int]) -> int:
        """How many reads these chunks have."""
        return lib.emu_chunks_size(self._chunks, _as_numbers(numbers), len(numbers))

    def doubtful(self, numbers: array[int], point: int) -> Iterator[tuple[int, Sequence[int]]]:
        """Which of these chunks, by their places in ``numbers``, have reads that can turn out otherwise in a memory of
        ``point``, and the places of these in the chunk.
        """
        at, count, wanted = 0, len(numbers), _as_numbers(numbers)
        while True:
            at = lib.emu_chunks_look(self._chunks, wanted, at, count, point, self._places, self._count)
            if at == count:
                return
            yield at, ffi.unpack(self._places, self._count[0])
            at += 1

    def _settle(self, timeline: Timeline, unit: int) -> None:
        """Tell what is settled of a unit."""
        self._settled.add(unit)
        since, contents = timeline.settled(unit)
        values = [0 if content is None else content_of(unit, content, self._initial) for content in contents]
        known = [content is not None for content in contents]
        if lib.emu_chunks_settle(
            self._chunks, unit, ffi.new("uint64_t[]", since), ffi.new("uint64_t[]", values),
            ffi.new("uint8_t[]", known), len(since),
        ):  # fmt: skip
            raise _starved()


def _as_numbers(numbers: array[int]) -> Pointer:
    pointer: Pointer = ffi.cast("uint32_t *", ffi.from_buffer(numbers))
    return pointer


def _starved() -> HostError:
    return HostError("not enough memory to keep what recoveries read", "close other programs")
