"""A mapping that knows what it guarantees: addresses, bytes, and the one way to make our own writes durable."""

from __future__ import annotations

import sys
from types import TracebackType

from emu.errors import EmuError, HostError
from emu.host import kernel
from emu.host.faults import DirtyLog, Guard, LostPage
from emu.memory.durability import Durability
from emu.units import align_up


class Mapping:
    """``size`` bytes of host memory at ``address`` that hold guest memory; made by ``open_backend``.

    ``alignment`` is what the address keeps and what an NVDIMM on it is rounded to; ``page_size`` the page of the
    mapping (larger for huge pages and device DAX); ``readonly`` means that the host too can only read. ``view`` is
    all of it. ``fd`` is the file that stores reach, from ``file_offset`` on; -1 when they reach none.
    """

    def __init__(
        self,
        address: int,
        size: int,
        *,
        alignment: int,
        page_size: int,
        readonly: bool,
        durability: Durability,
        name: str,
        fd: int = -1,
        file_offset: int = 0,
    ) -> None:
        self.address = address
        self.size = size
        self.alignment = alignment
        self.page_size = page_size
        self.readonly = readonly
        self.durability = durability
        self.name = name
        self.view = kernel.memory_view(address, size, readonly=readonly)
        self._file_offset = file_offset
        self._guard = Guard(address, size, page_size, fd=fd, file_offset=file_offset)
        self._open = True

    @property
    def closed(self) -> bool:
        return not self._open

    def persist(self, offset: int = 0, length: int | None = None) -> None:
        """Make our own writes to [offset, offset + length) durable by the strongest means the mapping has.

        Durable when: it returns, against what ``durability.survives`` promises. Cache-line granularity: CPU flush and
        SFENCE; page granularity: msync, which also makes a file in the page cache durable against a loss of host power;
        none: nothing is done, because nothing can be. HostError when a page was lost or the medium fails.
        """
        length = self.size - offset if length is None else length
        if not self._open or not 0 <= offset <= offset + length <= self.size:
            raise EmuError(f"persist of {length} bytes at {offset:#x} is outside of {self.name}")
        if length and self.durability.granularity == "cache-line":
            kernel.flush_cache(self.address + offset, length)
        elif length and self.durability.granularity == "page":
            kernel.msync(self.address + offset, length, what=self.name)
        self.check()

    def join(self, group: int) -> None:
        """Lose the file together with the other mappings of ``group``, when one of them loses a page: the memory of a
        machine, whose stores reach its files in program order or not at all."""
        self._guard.join(group)

    def lost_page(self) -> LostPage | None:
        """The access that first met a page which its file stopped backing, or None."""
        return self._guard.lost()

    def lost(self) -> int | None:
        """The offset of ``lost_page``, or None while all is well."""
        page = self._guard.lost()
        return None if page is None else page.offset

    def check(self, gpa: int | None = None) -> None:
        """HostError when a page was lost, here or elsewhere in the group: no store after that reached the file.

        ``gpa`` is the guest's address of what was lost, for the message.
        """
        page = self._guard.lost()
        if page is None:
            if self._guard.cut_off:
                raise HostError(
                    f"{self.name}: cut off from its file, because other memory of the machine lost a store",
                    "mend that one, and boot again",
                )
            return
        place = f"offset {self._file_offset + page.offset:#x}"
        if gpa is not None:
            place += f", guest address {gpa:#x}"
        if page.poisoned:
            raise HostError(
                f"{self.name}: uncorrectable memory error at {place}",
                "the medium is damaged there; see 'ndctl list --media-errors' and restore the data from a copy",
            )
        what = "the store could not be kept, nor any after it" if page.store else "nothing could be read"
        raise HostError(
            f"{self.name}: the backing file lost its storage at {place} (cut short, or disk full): {what}",
            "restore the file's size or free some space, and boot again; prealloc=on finds a full disk at the start",
        )

    def dirty_log(self) -> DirtyLog:
        """A new tracker of stores to this mapping (not started)."""
        if self.readonly:
            raise EmuError(f"{self.name} is read-only: it has no dirty pages")
        return DirtyLog(self.address, align_up(self.size, self.page_size), self.page_size)

    def close(self) -> None:
        """Unmap. Nothing may store to the memory any more. While somebody still holds a slice of ``view``, the memory
        stays mapped until the process ends: a forgotten slice must not become a crash."""
        if not self._open:
            return
        self._open = False
        buffer = self.view.obj
        self.view.release()
        if sys.getrefcount(buffer) > 2:  # the name above and the argument
            return
        self._guard.close()
        kernel.unmap_memory(self.address, self.size, self.page_size)

    def __enter__(self) -> Mapping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
