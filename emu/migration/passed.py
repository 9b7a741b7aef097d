"""A file of the source's that came with the preamble, as the destination reads it.

The source may cut it short, or store to it, at any moment.
"""

from __future__ import annotations

import contextlib

from emu.errors import HostError
from emu.host import kernel, pages
from emu.host.faults import Guard
from emu.host.pages import Copied

_WHAT = "the source's file"


class PassedFile:
    """``size`` bytes of the file ``descriptor`` from ``start`` on, until ``close``; the descriptor is the caller's.

    A file in memory is mapped: its pages are read where they are, and looked up once, which takes a quarter less time
    than read(2). What a disk has yet to bring is better read ahead.
    """

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._address = 0
        if kernel.file_system(descriptor).is_memory:
            with contextlib.suppress(HostError):  # it may have pages of 2 MiB and begin in the middle of one
                self._address = kernel.map_memory(
                    size, what=_WHAT, fd=descriptor, offset=start, shared=True, write=False, reserve=False
                )
        if self._address:
            self._guard = Guard(self._address, size)
            self._view = kernel.memory_view(self._address, size, readonly=True)

    def read(self, offset: int, target: memoryview) -> bytes:
        """Fill ``target``, memory that is there already, from ``offset``; the sums of its pages as they arrived.

        HostError when the file has no such bytes any more.
        """
        if not self._address:
            return pages.read(self._descriptor, self._start + offset, target, what=_WHAT)
        sums = pages.read(self._view, offset, target, what=_WHAT)
        if self._guard.lost() is not None:
            raise HostError(f"{_WHAT} ended early", "it was cut short while it was read: restore its size")
        return sums

    def copy(self, offset: int, to: int, to_offset: int, count: int, *, to_what: str) -> Copied:
        """Copy ``count`` pages from ``offset`` to the file ``to``, except zero pages. HostError as ``pages.copy``'s."""
        return pages.copy(self._descriptor, self._start + offset, to, to_offset, count, what=_WHAT, to_what=to_what)

    def close(self) -> None:
        if self._address:
            address, self._address = self._address, 0
            self._view.release()
            self._guard.close()
            kernel.unmap_memory(address, self._size)
