"""The guest-physical memory as the CPU room sees it: host addresses handed in, holes that read as zero."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from emu.cpu.engine import hooks
from emu.errors import UsageError
from emu.units import PAGE

PHYSICAL_BITS = 52
"""The architectural limit of physical addresses (Intel SDM volume 3, section 4.1.4)."""


class Mapped(NamedTuple):
    """``size`` bytes of memory at host address ``host``, seen at guest-physical ``gpa``, up to ``end``."""

    gpa: int
    size: int
    host: int
    view: memoryview
    writable: bool
    end: int


class PhysicalMemory:
    """Maps regions into an engine and reads and writes them for page walks. Holes read as 0 and drop writes.

    The holes are mapped too, as regions without memory, so that no memory hook is needed: a memory hook, wherever it
    is, makes every load and store of the guest slow. ``wrote(host address, size)`` hears of each ``write``.
    """

    def __init__(self, engine: hooks.Engine, wrote: Callable[[int, int], None]) -> None:
        self._engine = engine
        self._wrote = wrote
        self._regions: list[Mapped] = []
        self._starts: list[int] = []
        self.holes_filled = False
        self._last: Mapped | None = None
        self.on_write: Callable[[int, bytes], None] | None = None

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
        if not self.holes_filled:
            self._show(gpa, size, host, writable)
        at = bisect_right(self._starts, gpa)
        self._starts.insert(at, gpa)
        self._regions.insert(at, Mapped(gpa, size, host, hooks.view(host, size), writable, end))

    def _show(self, gpa: int, size: int, host: int, writable: bool) -> None:
        (self._engine.map if writable else self._engine.map_rom)(gpa, size, host)

    def show_again(self) -> None:
        """Map everything into an engine that was opened again."""
        for region in self._regions:
            self._show(region.gpa, region.size, region.host, region.writable)
        self.holes_filled = False

    def fill_holes(self) -> None:
        """Map nothing wherever there is no memory; before running.

        From then on ``map`` only takes notice: the engine cannot make room in a hole. It must be opened again.
        """
        at = 0
        for region in self._regions:
            if at < region.gpa:
                self._engine.map_nothing(at, region.gpa - at)
            at = region.end
        if at < 1 << PHYSICAL_BITS:
            self._engine.map_nothing(at, (1 << PHYSICAL_BITS) - at)
        self.holes_filled = True

    def _find(self, gpa: int) -> Mapped | None:
        last = self._last
        if last is not None and last.gpa <= gpa < last.end:
            return last
        at = bisect_right(self._starts, gpa) - 1
        if at >= 0 and gpa < self._regions[at].end:
            self._last = self._regions[at]
            return self._last
        return None

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes within one page."""
        region = self._find(gpa)
        if region is None:
            return bytes(size)
        return bytes(region.view[gpa - region.gpa : gpa - region.gpa + size])

    def write(self, gpa: int, data: bytes) -> None:
        """``data`` within one page; dropped in holes and read-only memory. Code translated from it is forgotten, and
        ``on_write`` hears of it afterwards.
        """
        region = self._find(gpa)
        if region is not None and region.writable:
            region.view[gpa - region.gpa : gpa - region.gpa + len(data)] = data
            self._wrote(region.host + gpa - region.gpa, len(data))
            if self.on_write is not None:
                self.on_write(gpa, data)

    def spans(self, gpa: int, size: int) -> Iterator[tuple[int, int]]:
        """(host address, size) of the parts of a range that are memory."""
        for region in self._regions:
            start, end = max(gpa, region.gpa), min(gpa + size, region.end)
            if start < end:
                yield region.host + start - region.gpa, end - start

    def release(self) -> None:
        """Drop the views, after the engine is closed."""
        self._last = None
        self._regions.clear()
        self._starts.clear()
