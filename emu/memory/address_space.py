"""The guest's physical memory, the one table of it: regions, reads and writes across them, and who hears of changes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from emu.errors import EmuError, GuestError
from emu.hints import Literal, Protocol
from emu.record import NamedTuple
from emu.units import U64_MAX


class GuestMemoryError(GuestError):
    """An access that no region holds, or a write to a read-only one."""


class HostMemory(Protocol):
    """Where the bytes are in this process: a ``Mapping``."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def readonly(self) -> bool: ...

    @property
    def view(self) -> memoryview: ...


class Registers(Protocol):
    """A device's registers in guest memory; ``size`` is 1, 2 or 4 bytes, little-endian. An access to 8 bytes comes as
    two to 4, the lower ones first, as on a 32-bit bus.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Region(NamedTuple):
    """Guest physical [gpa, gpa + size) is ``mapping`` from ``offset`` on, or with kind ``mmio`` the ``registers`` of a
    device. ``readonly``: guest stores are dropped, which they always are in a ``rom``.
    """

    gpa: int
    size: int
    mapping: HostMemory | None
    offset: int = 0
    kind: Literal["ram", "rom", "nvdimm", "mmio"] = "ram"
    readonly: bool = False
    name: str = ""
    registers: Registers | None = None

    @property
    def memory(self) -> HostMemory:
        """GuestMemoryError where there is none but registers."""
        if self.mapping is None:
            raise GuestMemoryError(f"'{self.name}' at {self.gpa:#x} is the registers of a device, not memory")
        return self.mapping

    @property
    def drops_stores(self) -> bool:
        return self.readonly or self.kind == "rom"

    @property
    def end(self) -> int:
        return self.gpa + self.size

    @property
    def host_address(self) -> int:
        return self.memory.address + self.offset


class Listener(Protocol):
    """Who must know where guest memory is, and what others than the guest's instructions store there."""

    def region_added(self, region: Region) -> None:
        """``region`` is there now; an EmuError takes it away again."""

    def region_removed(self, region: Region) -> None:
        """``region`` is gone; an EmuError keeps it."""

    def written(self, gpa: int, data: bytes) -> None:
        """``data`` has just been stored at ``gpa``."""


class GuestMemory:
    """The regions of a machine, by rising address. Regions never overlap."""

    def __init__(self) -> None:
        # One assignment changes both, so other threads always see a whole table.
        self._table: tuple[tuple[int, ...], tuple[Region, ...]] = ((), ())
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Tell ``listener`` of all regions, and of everything from now on.

        Listeners are told in the order in which they came, so one that may refuse a region comes first: the CPU does.
        """
        for region in self.regions:
            listener.region_added(region)
        self._listeners.append(listener)

    @property
    def regions(self) -> tuple[Region, ...]:
        return self._table[1]

    def add(self, region: Region) -> None:
        """Add ``region`` and tell the listeners; when one of them refuses it, it is not there.

        EmuError when it is empty, outside its mapping or the address space, or overlaps another.
        """
        where = f"region '{region.name}' at {region.gpa:#x}"
        if region.size <= 0 or region.gpa < 0 or region.end - 1 > U64_MAX:
            raise EmuError(f"{where} with {region.size} bytes does not fit in the address space")
        if (region.kind == "mmio") is not (region.mapping is None) or (region.mapping is None and not region.registers):
            raise EmuError(f"{where}: a region is memory, or of kind 'mmio' and has registers")
        if region.mapping is not None and not 0 <= region.offset <= region.mapping.size - region.size:
            raise EmuError(f"{where} is larger than the memory behind it")
        for other in self.regions:
            if region.gpa < other.end and other.gpa < region.end:
                raise EmuError(f"{where} overlaps region '{other.name}' at {other.gpa:#x}")
        before = self._table
        self._set((*self.regions, region))
        try:
            for listener in self._listeners:
                listener.region_added(region)
        except BaseException:
            self._table = before
            raise

    def remove(self, region: Region) -> None:
        """Take ``region`` away and tell the listeners, while the guest stands still; when one refuses, it stays.

        EmuError when it is not there. What was memory is a hole then.
        """
        if region not in self.regions:
            raise EmuError(f"region '{region.name}' at {region.gpa:#x} is not there")
        before = self._table
        self._set(tuple(item for item in self.regions if item is not region and item != region))
        try:
            for listener in self._listeners:
                listener.region_removed(region)
        except BaseException:
            self._table = before
            raise

    def _set(self, regions: tuple[Region, ...]) -> None:
        ordered = tuple(sorted(regions, key=lambda item: item.gpa))
        self._table = tuple(item.gpa for item in ordered), ordered

    def find(self, gpa: int) -> Region | None:
        """The region that holds ``gpa``, or None."""
        starts, regions = self._table
        index = bisect_right(starts, gpa) - 1
        return regions[index] if index >= 0 and gpa < regions[index].end else None

    def address_of(self, mapping: HostMemory, offset: int) -> int | None:
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
        """Store ``data`` at ``gpa``: all of it, or GuestMemoryError and nothing. The listeners hear of it afterwards.

        Durable when: never by this alone; an NVDIMM's bytes need ``Mapping.persist``.
        """
        source = memoryview(data).cast("B")
        done = 0
        for piece in self._pieces(gpa, len(source), "write"):
            piece[:] = source[done : done + len(piece)]
            done += len(piece)
        for listener in self._listeners:
            listener.written(gpa, bytes(source))

    def _pieces(self, gpa: int, length: int, verb: str) -> list[memoryview]:
        if length < 0 or gpa < 0:
            raise GuestMemoryError(f"cannot {verb} {length} bytes of guest memory at {gpa:#x}")
        pieces: list[memoryview] = []
        for region, start, size in self._spans(gpa, length, verb):
            if verb == "write" and (region.drops_stores or region.memory.readonly):
                raise GuestMemoryError(
                    f"cannot write guest memory at {max(gpa, region.gpa):#x}: '{region.name}' is read-only"
                )
            pieces.append(region.memory.view[start : start + size])
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
