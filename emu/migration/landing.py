"""Where received pages go: into memory or its file, checked, counted, and handed on to be made durable.

A ``Ledger`` is one for the whole migration; each connection has a ``Lander`` of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from emu.host.pages import buffer, crc32c, is_zero
from emu.migration.compression import Packer
from emu.migration.errors import StreamError
from emu.migration.guest import Block
from emu.migration.persister import Persister
from emu.migration.progress import Progress
from emu.migration.stream import MAX_PAGES_DATA, Frame, FrameType, PageRuns, Run, decode_packed, decode_runs
from emu.units import MIB, PAGE

_ZEROS = memoryview(bytes(MIB))


class Ledger:
    """The announced blocks in their order, which of them are ``copied``, and which of their pages have come.

    Its methods may be called from several threads. ``persister`` must be set before pages land.
    """

    def __init__(self, progress: Progress) -> None:
        self.blocks: list[Block] = []
        self.copied: list[bool] = []
        self.persister: Persister | None = None
        self.normal = self.zeros = 0
        self._pages: list[int] = []
        self._covered: list[bytearray] = []
        self._progress = progress
        self._lock = threading.Lock()

    def announce(self, block: Block, *, copied: bool) -> None:
        self.blocks.append(block)
        self.copied.append(copied)
        self._pages.append(block.pages)
        self._covered.append(bytearray(block.pages if copied else 0))

    def of(self, copied: bool) -> list[Block]:
        """The blocks that are copied, or those that are not."""
        return [block for block, is_copied in zip(self.blocks, self.copied, strict=True) if is_copied is copied]

    def runs(self, meta: bytes) -> PageRuns:
        """The pages that ``meta`` names; StreamError unless they are of an announced block that is copied."""
        runs = decode_runs(meta, self._pages)
        if not self.copied[runs.block]:
            raise StreamError(f"migration stream: pages of '{self.blocks[runs.block].name}', which is not to be copied")
        return runs

    def clear(self, block: Block, runs: Sequence[Run]) -> None:
        """Zero the pages; holes of a sparse file stay holes, and pages that are zero already are not written."""
        for run in runs:
            at, end = run.first * PAGE, (run.first + run.count) * PAGE
            while (at := block.next_data(at)) < end:
                piece = block.view[at : min(at + len(_ZEROS), end)]
                if not is_zero(piece):
                    block.store(at, _ZEROS[: len(piece)])
                at += len(piece)

    def landed(self, runs: PageRuns, *, zeros: bool) -> None:
        """The pages have their new content now."""
        covered, pages = self._covered[runs.block], runs.pages
        for run in runs.runs:
            covered[run.first : run.first + run.count] = b"\1" * run.count
        with self._lock:
            self.zeros += pages if zeros else 0
            self.normal += 0 if zeros else pages
        self._progress.count(
            normal=0 if zeros else pages, zeros=pages if zeros else 0, transferred=0 if zeros else pages * PAGE
        )
        assert self.persister is not None
        self.persister.add(self.blocks[runs.block], runs.runs)

    def check_coverage(self) -> None:
        """StreamError unless every page of every copied block has come."""
        for block, covered in zip(self.blocks, self._covered, strict=True):
            missing = covered.find(0)
            if missing >= 0:
                raise StreamError(f"migration stream: page {missing} of '{block.name}' was never sent")


class Lander:
    """What one connection brings. ``open`` while pages may come at all; ``packer`` unpacks compressed ones."""

    def __init__(self, ledger: Ledger, packer: Packer | None = None) -> None:
        self.open = False
        self._ledger = ledger
        self._packer = packer
        self._landing: PageRuns | None = None
        self._in_place = False
        self._buffer: memoryview | None = None

    def place(self, meta: bytes, length: int) -> list[memoryview]:
        """Where the data of a PAGES frame goes: into memory that takes stores, or into a buffer of ours to be stored.

        It is checked before anything else happens. What was wrong may be in memory then, which never becomes a machine.
        StreamError unless the pages it names are inside of announced, copied blocks.
        """
        if not self.open:
            raise StreamError("migration stream: pages before the preamble or after the device state")
        runs = self._ledger.runs(meta)
        if runs.pages * PAGE != length:
            raise StreamError(f"migration stream: {length} bytes for {runs.pages} pages")
        self._landing = runs
        block = self._ledger.blocks[runs.block]
        spans = [(run.first * PAGE, run.count * PAGE) for run in runs.runs]
        self._in_place = all(block.takes_stores(start, size) for start, size in spans)
        if self._in_place:
            return [block.view[start : start + size] for start, size in spans]
        self._buffer = self._buffer or buffer(MAX_PAGES_DATA)
        return [self._buffer[:length]]

    def take(self, frame: Frame) -> None:
        """Take a frame of PAGES, ZEROS or PACKED."""
        match frame.kind:
            case FrameType.PAGES:
                assert self._landing is not None
                if not self._in_place:
                    assert self._buffer is not None
                    self._store(self._landing, self._buffer)
                self._ledger.landed(self._landing, zeros=False)
            case FrameType.ZEROS:
                runs = self._ledger.runs(frame.meta)
                self._ledger.clear(self._ledger.blocks[runs.block], runs.runs)
                self._ledger.landed(runs, zeros=True)
            case _:
                self._unpack(frame)

    def _unpack(self, frame: Frame) -> None:
        if self._packer is None:
            raise StreamError("migration stream: compressed pages, and no compression was agreed on")
        meta, digest = decode_packed(frame.meta)
        runs = self._ledger.runs(meta)
        if runs.pages * PAGE > MAX_PAGES_DATA:
            raise StreamError(f"migration stream: {runs.pages} compressed pages at once")
        plain = self._packer.unpack(frame.data, runs.pages * PAGE)
        if crc32c(plain) != digest:
            raise StreamError("migration stream: compressed pages are not what they were")
        self._store(runs, memoryview(plain))
        self._ledger.landed(runs, zeros=False)

    def _store(self, runs: PageRuns, data: memoryview) -> None:
        at = 0
        for run in runs.runs:
            self._ledger.blocks[runs.block].store(run.first * PAGE, data[at : at + run.count * PAGE])
            at += run.count * PAGE
