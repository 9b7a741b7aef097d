"""The guest-physical memory as the CPU room sees it: host addresses handed in, holes that read as zero."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from emu.errors import UsageError
from emu.host import hooks
from emu.units import PAGE

PHYSICAL_BITS = 52
"""The architectural limit of physical addresses (Intel SDM volume 3, section 4.1.4)."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """``size`` bytes of host memory at guest-physical ``gpa``."""

    gpa: int
    size: int
    view: memoryview
    writable: bool

    @property
    def end(self) -> int:
        return self.gpa + self.size


class PhysicalMemory:
    """Maps regions into an engine and reads and writes them for page walks. Holes read as 0 and drop writes.

    The holes are mapped too, as regions without memory, so that no memory hook is needed: a memory hook, wherever it
    is, makes every load and store of the guest slow.
    """

    def __init__(self, engine: hooks.Engine) -> None:
        self._engine = engine
        self._regions: list[Mapped] = []
        self._starts: list[int] = []
        self._holes: list[tuple[int, int]] = []
        self._holes_stale = True

    def map(self, gpa: int, size: int, host: int, *, writable: bool) -> None:
        """UsageError when the range is not whole pages, overlaps another or leaves the physical address space."""
        end = gpa + size
        if size <= 0 or gpa < 0 or (gpa | size | host) % PAGE or end > 1 << PHYSICAL_BITS:
            raise UsageError(f"guest memory of {size:#x} bytes at {gpa:#x} is not whole pages", "align it to 4 KiB")
        for region in self._regions:
            if gpa < region.end and region.gpa < end:
                raise UsageError(
                    f"guest memory at {gpa:#x}-{end - 1:#x} overlaps {region.gpa:#x}-{region.end - 1:#x}",
                    "place it elsewhere",
                )
        for hole in [hole for hole in self._holes if gpa < hole[1] and hole[0] < end]:
            self._engine.unmap(hole[0], hole[1] - hole[0])
            self._holes.remove(hole)
        (self._engine.map if writable else self._engine.map_rom)(gpa, size, host)
        at = bisect_right(self._starts, gpa)
        self._starts.insert(at, gpa)
        self._regions.insert(at, Mapped(gpa, size, hooks.view(host, size), writable))
        self._holes_stale = True

    def fill_holes(self) -> None:
        """Map nothing wherever there is no memory; before running."""
        if not self._holes_stale:
            return
        at = 0
        for begin, end in sorted([(region.gpa, region.end) for region in self._regions] + self._holes):
            if at < begin:
                self._fill(at, begin)
            at = end
        if at < 1 << PHYSICAL_BITS:
            self._fill(at, 1 << PHYSICAL_BITS)
        self._holes_stale = False

    def _fill(self, begin: int, end: int) -> None:
        self._engine.map_nothing(begin, end - begin)
        self._holes.append((begin, end))

    def _find(self, gpa: int) -> Mapped | None:
        at = bisect_right(self._starts, gpa) - 1
        if at >= 0 and gpa < self._regions[at].end:
            return self._regions[at]
        return None

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes within one page."""
        region = self._find(gpa)
        if region is None:
            return bytes(size)
        return bytes(region.view[gpa - region.gpa : gpa - region.gpa + size])

    def write(self, gpa: int, data: bytes) -> None:
        """``data`` within one page; dropped in holes and read-only memory."""
        region = self._find(gpa)
        if region is not None and region.writable:
            region.view[gpa - region.gpa : gpa - region.gpa + len(data)] = data

    def release(self) -> None:
        """Drop the views, after the engine is closed."""
        self._regions.clear()
        self._starts.clear()
