"""The migration stream as a machine without sockets: bytes in, frames out, and the other way round.

A stream is a 16-byte header and then frames. Everything is little-endian.

    stream   magic "emu-migr", version u16, flags u16 (zero), CRC32C u32 of the twelve bytes before it
    frame    type u16, meta length u16, data length u32, sequence u32, data CRC u32, chain u32, then meta, then data

``chain`` is the CRC32C of the header's other fields and of meta, seeded with the chain of the frame before (the first
with the stream header's CRC). So a frame that is changed, lost, repeated or moved breaks the chain of itself or of its
successor, and where data may land is proven before one byte of it is received. Data has a CRC of its own, checked
before any of it is stored.

Versions: a receiver takes exactly its own version. Unknown frame types, flags and lengths are errors.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emu.host.pages import SUM, crc32c
from emu.migration.errors import StreamError
from emu.units import KIB, MIB, PAGE

MAGIC = b"emu-migr"
VERSION = 5

_STREAM = struct.Struct("<8sHHI")
_FRAME = struct.Struct("<HHIIII")
_SEALED = struct.Struct("<HHIII")
_RUNS = struct.Struct("<HH")
_RUN = struct.Struct("<II")

MAX_RUNS = 256
_DIGEST = struct.Struct("<I")
MAX_META = _DIGEST.size + _RUNS.size + MAX_RUNS * _RUN.size
MAX_PAGES_DATA = 4 * MIB
MAX_COPY = 16 * MIB // PAGE
"""Pages in one COPY: enough to make the frame's cost vanish, few enough to be done in some milliseconds."""


class FrameType(enum.IntEnum):
    """Source to destination from 1, destination to source from 16."""

    PREAMBLE = 1
    PAGES = 2
    ZEROS = 3
    ROUND_END = 4
    STATE = 5
    FINISH = 6
    COMMIT = 7
    KEEPALIVE = 8
    ABORT = 9
    COPY = 10
    LANE = 11
    PACKED = 12
    SYNC = 13
    ACCEPT = 16
    REFUSE = 17
    ROUND_DURABLE = 18
    DURABLE = 19
    RUNNING = 20
    FAILED = 21
    PROGRESS = 22
    COPIED = 23
    READY = 24


_DATA_LIMIT = {
    FrameType.PREAMBLE: 256 * KIB,
    FrameType.PAGES: MAX_PAGES_DATA,
    FrameType.PACKED: MAX_PAGES_DATA,
    FrameType.STATE: 16 * MIB,
    FrameType.ABORT: 4 * KIB,
    FrameType.ACCEPT: 256 * KIB,
    FrameType.REFUSE: 64 * KIB,
    FrameType.DURABLE: 64 * KIB,
    FrameType.FAILED: 4 * KIB,
    FrameType.COPIED: MAX_COPY * SUM,
}
FROM_SOURCE = frozenset(kind for kind in FrameType if kind < FrameType.ACCEPT)
ON_A_LANE = frozenset({FrameType.LANE, FrameType.PAGES, FrameType.ZEROS, FrameType.PACKED, FrameType.SYNC})
FROM_DESTINATION = frozenset(kind for kind in FrameType if kind >= FrameType.ACCEPT)


