"""Turns pages of a block into frames: a stable copy, zero pages left out; or a word to who can copy them itself."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from emu.host.pages import SUM, Taken, buffer, sums_of
from emu.migration.channel import Channel, Pacer
from emu.migration.compression import Packer
from emu.migration.errors import StreamError
from emu.migration.guest import Block
from emu.migration.progress import Progress
from emu.migration.stream import (
    MAX_COPY,
    MAX_PAGES_DATA,
    MAX_RUNS,
    Frame,
    FrameType,
    PageRuns,
    Run,
    encode_packed,
    encode_runs,
)
from emu.units import PAGE

_BATCH = MAX_PAGES_DATA // PAGE
MOST_UNDER_WAY = 8
"""COPY frames without an answer: enough that the peer goes on copying while an answer is compared here."""
_ZERO_BYTES = sums_of(bytes(PAGE))
_ZERO_SUM = int.from_bytes(_ZERO_BYTES, sys.byteorder)  # as a cast to "I" shows it


class PageSender:
    """Sends pages while the guest may still be writing them.

    A frame's checksum and its bytes must agree, so data pages are copied before they are summed: what the guest changes
    after the copy is in the dirty log and goes out in a later round. ``limit()`` is the bandwidth in bytes per second,
    ``copied()`` waits for the destination's answer to one COPY, ``packer`` compresses pages where that makes them less.
    ``lane`` tells that the channel is one of several.
    """

    def __init__(
        self,
        channel: Channel,
        progress: Progress,
        pacer: Pacer,
        limit: Callable[[], int],
        copied: Callable[[], Frame] | None = None,
        packer: Packer | None = None,
        *,
        lane: bool = False,
    ) -> None:
        self._channel = channel
        self._copied = copied
        self._packer = packer
        self._lane = lane
        self._progress = progress
        self._pacer = pacer
        self._limit = limit
        self._copy: memoryview | None = None
        self.normal = 0
        self.zeros = 0

    def send(self, number: int, block: Block, runs: Sequence[Run]) -> None:
        """Send ``runs`` of ``block``, which has the index ``number``. The runs must not overlap."""
        # Under a tight limit small frames keep the stream moving: one frame should take a tenth of a second.
        most = max(1, min(_BATCH, self._limit() // (10 * PAGE))) if self._limit() else _BATCH
        empty: list[Run] = []
        filling = _Filling()
        room = self._copy = self._copy or buffer(MAX_PAGES_DATA)
        for (run,) in batches(runs, most, most_runs=1):
            # Zero pages in between may cut a run into half as many as it has pages.
            if filling.pages + run.count > most or len(filling.runs) + run.count // 2 + 1 > MAX_RUNS:
                self._flush(number, filling)
                filling = _Filling()
            copy = room[filling.pages * PAGE : (filling.pages + run.count) * PAGE]
            filling.add(run, block.take(run.first * PAGE, copy, filling.digest), empty)
            if len(empty) >= MAX_RUNS:
                self.send_zeros(number, empty)
                empty = []
        self._flush(number, filling)
        self.send_zeros(number, empty)

    def send_references(self, number: int, block: Block, runs: Sequence[Run]) -> list[int]:
        """Like ``send`` to a peer on this host that has the block's file open: it copies the pages itself.

        Nothing is read before. The peer answers with the sums of the pages as they arrived, and those here are summed
        after that: returned are the pages that differ, because the guest has stored to them in between or because
        something is wrong. Few frames are under way, so that progress, pace and cancel mean what they say.
        """
        limit = self._limit()
        most = max(1, min(MAX_COPY, limit // (10 * PAGE))) if limit else MAX_COPY
        under_way: deque[tuple[Run, ...]] = deque()
        differing: list[int] = []
        for batch in batches(runs, most):
            if len(under_way) == MOST_UNDER_WAY:
                differing += self._compare(block, under_way.popleft())
            self._send(FrameType.COPY, PageRuns(number, batch))
            under_way.append(batch)
        while under_way:
            differing += self._compare(block, under_way.popleft())
        return differing

    def _compare(self, block: Block, batch: Sequence[Run]) -> list[int]:
        """Take the answer to the COPY of ``batch``; the pages whose sums there are not those here.

        What is summed is the memory that the guest sees: the destination has read the file by another way.
        """
        assert self._copied is not None
        there = self._copied().data
        spans = ((run.first * PAGE, (run.first + run.count) * PAGE) for run in batch)
        here = b"".join(sums_of(block.view[start:end]) for start, end in spans)
        if len(there) != len(here):
            raise StreamError("migration stream: the destination answered other pages than it was to copy")
        zeros = memoryview(here).cast("I").tolist().count(_ZERO_SUM) if _ZERO_BYTES in here else 0
        pages = len(here) // SUM
        self._progress.count(normal=pages - zeros, zeros=zeros, transferred=(pages - zeros) * PAGE)
        if there == here:
            return []
        numbers = (page for run in batch for page in range(run.first, run.first + run.count))
        return [
            page
            for at, page in zip(range(0, len(here), SUM), numbers, strict=True)
            if there[at : at + SUM] != here[at : at + SUM]
        ]

    def _flush(self, number: int, filling: _Filling) -> None:
        if not filling.runs:
            return
        assert self._copy is not None
        runs = PageRuns(number, tuple(filling.runs))
        data = [self._copy[start * PAGE : end * PAGE] for start, end in filling.spans]
        if self._packer is not None and len(packed := self._packer.pack(data)) < runs.pages * PAGE:
            self._send(FrameType.PACKED, runs, [packed], meta=encode_packed(runs, filling.digest))
        else:
            self._send(FrameType.PAGES, runs, data, filling.digest)

    def send_zeros(self, number: int, empty: Sequence[Run]) -> None:
        """Say of pages that they are all zero, without looking at them."""
        for index in range(0, len(empty), MAX_RUNS):
            self._send(FrameType.ZEROS, PageRuns(number, tuple(sorted(empty[index : index + MAX_RUNS], key=_first))))

    def _send(
        self,
        kind: FrameType,
        runs: PageRuns,
        data: Sequence[memoryview | bytes] = (),
        digest: int | None = None,
        *,
        meta: bytes | None = None,
    ) -> None:
        before = self._channel.sent
        self._channel.send(kind, encode_runs(runs) if meta is None else meta, data, digest=digest)
        moved = self._channel.sent - before
        zeros = runs.pages if kind is FrameType.ZEROS else 0
        self.zeros += zeros
        self.normal += runs.pages - zeros
        if kind is FrameType.COPY:
            self._progress.count(transferred=moved)  # of the pages' content more is known when they have arrived
            moved += runs.pages * PAGE
        else:
            on_lanes = moved if self._lane else 0
            self._progress.count(normal=runs.pages - zeros, zeros=zeros, transferred=moved, on_lanes=on_lanes)
        self._pacer.spend(moved, self._limit())


class _Filling:
    """A PAGES frame in the making: its ``runs``, where their pages are in the buffer (``spans``, in pages), and the CRC
    of these. ``pages`` of the buffer are used, zero pages among them."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.spans: list[tuple[int, int]] = []
        self.pages = self.digest = 0

    def add(self, run: Run, taken: Taken, zeros: list[Run]) -> None:
        """Add ``run``, whose pages were ``taken`` behind those that are there; zero pages go to ``zeros`` instead."""
        start = 0
        for first, count in (*taken.zero, (run.count, 0)):
            if first > start:
                self._add(Run(run.first + start, first - start), self.pages + start)
            if count:
                _append(zeros, Run(run.first + first, count))
            start = first + count
        self.pages += run.count
        self.digest = taken.crc

    def _add(self, run: Run, at: int) -> None:
        count = len(self.runs)
        _append(self.runs, run)
        if count == len(self.runs) and self.spans[-1][1] == at:
            self.spans[-1] = (self.spans[-1][0], at + run.count)
        else:
            self.spans.append((at, at + run.count))


