"""Backing files that live in the page cache, reached by system calls beside the mapping.

That is cheaper than faulting pages in one by one, and a full disk is an error number instead of a signal. The mapping
sees the bytes at once.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Sequence

from emu.errors import EmuError
from emu.host import kernel, pages
from emu.host.pages import Copied, Taken
from emu.memory import Backend
from emu.migration.guest import Block
from emu.migration.passed import PassedFile
from emu.units import MIB, PAGE

_STEP = 16 * MIB


class PageCacheFile:
    """The backing file of a shared mapping."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._path = backend.mapping.name
        self.offset = backend.config.offset
        self._in_memory = kernel.file_system(backend.fd).is_memory
        # Where populated ranges begin and end, rising.
        self._starts: list[int] = []
        self._ends: list[int] = []

    def store(self, offset: int, data: memoryview) -> None:
        at = self.offset + offset
        while data:
            try:
                count = os.pwrite(self._backend.fd, data, at)
            except OSError as error:
                raise kernel.host_error(f"{self._path}: cannot store received pages", error.errno or 0) from None
            data, at = data[count:], at + count

    def take(self, offset: int, target: memoryview, running: int) -> Taken:
        return pages.take(self._backend.fd, self.offset + offset, target, running, what=self._path)

    def open_readonly(self) -> int:
        try:
            return os.open(f"/proc/self/fd/{self._backend.fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise kernel.host_error(f"cannot open {self._path} again", error.errno or 0) from None

    def copy_from(self, source: PassedFile, offset: int, count: int) -> Copied:
        if self.is_populated(offset, count * PAGE):
            # No page is left out: they all have their memory already.
            return Copied(source.read(offset, self._backend.mapping.view[offset : offset + count * PAGE]), [])
        return source.copy(offset, self._backend.fd, self.offset + offset, count, to_what=self._path)

    def populate(self, offset: int, length: int) -> None:
        # On other file systems a page that is mapped for writing counts as written to, and goes to the disk.
        if not self._in_memory:
            return
        mapping = self._backend.mapping
        kernel.populate(mapping.address + offset, length, mapping.page_size, what=self._path)
        if self._ends and self._ends[-1] == offset:
            self._ends[-1] = offset + length
        else:
            self._ends.append(offset + length)
            self._starts.append(offset)

    def is_populated(self, offset: int, length: int) -> bool:
        found = bisect_right(self._starts, offset) - 1
        return found >= 0 and offset + length <= self._ends[found]


class Populator:
    """Populates the files of ``blocks`` where they have data, in a thread of its own, while a source is waited for."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = [block for block in blocks if block.file is not None and block.writable]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="migration-populate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, wherever it is; nothing is populated any more when this returns."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        for block in self._blocks:
            try:
                self._populate(block)
            except EmuError:
                continue  # no room: whoever stores there says so

    def _populate(self, block: Block) -> None:
        assert block.file is not None
        for start, end in block.data():
            for at in range(start, end, _STEP):
                if self._over.is_set():
                    return
                block.file.populate(at, min(_STEP, end - at))
