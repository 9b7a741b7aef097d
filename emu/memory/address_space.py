"""Guest physical memory as the devices, the loader and the monitor see it: regions, and reads and writes across
them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from emu.errors import EmuError, GuestError
from emu.memory.mapping import Mapping
from emu.units import U64_MAX


class GuestMemoryError(GuestError):
    """An access that no region holds, or a write to a read-only one."""


class Region(NamedTuple):
    """Guest physical [gpa, gpa + size) is ``mapping`` from ``offset`` on. ``readonly``: guest stores are dropped."""

    gpa: int
    size: int
    mapping: Mapping
    offset: int = 0
    kind: Literal["ram", "nvdimm"] = "ram"
    readonly: bool = False
    name: str = ""

    @property
    def end(self) -> int:
        return self.gpa + self.size

    @property
    def host_address(self) -> int:
        return self.mapping.address + self.offset


class GuestMemory:
    """The regions of a machine, by rising address. Regions never overlap."""

    def __init__(self) -> None:
        # One assignment changes both, so other threads always see a whole table.
        self._table: tuple[tuple[int, ...], tuple[Region, ...]] = ((), ())
        self.on_write: list[Callable[[int, bytes], None]] = []
        """Told of each ``write``, as (gpa, data), once it is done."""

    @property
    def regions(self) -> tuple[Region, ...]:
        return self._table[1]

    def add(self, region: Region) -> None:
        """Add ``region``; EmuError when it is empty, outside its mapping or the address space, or overlaps another."""
        where = f"region '{region.name}' at {region.gpa:#x}"
        if region.size <= 0 or region.gpa < 0 or region.end - 1 > U64_MAX:
            raise EmuError(f"{where} with {region.size} bytes does not fit in the address space")
        if region.offset < 0 or region.offset + region.size > region.mapping.size:
            raise EmuError(f"{where} is larger than the memory behind it")
        for other in self.regions:
            if region.gpa < other.end and other.gpa < region.end:
                raise EmuError(f"{where} overlaps region '{other.name}' at {other.gpa:#x}")
        self._show((*self.regions, region))

    def remove(self, region: Region) -> None:
        """Take away ``region``, which is there."""
        self._show(item for item in self.regions if item is not region)

    def _show(self, regions: Iterable[Region]) -> None:
        table = tuple(sorted(regions, key=lambda item: item.gpa))
        self._table = tuple(item.gpa for item in table), table

    def find(self, gpa: int) -> Region | None:
        """The region that holds ``gpa``, or None."""
        starts, regions = self._table
        index = bisect_right(starts, gpa) - 1
        return regions[index] if index >= 0 and gpa < regions[index].end else None

    def address_of(self, mapping: Mapping, offset: int) -> int | None:
        """Where the guest sees byte ``offset`` of ``mapping``; None when it does not (a label area)."""
        return next(
            (
                region.gpa + offset - region.offset
                for region in self.regions
                if region.mapping is mapping and region.offset <= offset < region.offset + region.size
            ),
            None,
        )

    def read(self, gpa: int, length: int) -> bytes:
        """``length`` bytes from ``gpa``; GuestMemoryError, before anything is copied, when not all of them exist."""
        return b"".join(self._pieces(gpa, length, "read"))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``gpa``: all of it, or GuestMemoryError and nothing. ``on_write`` hears of it afterwards.

        Durable when: never by this alone; an NVDIMM's bytes need ``Mapping.persist``.
        """
        source = memoryview(data).cast("B")
        done = 0
        for piece in self._pieces(gpa, len(source), "write"):
            piece[:] = source[done : done + len(piece)]
            done += len(piece)
        for told in self.on_write:
            told(gpa, bytes(source))

    def _pieces(self, gpa: int, length: int, verb: str) -> list[memoryview]:
        if length < 0 or gpa < 0:
            raise GuestMemoryError(f"cannot {verb} {length} bytes of guest memory at {gpa:#x}")
        pieces: list[memoryview] = []
        for region, start, size in self._spans(gpa, length, verb):
            if verb == "write" and (region.readonly or region.mapping.readonly):
                raise GuestMemoryError(
                    f"cannot write guest memory at {max(gpa, region.gpa):#x}: '{region.name}' is read-only"
                )
            pieces.append(region.mapping.view[start : start + size])
        return pieces

    def _spans(self, gpa: int, length: int, verb: str) -> Iterator[tuple[Region, int, int]]:
        at, end = gpa, gpa + length
        while at < end:
            region = self.find(at)
            if region is None:
                raise GuestMemoryError(
                    f"cannot {verb} {length} bytes of guest memory at {gpa:#x}: nothing is at {at:#x}"
                )
            size = min(end, region.end) - at
            yield region, region.offset + at - region.gpa, size
            at += size
