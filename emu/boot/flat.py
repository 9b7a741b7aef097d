"""Flat 64-bit images: loaded at 1 MiB and entered at their first byte in long mode.

The page tables map all memory at its own address. Only the pages of the image are executable: a store to a page that
the engine thinks executable is several times slower, so data belongs behind the image.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from emu.boot.plan import LOW_END, Kind, LoadPlan, LoadSegment, LowMemory, MemoryRange, check_segments, start_info
from emu.entry import Long64
from emu.errors import UsageError
from emu.units import GIB, MIB, PAGE, align_up

LOAD_ADDRESS = MIB
STACK_SIZE = 64 * 1024
HIGHEST = 1 << 44
"""Beyond this the page tables would not fit in low memory."""

_PRESENT_WRITABLE, _LARGE, _NX = 3, 0x80, 1 << 63
_GDT = struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)


def load(
    image: bytes,
    *,
    name: str,
    cmdline: str,
    memory_map: Sequence[MemoryRange],
    rsdp_address: int,
    highest_address: int,
) -> LoadPlan:
    """``highest_address`` is the end of everything to be mapped: RAM and the device window."""
    if not image:
        raise UsageError(f"{name}: the image is empty", "give a file with code in it")
    code = LoadSegment(LOAD_ADDRESS, memoryview(image), len(image))
    stack = LoadSegment(LOW_END - STACK_SIZE, memoryview(b""), STACK_SIZE)
    check_segments(name, [code, stack], memory_map)
    end = max(highest_address, code.end, 4 * GIB)
    if end > HIGHEST:
        raise UsageError(
            f"{name}: a flat image cannot reach memory up to {end:#x}, its page tables end at {HIGHEST:#x}",
            "place devices lower, or use a Multiboot image with page tables of its own",
        )
    low = LowMemory(name, memory_map, [stack])
    cr3 = _page_tables(low, align_up(code.end, PAGE), end)
    gdt = low.place(_GDT)
    info = start_info(low, cmdline, memory_map, rsdp_address)
    return LoadPlan(Kind.FLAT, (code, stack, *low.segments), Long64(LOAD_ADDRESS, LOW_END, info, cr3, (gdt, len(_GDT))))


def _page_tables(low: LowMemory, code_end: int, end: int) -> int:
    """Identity tables up to ``end``: 1 GiB pages, smaller ones where executable and other memory meet. CR3."""

    def entry(at: int, size: int) -> int:
        """A page of ``size`` bytes at ``at``, or the table that splits it."""
        if at >= LOAD_ADDRESS and at + size <= code_end:
            return at | _PRESENT_WRITABLE | (_LARGE if size > PAGE else 0)
        if at >= code_end or at + size <= LOAD_ADDRESS:
            return at | _PRESENT_WRITABLE | (_LARGE if size > PAGE else 0) | _NX
        step = size // 512
        return table([entry(at + n * step, step) for n in range(512)])

    def table(entries: list[int]) -> int:
        data = struct.pack("<512Q", *entries, *[0] * (512 - len(entries)))
        return low.place(data, alignment=PAGE) | _PRESENT_WRITABLE

    giants = [entry(at, GIB) for at in range(0, align_up(end, GIB), GIB)]
    roots = [table(giants[n : n + 512]) for n in range(0, len(giants), 512)]
    return table(roots) & ~_PRESENT_WRITABLE
