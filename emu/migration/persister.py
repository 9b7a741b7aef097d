"""Makes received pages durable while more arrive, so that little is left to do at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from emu.errors import EmuError, HostError
from emu.migration import report
from emu.migration.guest import Block
from emu.migration.stream import Run
from emu.units import MIB, PAGE

_START_AT = 32 * MIB
# Well below the smallest stall timeout, one second.
ALIVE_S = 0.25


class Persister:
    """Write-back of persistent blocks in a thread of its own.

    Mappings with cache-line granularity are flushed run by run. Page-granular ones go through msync, whose cost is per
    call, so what is pending is taken together as one range; pages in between that did not change cost nothing.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = [block for block in blocks if block.persistent]
        self._changed = threading.Condition()
        self._pending: dict[str, list[Run]] = {block.name: [] for block in self._blocks}
        self._waiting = 0
        self._draining = self._busy = self._over = False
        self._error: EmuError | None = None
        self._bytes = {block.name: 0 for block in self._blocks}
        self._seconds = {block.name: 0.0 for block in self._blocks}
        self._thread = threading.Thread(target=self._work, name="migration-persist", daemon=True)
        self._thread.start()

    def add(self, block: Block, runs: Sequence[Run]) -> None:
        """Take note that ``runs`` of ``block`` have new content."""
        if not block.persistent:
            return
        with self._changed:
            self._pending[block.name].extend(runs)
            self._waiting += sum(run.count for run in runs) * PAGE
            if self._waiting >= _START_AT:
                self._changed.notify_all()

    def drain(self, alive: Callable[[], None]) -> None:
        """Wait until everything added is durable, calling ``alive`` meanwhile; HostError when it cannot be.

        Durable when it returns: all bytes added before, by each mapping's strongest means.
        """
        with self._changed:
            self._draining = True
            self._changed.notify_all()
            while (self._waiting or self._busy) and self._error is None:
                if not self._changed.wait(ALIVE_S):
                    self._changed.release()
                    try:
                        alive()
                    finally:
                        self._changed.acquire()
            self._draining = False
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()

    def report(self) -> list[dict[str, Any]]:
        """What was made durable, by what means, and the time that took: one item for each persistent block."""
        return [
            report.entry(block.name, block.granularity, self._bytes[block.name], self._seconds[block.name])
            for block in self._blocks
        ]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not self._over and not (self._waiting and (self._draining or self._waiting >= _START_AT)):
                    self._changed.wait()
                if self._over:
                    return
                work, self._pending = self._pending, {block.name: [] for block in self._blocks}
                self._waiting, self._busy = 0, True
            try:
                for block in self._blocks:
                    self._persist(block, work[block.name])
            except EmuError as error:
                self._fail(error)
                return
            except Exception as error:
                self._fail(HostError(f"write-back failed: {error}"))
                return

    def _fail(self, error: EmuError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _persist(self, block: Block, runs: Sequence[Run]) -> None:
        if not runs:
            return
        began = time.monotonic()
        if block.granularity != "cache-line":
            first = min(run.first for run in runs)
            runs = [Run(first, max(run.first + run.count for run in runs) - first)]
        for run in runs:
            block.storage.persist(run.first * PAGE, run.count * PAGE)
        lost = block.storage.lost()
        if lost is not None:
            raise HostError(
                f"{block.path or block.name}: no room for the page at offset {lost:#x}",
                "the disk is full or the file was cut short; make room and migrate again",
            )
        self._seconds[block.name] += time.monotonic() - began
        self._bytes[block.name] += sum(run.count for run in runs) * PAGE
