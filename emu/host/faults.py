"""Memory faults put to use: dirty-page tracking by write protection, and survival of a backing file cut short.

One handler for SIGSEGV and SIGBUS (installed with the first range, never at import) serves every range here and hands
any other fault to the handler that was there before, such as Python's ``faulthandler``.

A store of ours into a tracked range (a memoryview assignment, a label write) faults and is seen like the guest's. A
store by the *kernel* on our behalf (``recv_into``, ``readinto``) is not: into a protected page it fails with EFAULT,
and nothing is stored. Read into a buffer and copy.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Mapping

from emu.errors import HostError
from emu.host import kernel
from emu.host._kernel import ffi, lib
from emu.record import NamedTuple

_RUNS = 4096
# Pages that are put back unchanged this often in a row are protected again. A fault costs as much as comparing some
# dozens of pages.
_PATIENCE = 32
_groups = itertools.count(1)


class LostPage(NamedTuple):
    """The access that first met a page without storage: ``offset`` in bytes, and whether it was a ``store``.

    ``poisoned``: the memory itself failed, not the file.
    """

    offset: int
    store: bool
    poisoned: bool


class Guard:
    """Keeps SIGBUS in [address, address + length) from killing the process, and stores in program order.

    At the first page that its file does not back (cut short, disk full, bad memory) the mapping is cut off from its
    file: it becomes a private one of the same bytes, so that no store after the lost one reaches the file. With it go
    the guards that ``join``ed the same group. The stop function of the faulting thread is called (``set_stop``); what
    still cannot be had reads as zeros.

    ``fd`` and ``file_offset`` name what a shared, writable mapping is made from; without them there is nothing to cut
    off from (private memory), or no way to (a device DAX, which the kernel maps shared only). ``page_size`` is the
    mapping's. Close it before the memory is unmapped.
    """

    def __init__(
        self, address: int, length: int, page_size: int = kernel.PAGE_SIZE, *, fd: int = -1, file_offset: int = 0
    ) -> None:
        own = -1 if fd < 0 else os.dup(fd)  # the mapping may outlive the caller's descriptor
        slot = lib.emu_guard_add(address, length, page_size, own, file_offset)
        if slot < 0:
            _release(-1, own)
            raise kernel.host_error(
                "cannot guard a mapping", -slot, "use fewer machines in one process (two of 256 NVDIMMs work)"
            )
        self._slot: int = slot
        self._close = weakref.finalize(self, _release, slot, own)
        self._close.atexit = False

    def join(self, group: int) -> None:
        """Be cut off together with all that joined ``group``, a number above 0: the memory of one machine."""
        if self._close.alive:
            lib.emu_guard_join(self._slot, group)

    def lost(self) -> LostPage | None:
        """What was lost first, or None; a guard that another one of its group cut off has lost nothing itself."""
        loss = lib.emu_guard_loss(self._slot) if self._close.alive else None
        return (
            None if loss is None or loss.offset < 0 else LostPage(loss.offset, bool(loss.stored), bool(loss.poisoned))
        )

    @property
    def cut_off(self) -> bool:
        """Whether stores stopped reaching the file, by a loss here or elsewhere in the group."""
        return self._close.alive and bool(lib.emu_guard_loss(self._slot).cut_off)

    def close(self) -> None:
        self._close()


def new_group() -> int:
    """A number for ``Guard.join`` that this process has not used yet."""
    return next(_groups)


def _release(slot: int, fd: int) -> None:
    if slot >= 0:
        lib.emu_guard_remove(slot)
    if fd >= 0:
        os.close(fd)


def set_stop(function: int, argument: int) -> None:
    """Have ``function(argument)`` (two addresses) called when the *calling thread* meets a lost page; 0 for none.

    It runs in a signal handler, so it must be async-signal-safe: a function that sets a flag, such as uc_emu_stop.
    """
    lib.emu_set_stop(function, argument)


def stopped() -> bool:
    """Whether the calling thread met a lost page since its ``set_stop``."""
    return bool(lib.emu_stopped())


class Copies:
    """Pages of a dirty log whose content is not what it was, as they are now: at most ``most``. ``close`` them."""

    def __init__(self, slot: int, most: int, page_size: int) -> None:
        self._page_size = page_size
        self._room = max(most, 1) * page_size
        self.numbers = ffi.new("uint64_t[]", max(most, 1))
        self.taken = 0
        self.address = self._map()
        self.count: int = lib.emu_dirty_save(slot, self.numbers, self.address)

    def _map(self) -> int:
        return kernel.map_memory(self._room, what="copies of guest memory", align=self._page_size, reserve=False)

    @property
    def size(self) -> int:
        """Bytes of memory in use."""
        return self.count * self._page_size

    def take_from_before(self, masks: Mapping[int, int]) -> None:
        """Of these 8 bytes, by their offset in the range, let ``undo`` put back what they held before, under a mask of
        their bits, and not what they held when they were saved.
        """
        places = {int(self.numbers[n]): n for n in range(self.count)}
        for offset, mask in masks.items():
            page, at = divmod(offset, self._page_size)
            if page in places:
                self.taken = self.taken or self._map()
                place = ffi.cast("uint64_t *", self.taken + places[page] * self._page_size + at)
                place[0] = mask

    def close(self) -> None:
        for address in filter(None, (self.address, self.taken)):
            kernel.unmap_memory(address, self._room)
        self.address = self.taken = 0


class DirtyLog:
    """Which pages of [address, address + length) were stored to, by write protection. The range must be writable.

    ``page_size`` is the mapping's own (2 MiB for a device DAX or huge pages); results always count pages of 4096 bytes.
    """

    def __init__(self, address: int, length: int, page_size: int = kernel.PAGE_SIZE) -> None:
        self.address = address
        self.length = length
        self.page_size = page_size
        self._slot = -1

    def start(self) -> None:
        """Protect the range. Stores from now on are seen; those before are the caller's first full pass."""
        if self._slot >= 0:
            raise HostError("dirty pages of this range are tracked already", "stop tracking first")
        slot = lib.emu_dirty_start(self.address, self.length, self.page_size)
        if slot < 0:
            raise kernel.host_error("cannot track dirty pages", -slot, "end the other migration of this memory first")
        self._slot = slot

    def collect(self) -> list[tuple[int, int]]:
        """The runs (first page, count) stored to since the last call, rising, in pages of 4096 bytes.

        Every page is protected again before this returns, so a store that comes after is in the next result, and what
        the caller reads afterwards holds every store up to here. May be called while other threads store.
        """
        if self._slot < 0:
            raise HostError("dirty pages of this range are not tracked", "start tracking first")
        buffer, more = ffi.new("emu_run[]", _RUNS), ffi.new("int *", 1)
        scale = self.page_size // 4096
        last = -(-self.length // 4096)
        runs: list[tuple[int, int]] = []
        while more[0]:
            found = lib.emu_dirty_collect(self._slot, buffer, _RUNS, more)
            for n in range(found):
                first, count = buffer[n].first * scale, buffer[n].count * scale
                count = min(count, last - first)
                if runs and sum(runs[-1]) == first:
                    first, count = runs[-1][0], runs[-1][1] + count
                    runs.pop()
                runs.append((first, count))
        return runs

    def keep(self, before: int) -> None:
        """After ``start``: copy each page, ahead of its first store, to the area of the same size at ``before``."""
        error = lib.emu_dirty_keep(self._slot, before)
        if error < 0:
            raise kernel.host_error("cannot keep copies of dirty pages", -error)

    def save(self) -> Copies:
        """After ``keep``: what the range holds now, for ``undo``."""
        return Copies(self._slot, sum(count for _, count in self.peek()), self.page_size)

    def undo(self, to: Copies | None = None) -> None:
        """After ``keep``: put back all that was stored, or go on to what was saved. What it costs depends on the pages
        stored to lately alone.
        """
        if to is None:
            lib.emu_dirty_undo(self._slot, _PATIENCE, ffi.NULL, 0, 0, 0)
        else:
            lib.emu_dirty_undo(self._slot, _PATIENCE, to.numbers, to.count, to.address, to.taken)

    def peek(self) -> list[tuple[int, int]]:
        """The runs (first page, count) that were stored to since ``start``, and perhaps pages that are as they were; in
        the range's own pages. Nothing is protected again.
        """
        runs: list[tuple[int, int]] = []
        run = lib.emu_dirty_next(self._slot, 0)
        while run.count:
            runs.append((run.first, run.count))
            run = lib.emu_dirty_next(self._slot, run.first + run.count)
        return runs

    def stop(self) -> None:
        """Make the range writable again and forget what was dirty. Harmless when not started."""
        slot, self._slot = self._slot, -1
        if slot >= 0:
            result = lib.emu_dirty_stop(slot)
            if result < 0:
                raise kernel.host_error("cannot end the tracking of dirty pages", -result)
