"""Puts the memory of a machine back to how it was, at the cost of the pages that were stored to since.

All of it is write-protected. The first store to a page copies it and opens it, for good: a guest that runs again and
again stores to the same pages, and copying those back is cheaper than catching the stores or asking the kernel for new
pages. A page that comes back unchanged often is protected again.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from emu.host import kernel
from emu.host.faults import DirtyLog
from emu.machine import Machine
from emu.memory import Backend

_UNIT = struct.Struct("<Q")


class _Kept:
    """A backend's memory and what it held."""

    def __init__(self, backend: Backend) -> None:
        mapping = backend.mapping
        self.backend = backend
        self._size, self._page_size = mapping.size + -mapping.size % mapping.page_size, mapping.page_size
        self.log: DirtyLog = mapping.dirty_log()
        self._address = kernel.map_memory(
            self._size, what="copies of guest memory", align=self._page_size, reserve=False
        )
        self._before = kernel.memory_view(self._address, self._size)
        try:
            self.log.start()
            self.log.keep(self._address)
        except BaseException:
            self.close()
            raise

    def change(self, offset: int, value: int) -> None:
        """Let the aligned 8 bytes at ``offset`` have had another value from the beginning."""
        _UNIT.pack_into(self.backend.mapping.view, offset, value)
        # Their page has been stored to now, so its copy is what counts.
        _UNIT.pack_into(self._before, offset, value)

    def close(self) -> None:
        self.log.stop()
        self._before.release()
        kernel.unmap_memory(self._address, self._size)


class Undo:
    """The memory of ``machine``, or of those of its ``backends``, as it is now. Close it before the machine."""

    def __init__(self, machine: Machine, backends: Sequence[Backend] | None = None) -> None:
        self._kept: dict[int, _Kept] = {}
        try:
            for backend in machine.backends if backends is None else backends:
                if not backend.mapping.readonly:
                    self._kept[id(backend)] = _Kept(backend)
        except BaseException:
            self.close()
            raise

    def undo(self) -> None:
        """Put back everything that was stored."""
        for kept in self._kept.values():
            kept.log.undo()

    def change(self, backend: Backend, offset: int, value: int) -> None:
        """Change 8 aligned bytes of the memory that is put back, and of that which is there."""
        self._kept[id(backend)].change(offset, value)

    def stored(self, backend: Backend) -> list[tuple[int, int]]:
        """The runs (first page, count) of pages of 4096 bytes that were stored to since ``undo``; perhaps more."""
        kept = self._kept[id(backend)]
        scale = backend.mapping.page_size // 4096
        return [(first * scale, count * scale) for first, count in kept.log.peek()]

    def close(self) -> None:
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()
