"""Turns pages of a block into frames: a stable copy, zero pages left out, at most 1 MiB in one frame."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from emu.host.pages import SUM, is_zero, sums_of
from emu.migration.channel import Channel, Pacer
from emu.migration.errors import StreamError
from emu.migration.guest import BackingFile, Block
from emu.migration.progress import Progress
from emu.migration.stream import MAX_COPY, MAX_PAGES_DATA, MAX_RUNS, Frame, FrameType, PageRuns, Run, encode_runs
from emu.units import PAGE

_BATCH = MAX_PAGES_DATA // PAGE
_MOST_UNDER_WAY = 3
"""COPY frames without an answer: one whose answer is looked at, one that is carried out, and the next."""
_ZERO_SUM = int.from_bytes(sums_of(bytes(PAGE)), sys.byteorder)  # as a cast to "I" shows it


class PageSender:
    """Sends pages while the guest may still be writing them.

    A frame's checksum and its bytes must agree, so data pages are copied before they are summed: what the guest changes
    after the copy is in the dirty log and goes out in a later round. ``limit()`` is the bandwidth in bytes per second,
    ``copied()`` waits for the destination's answer to one COPY.
    """

    def __init__(
        self,
        channel: Channel,
        progress: Progress,
        pacer: Pacer,
        limit: Callable[[], int],
        copied: Callable[[], Frame],
    ) -> None:
        self._channel = channel
        self._copied = copied
        self._progress = progress
        self._pacer = pacer
        self._limit = limit
        self._copy = memoryview(bytearray(MAX_PAGES_DATA))
        self.normal = 0
        self.zeros = 0

    def send(self, number: int, view: memoryview, runs: Sequence[Run]) -> None:
        """Send ``runs`` of the block with index ``number`` whose bytes are ``view``. The runs must not overlap."""
        empty: list[Run] = []
        batch: list[Run] = []
        filled = 0
        # Under a tight limit small frames keep the stream moving: one frame should take a tenth of a second.
        most = max(1, min(_BATCH, self._limit() // (10 * PAGE))) if self._limit() else _BATCH
        for run in runs:
            at, left = run.first, run.count
            while left:
                count = min(left, most - filled)
                piece = view[at * PAGE : (at + count) * PAGE]
                if piece[0] == 0 and is_zero(piece):
                    _append(empty, Run(at, count))
                else:
                    self._copy[filled * PAGE : (filled + count) * PAGE] = piece
                    batch.append(Run(at, count))
                    filled += count
                at, left = at + count, left - count
                if filled == most or len(batch) == MAX_RUNS:
                    self._flush(number, batch, empty)
                    batch, filled = [], 0
                if len(empty) >= MAX_RUNS:
                    self.send_zeros(number, empty)
                    empty = []
        self._flush(number, batch, empty)
        self.send_zeros(number, empty)

    def send_references(self, number: int, file: BackingFile, runs: Sequence[Run]) -> list[int]:
        """Like ``send`` to a peer on this host that has the block's ``file`` open: it copies the pages itself.

        Nothing is read before. The peer answers with the sums of the pages as they arrived, and those here are summed
        after that: returned are the pages that differ, because the guest has stored to them in between or because
        something is wrong. Few frames are under way, so that progress, pace and cancel mean what they say.
        """
        limit = self._limit()
        most = max(1, min(MAX_COPY, limit // (10 * PAGE))) if limit else MAX_COPY
        under_way: deque[tuple[Run, ...]] = deque()
        differing: list[int] = []
        for batch in _batches(runs, most):
            if len(under_way) == _MOST_UNDER_WAY:
                differing += self._compare(file, under_way.popleft())
            self._send(FrameType.COPY, PageRuns(number, batch))
            under_way.append(batch)
        while under_way:
            differing += self._compare(file, under_way.popleft())
        return differing

    def _compare(self, file: BackingFile, batch: Sequence[Run]) -> list[int]:
        """Take the answer to the COPY of ``batch``; the pages whose sums there are not those here."""
        there = self._copied().data
        here = b"".join(file.sums(run.first * PAGE, run.count) for run in batch)
        if len(there) != len(here):
            raise StreamError("migration stream: the destination answered other pages than it was to copy")
        zeros = memoryview(here).cast("I").tolist().count(_ZERO_SUM)
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

    def _flush(self, number: int, batch: Sequence[Run], empty: list[Run]) -> None:
        """Send the copied pages of ``batch``, except zero pages, which are added to ``empty``."""
        runs: list[Run] = []
        data: list[memoryview] = []
        base = 0
        for run in batch:
            copied = self._copy[base * PAGE : (base + run.count) * PAGE]
            base += run.count
            for part in _part(run, copied, runs, empty):
                start = part.first - run.first
                data.append(copied[start * PAGE : (start + part.count) * PAGE])
        # Zero pages can cut a batch into more runs than one frame holds.
        for index in range(0, len(runs), MAX_RUNS):
            pieces = data[index : index + MAX_RUNS]
            self._send(FrameType.PAGES, PageRuns(number, tuple(runs[index : index + MAX_RUNS])), pieces)

    def send_zeros(self, number: int, empty: Sequence[Run]) -> None:
        """Say of pages that they are all zero, without looking at them."""
        for index in range(0, len(empty), MAX_RUNS):
            self._send(FrameType.ZEROS, PageRuns(number, tuple(sorted(empty[index : index + MAX_RUNS], key=_first))))

    def _send(self, kind: FrameType, runs: PageRuns, data: Sequence[memoryview] = ()) -> None:
        before = self._channel.sent
        self._channel.send(kind, encode_runs(runs), data)
        moved = self._channel.sent - before
        zeros = runs.pages if kind is FrameType.ZEROS else 0
        self.zeros += zeros
        self.normal += runs.pages - zeros
        if kind is FrameType.COPY:
            self._progress.count(transferred=moved)  # of the pages' content more is known when they have arrived
            moved += runs.pages * PAGE
        else:
            self._progress.count(normal=runs.pages - zeros, zeros=zeros, transferred=moved)
        self._pacer.spend(moved, self._limit())


def _batches(runs: Sequence[Run], most: int) -> Iterator[tuple[Run, ...]]:
    """``runs`` in pieces of at most ``most`` pages and MAX_RUNS runs."""
    batch: list[Run] = []
    filled = 0
    for run in runs:
        at, left = run.first, run.count
        while left:
            count = min(left, most - filled)
            batch.append(Run(at, count))
            filled, at, left = filled + count, at + count, left - count
            if filled == most or len(batch) == MAX_RUNS:
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


def _part(run: Run, content: memoryview, data: list[Run], zeros: list[Run]) -> list[Run]:
    """Divide ``run``, whose bytes are ``content``, into runs with data, added to ``data`` and returned, and zeros."""
    found: list[Run] = []
    start = 0
    for zero in _zero_pages(content):
        if zero > start:
            found.append(Run(run.first + start, zero - start))
        _append(zeros, Run(run.first + zero, 1))
        start = zero + 1
    if run.count > start:
        found.append(Run(run.first + start, run.count - start))
    data.extend(found)
    return found


def _zero_pages(data: memoryview) -> list[int]:
    """Page numbers within ``data`` that are all zero; one strided look at the first bytes rules most pages out."""
    firsts = bytes(data[::PAGE])
    found: list[int] = []
    page = firsts.find(0)
    while page >= 0:
        if is_zero(data[page * PAGE : (page + 1) * PAGE]):
            found.append(page)
        page = firsts.find(0, page + 1)
    return found


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
