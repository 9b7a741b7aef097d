"""Puts the memory of a machine back to how it was, at the cost of the pages that were stored to since.

All of it is write-protected. The first store to a page copies it and opens it, for good: a guest that runs again and
again stores to the same pages, and copying those back is cheaper than catching the stores or asking the kernel for new
pages. A page that comes back unchanged often is protected again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from emu.host import faults, kernel
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


class Copies:
    """What the memory of a machine held at a later moment, for ``Undo.undo``. ``close`` it."""

    def __init__(self, of: Mapping[int, faults.Copies]) -> None:
        self.of = of

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        return sum(copies.size for copies in self.of.values())

    def close(self) -> None:
        for copies in self.of.values():
            copies.close()


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

    def save(self, unknown: Iterable[tuple[Backend, int, int]] = ()) -> Copies:
        """What memory holds now, to go back to. The bytes of 8 aligned ones of a backend (with their offset) that are
        under a mask are not part of it: ``change`` decides what they hold then.
        """
        masks: dict[int, dict[int, int]] = {key: {} for key in self._kept}
        for backend, offset, mask in unknown:
            masks[id(backend)][offset] = mask
        saved = Copies({key: kept.log.save() for key, kept in self._kept.items()})
        for key, copies in saved.of.items():
            copies.take_from_before(masks[key])
        return saved

    def undo(self, to: Copies | None = None) -> None:
        """Put back everything that was stored, or go on from there to what was saved."""
        for key, kept in self._kept.items():
            kept.log.undo(None if to is None else to.of[key])

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
