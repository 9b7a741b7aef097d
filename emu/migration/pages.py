"""Turns pages of a block into frames: a stable copy, zero pages left out, at most 1 MiB in one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emu.host.kernel import is_zero
from emu.migration.channel import Channel, Pacer
from emu.migration.guest import Block
from emu.migration.progress import Progress
from emu.migration.stream import MAX_PAGES_DATA, MAX_RUNS, FrameType, PageRuns, Run, encode_runs
from emu.units import MIB, PAGE

_BATCH = MAX_PAGES_DATA // PAGE
# Pages in one COPY: enough to make the frame's cost vanish, few enough to be done in some milliseconds.
_REFERENCES = 16 * MIB // PAGE


class PageSender:
    """Sends pages while the guest may still be writing them.

    A frame's checksum and its bytes must agree, so data pages are copied before they are summed: what the guest changes
    after the copy is in the dirty log and goes out in a later round. ``limit()`` is the bandwidth in bytes per second,
    ``copied()`` waits until the destination has carried out one COPY.
    """

    def __init__(
        self,
        channel: Channel,
        progress: Progress,
        pacer: Pacer,
        limit: Callable[[], int],
        copied: Callable[[], None],
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

    def send_references(self, number: int, view: memoryview, runs: Sequence[Run]) -> None:
        """Like ``send`` to a peer on this host that has the block's file open: it copies the pages itself.

        At most two frames are under way, so that progress, pace and cancel mean what they say.
        """
        limit = self._limit()
        most = max(1, min(_REFERENCES, limit // (10 * PAGE))) if limit else _REFERENCES
        zeros: list[Run] = []
        batch: list[Run] = []
        filled = under_way = 0
        for run in runs:
            at, left = run.first, run.count
            while left:
                count = min(left, most - filled)
                before = len(batch)
                _part(Run(at, count), view[at * PAGE : (at + count) * PAGE], batch, zeros)
                filled += sum(part.count for part in batch[before:])
                at, left = at + count, left - count
                if filled == most or len(batch) >= MAX_RUNS:
                    under_way = self._refer(number, batch, under_way)
                    batch, filled = [], 0
        under_way = self._refer(number, batch, under_way)
        for _ in range(under_way):
            self._copied()
        self.send_zeros(number, zeros)

    def _refer(self, number: int, batch: Sequence[Run], under_way: int) -> int:
        for index in range(0, len(batch), MAX_RUNS):
            if under_way == 2:
                self._copied()
                under_way -= 1
            self._send(FrameType.COPY, PageRuns(number, tuple(batch[index : index + MAX_RUNS])))
            under_way += 1
        return under_way

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
        if kind is FrameType.COPY:
            moved += runs.pages * PAGE
        self.zeros += zeros
        self.normal += runs.pages - zeros
        self._progress.count(normal=runs.pages - zeros, zeros=zeros, transferred=moved)
        self._pacer.spend(moved, self._limit())


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
    if block.holes is None:
        return [Run(0, block.pages)], []
    data: list[Run] = []
    holes: list[Run] = []
    at = 0
    while at < block.size:
        start = block.next_data(at)
        if start > at:
            holes.append(Run(at // PAGE, (start - at) // PAGE))
        end = min(max(block.holes.next_hole(start), start + PAGE), block.size) if start < block.size else start
        if end > start:
            data.append(Run(start // PAGE, (end - start) // PAGE))
        at = end
    return data, holes
