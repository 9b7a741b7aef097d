"""The guest-physical memory as the CPU sees it: the machine's regions, and holes that read as zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from emu.cpu.engine import hooks
from emu.errors import UsageError
from emu.memory import GuestMemory, Region, Registers
from emu.units import PAGE

PHYSICAL_BITS = 52
"""The architectural limit of physical addresses (Intel SDM volume 3, section 4.1.4)."""


class PhysicalMemory:
    """Shows the regions of ``memory`` to an engine, and reads and writes them for page walks.

    Holes read as 0 and drop writes. They are mapped too, as regions without memory, so that no memory hook is needed: a
    memory hook, wherever it is, makes every load and store of the guest slow. ``wrote(host address, size)`` hears of
    each ``write``. Accesses to registers that lie in guest memory go to the devices that they are of.
    """

    def __init__(self, engine: hooks.Engine, memory: GuestMemory, wrote: Callable[[int, int], None]) -> None:
        self._engine = engine
        engine.registers = self
        self._memory = memory
        self._wrote = wrote
        self.holes_filled = False
        self._last: Region | None = None
        self.on_read: Callable[[int, int], None] | None = None
        self.on_write: Callable[[int, bytes], None] | None = None

    def show(self, region: Region) -> None:
        """Map a region; before ``fill_holes``, since the engine cannot make room in a hole.

        UsageError when it is not whole pages or leaves the physical address space.
        """
        self.check(region)
        if region.mapping is None:
            self._engine.map_registers(region.gpa, region.size)
            return
        show = self._engine.map_rom if region.drops_stores else self._engine.map
        show(region.gpa, region.size, region.host_address)

    def check(self, region: Region) -> None:
        """The rules of ``show``."""
        gpa, size = region.gpa, region.size
        host = region.host_address if region.mapping is not None else 0
        if (gpa | size | host) % PAGE or region.end > 1 << PHYSICAL_BITS:
            raise UsageError(f"guest memory of {size:#x} bytes at {gpa:#x} is not whole pages", "align it to 4 KiB")

    def show_again(self) -> None:
        """Map everything into an engine that was opened again."""
        self._last = None
        for region in self._memory.regions:
            self.show(region)
        self.holes_filled = False

    def fill_holes(self) -> None:
        """Map nothing wherever there is no memory; before running."""
        at = 0
        for region in self._memory.regions:
            if at < region.gpa:
                self._engine.map_nothing(at, region.gpa - at)
            at = region.end
        if at < 1 << PHYSICAL_BITS:
            self._engine.map_nothing(at, (1 << PHYSICAL_BITS) - at)
        self.holes_filled = True

    def _find(self, gpa: int) -> Region | None:
        last = self._last
        if last is None or not 0 <= gpa - last.gpa < last.size:
            self._last = last = self._memory.find(gpa)
        return last

    def register_read(self, gpa: int, size: int) -> int:
        registers, offset = self._registers_at(gpa)
        return registers.read(offset, size)

    def register_write(self, gpa: int, size: int, value: int) -> None:
        registers, offset = self._registers_at(gpa)
        registers.write(offset, size, value)

    def _registers_at(self, gpa: int) -> tuple[Registers, int]:
        region = self._find(gpa)
        assert region is not None
        assert region.registers is not None
        return region.registers, gpa - region.gpa

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes within one page, as the processor reads them; ``on_read`` hears of it before."""
        if self.on_read is not None:
            self.on_read(gpa, size)
        return self.look_at(gpa, size)

    def look_at(self, gpa: int, size: int) -> bytes:
        """As ``read``, for others than the processor."""
        region = self._find(gpa)
        if region is None or region.mapping is None:
            return bytes(size)
        start = region.offset + gpa - region.gpa
        return bytes(region.mapping.view[start : start + size])

    def write(self, gpa: int, data: bytes) -> None:
        """``data`` within one page; dropped in holes and read-only memory. Code translated from it is forgotten, and
        ``on_write`` hears of it afterwards.
        """
        region = self._find(gpa)
        if region is not None and region.mapping is not None and not region.drops_stores:
            start = region.offset + gpa - region.gpa
            region.mapping.view[start : start + len(data)] = data
            self._wrote(region.mapping.address + start, len(data))
            if self.on_write is not None:
                self.on_write(gpa, data)

    def spans(self, gpa: int, size: int) -> Iterator[tuple[int, int]]:
        """(host address, size) of the parts of a range that are memory."""
        for region in self._memory.regions:
            start, end = max(gpa, region.gpa), min(gpa + size, region.end)
            if start < end and region.mapping is not None:
                yield region.host_address + start - region.gpa, end - start