@dataclass(frozen=True, slots=True)
class Frame:
    """One received frame. ``data`` is empty for pages: their bytes are already where ``place`` wanted them."""

    kind: FrameType
    meta: bytes
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` pages of one block from page number ``first``."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class PageRuns:
    """What PAGES, ZEROS, PACKED and COPY name: runs of pages of the block with number ``block`` in the preamble."""

    block: int
    runs: tuple[Run, ...]

    @property
    def pages(self) -> int:
        return sum(run.count for run in self.runs)


def encode_runs(runs: PageRuns) -> bytes:
    return _RUNS.pack(runs.block, len(runs.runs)) + b"".join(_RUN.pack(run.first, run.count) for run in runs.runs)


def encode_packed(runs: PageRuns, digest: int) -> bytes:
    """The meta of compressed pages: the CRC of the pages themselves, and their runs."""
    return _DIGEST.pack(digest) + encode_runs(runs)


def decode_packed(meta: bytes) -> tuple[bytes, int]:
    """The encoded runs and the CRC of the pages that ``encode_packed`` put together."""
    if len(meta) < _DIGEST.size:
        raise StreamError("migration stream: a page frame names no pages")
    return meta[_DIGEST.size :], _DIGEST.unpack_from(meta)[0]


def decode_runs(meta: bytes, block_pages: Sequence[int]) -> PageRuns:
    """The runs named by ``meta``, proven to lie inside the announced blocks (``block_pages``: pages of each block)."""
    if len(meta) < _RUNS.size:
        raise StreamError("migration stream: a page frame names no pages")
    block, count = _RUNS.unpack_from(meta)
    if block >= len(block_pages):
        raise StreamError(f"migration stream: pages of block {block}, but only {len(block_pages)} were announced")
    if not 1 <= count <= MAX_RUNS or len(meta) != _RUNS.size + count * _RUN.size:
        raise StreamError(f"migration stream: {count} runs of pages in {len(meta)} bytes")
    runs = tuple(Run(first, pages) for first, pages in _RUN.iter_unpack(meta[_RUNS.size :]))
    end = 0
    for run in runs:
        if run.count == 0 or run.first < end or run.first + run.count > block_pages[block]:
            raise StreamError(
                f"migration stream: {run.count} pages from {run.first} are out of order or outside block {block}"
                f" of {block_pages[block]} pages"
            )
        end = run.first + run.count
    return PageRuns(block, runs)


class Encoder:
    """Makes the bytes of one direction. ``frame`` gives header and meta; the caller sends them and then the data."""

    def __init__(self) -> None:
        head = MAGIC + struct.pack("<HH", VERSION, 0)
        self._chain = crc32c(head)
        self._sequence = 0
        self.opening = head + struct.pack("<I", self._chain)

    def frame(
        self,
        kind: FrameType,
        meta: bytes = b"",
        data: Sequence[memoryview | bytes] = (),
        digest: int | None = None,
    ) -> bytes:
        """Header and meta of the next frame, whose data are the buffers ``data`` in order; they may not change now.

        ``digest`` is the CRC of the data, where the caller has it already.
        """
        length = sum(map(len, data))
        if digest is None:
            digest = 0
            for part in data:
                digest = crc32c(part, digest)
        if len(meta) > MAX_META or length > _DATA_LIMIT.get(kind, 0):
            raise StreamError(f"migration stream: {length} bytes do not fit into a {kind.name} frame")
        sealed = _SEALED.pack(kind, len(meta), length, self._sequence, digest)
        self._chain = crc32c(meta, crc32c(sealed, self._chain))
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return sealed + struct.pack("<I", self._chain) + meta


Place = Callable[[bytes, int], list[memoryview]]


class Decoder:
    """Takes the bytes of one direction apart, holding at most one frame.

    ``buffers()`` says where the next bytes belong; after receiving n of them ``advance(n)`` gives the frame they
    completed, or None. ``accepts`` are the frame types this side may receive at all. ``place(meta, length)`` gives
    the buffers for the data of a PAGES frame, ``length`` bytes in all, or raises StreamError; without it the frame
    carries its data. While ``in_data`` the buffers are for a frame's data, and ``digest`` is the CRC of what has come.
    """

    def __init__(self, accepts: frozenset[FrameType], place: Place | None = None) -> None:
        self._accepts = accepts
        self._place = place
        self._chain = 0
        self._sequence = 0
        self._kind: FrameType | None = None
        self._data_crc = 0
        self._data_length = 0
        self._meta = b""
        self._scratch = bytearray(_STREAM.size)
        self._targets = [memoryview(self._scratch)]
        self.in_data = False
        self.digest = 0
        self._next = self._opening

    def buffers(self) -> list[memoryview]:
        """Where the next bytes go, never empty; a receiver may fill any leading part of them."""
        return self._targets

    def advance(self, count: int, digest: int | None = None) -> Frame | None:
        """Take note that ``count`` bytes were put into ``buffers()``; the frame that is now complete, or None.

        ``digest`` is what has become of ``self.digest`` by these bytes, where the caller knows.
        """
        targets = list(self._targets)
        while count:
            taken = min(count, len(targets[0]))
            if self.in_data and digest is None:
                self.digest = crc32c(targets[0][:taken], self.digest)
            targets[0] = targets[0][taken:]
            count -= taken
            if not targets[0]:
                targets.pop(0)
        if digest is not None:
            self.digest = digest
        if targets:
            self._targets = targets
            return None
        return self._next()

    def _expect(self, length: int, then: Callable[[], Frame | None]) -> None:
        self._scratch = bytearray(length)
        self._await([memoryview(self._scratch)], then)

    def _await(self, targets: list[memoryview], then: Callable[[], Frame | None]) -> None:
        self._targets = targets
        self._next = then

    def _opening(self) -> Frame | None:
        magic, version, flags, digest = _STREAM.unpack(self._scratch)
        if magic != MAGIC:
            raise StreamError("this is not an emu migration stream", "check that the address or file belongs to emu")
        if digest != crc32c(self._scratch[:-4]):
            raise StreamError("migration stream: the header is corrupted")
        if version != VERSION or flags:
            raise StreamError(
                f"migration stream of version {version} with flags {flags:#x}, this emu reads version {VERSION}",
                "use the same emu release on both sides",
            )
        self._chain = digest
        self._expect(_FRAME.size, self._header)
        return None

    def _header(self) -> Frame | None:
        kind, meta_length, data_length, sequence, self._data_crc, _ = _FRAME.unpack(self._scratch)
        if sequence != self._sequence:
            raise StreamError(
                f"migration stream: frame {sequence} where frame {self._sequence} belongs (lost or repeated)"
            )
        if kind not in self._accepts:
            raise StreamError(f"migration stream: frame type {kind} is unknown or not allowed in this direction")
        self._kind = FrameType(kind)
        if meta_length > MAX_META or data_length > _DATA_LIMIT.get(self._kind, 0):
            raise StreamError(f"migration stream: a {self._kind.name} frame of {data_length} bytes is too long")
        self._data_length = data_length
        header = bytes(self._scratch)
        if not meta_length:
            return self._meta_complete(header, b"")
        self._expect(meta_length, lambda: self._meta_complete(header, bytes(self._scratch)))
        return None

    def _meta_complete(self, header: bytes, meta: bytes) -> Frame | None:
        chain = crc32c(meta, crc32c(header[:-4], self._chain))
        if chain != int.from_bytes(header[-4:], "little"):
            raise StreamError(f"migration stream: frame {self._sequence} is corrupted or out of order")
        self._chain = chain
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._meta = meta
        if not self._data_length:
            if self._kind is FrameType.PAGES:
                raise StreamError("migration stream: a page frame without data")
            return self._complete(b"")
        self.in_data, self.digest = True, 0
        if self._kind is FrameType.PAGES and self._place is not None:
            targets = self._place(meta, self._data_length)
            if sum(map(len, targets)) != self._data_length or not all(map(len, targets)):
                raise StreamError("migration stream: a page frame's data is not as long as the pages it names")
            self._await(targets, self._data_complete)
        else:
            self._expect(self._data_length, self._data_complete)
        return None

    def _data_complete(self) -> Frame | None:
        self.in_data = False
        if self.digest != self._data_crc:
            raise StreamError(f"migration stream: the data of frame {self._sequence - 1} is corrupted")
        placed = self._kind is FrameType.PAGES and self._place is not None
        return self._complete(b"" if placed else bytes(self._scratch))

    def _complete(self, data: bytes) -> Frame:
        assert self._kind is not None
        frame = Frame(self._kind, self._meta, data)
        self._expect(_FRAME.size, self._header)
        return frame
