"""Which pages of private memory have been touched, as /proc/self/pagemap tells.

Source: Linux, Documentation/admin-guide/mm/pagemap.rst: eight bytes a page, bit 63 "present", bit 62 "swapped".
"""

from __future__ import annotations

import os

from emu.units import PAGE, align_down

NONE = 1 << 63
_ENTRY = 8
_FIRST, _MOST = 64, 16384  # entries in one read
_TOUCHED = bytes(int(top >= 0x40) for top in range(256))  # by an entry's last byte


class Untouched:
    """The parts of private anonymous memory at ``address`` that nobody has touched: pages there read as zeros.

    A page that was only read may count as touched. Where the kernel does not tell, all do.
    """

    def __init__(self, address: int, size: int) -> None:
        self._address = address
        self._size = size

    def next_data(self, offset: int) -> int:
        """The first page-aligned offset from ``offset`` on that has been touched; NONE when there is none."""
        return self._next(offset, touched=True)

    def next_hole(self, offset: int) -> int:
        """The first page-aligned offset from ``offset`` on that has not been touched; NONE when there is none."""
        return self._next(offset, touched=False)

    def _next(self, offset: int, *, touched: bool) -> int:
        unknown = offset if touched else NONE
        at = align_down(offset, PAGE) // PAGE
        entries = _FIRST
        try:
            pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return unknown
        try:
            while (count := min(entries, self._size // PAGE - at)) > 0:
                told = os.pread(pagemap, count * _ENTRY, (self._address // PAGE + at) * _ENTRY)
                if not told:
                    return unknown
                found = told[_ENTRY - 1 :: _ENTRY].translate(_TOUCHED).find(touched)
                if found >= 0:
                    return max(offset, (at + found) * PAGE)
                at += len(told) // _ENTRY
                entries = min(entries * 4, _MOST)
        except OSError:
            return unknown
        finally:
            os.close(pagemap)
        return NONE