def batches(runs: Sequence[Run], most: int, most_runs: int = MAX_RUNS) -> Iterator[tuple[Run, ...]]:
    """``runs`` in pieces of at most ``most`` pages and ``most_runs`` runs."""
    batch: list[Run] = []
    filled = 0
    for run in runs:
        at, left = run.first, run.count
        while left:
            count = min(left, most - filled)
            batch.append(Run(at, count))
            filled, at, left = filled + count, at + count, left - count
            if filled == most or len(batch) == most_runs:
                yield tuple(batch)
                batch, filled = [], 0
    if batch:
        yield tuple(batch)


def _first(run: Run) -> int:
    return run.first


def _append(runs: list[Run], run: Run) -> None:
    """Append ``run``, joined with its predecessor where it continues it."""
    if runs and runs[-1].first + runs[-1].count == run.first:
        runs[-1] = Run(runs[-1].first, runs[-1].count + run.count)
    else:
        runs.append(run)


def split_holes(block: Block) -> tuple[list[Run], list[Run]]:
    """All pages of ``block`` as runs that may hold data, and runs known to be zero (holes of its file)."""
    data: list[Run] = []
    holes: list[Run] = []
    at = 0
    for start, end in block.data():
        if start > at:
            holes.append(Run(at // PAGE, (start - at) // PAGE))
        data.append(Run(start // PAGE, (end - start) // PAGE))
        at = end
    if at < block.size:
        holes.append(Run(at // PAGE, (block.size - at) // PAGE))
    return data, holes
