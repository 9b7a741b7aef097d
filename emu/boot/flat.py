"""Flat 64-bit images, entered in long mode: plain bytes, loaded at 1 MiB and entered at the first one, or a static ELF
file, which says where its parts go, where it is entered, and what its addresses are called.

The page tables map all memory at its own address. Only the pages of code are executable (of plain bytes, all of them):
a store to a page that the engine thinks executable is several times slower, so data belongs behind.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence

from emu.boot.elf import ElfImage
from emu.boot.plan import LOW_END, Kind, LoadPlan, LoadSegment, LowMemory, MemoryRange, check_segments, start_info
from emu.entry import Long64
from emu.errors import UsageError
from emu.record import NamedTuple
from emu.units import GIB, MIB, PAGE, align_down, align_up

LOAD_ADDRESS = MIB
STACK_SIZE = 64 * 1024
HIGHEST = 1 << 44
"""Beyond this the page tables would not fit in low memory."""

_PRESENT_WRITABLE, _LARGE, _NX = 3, 0x80, 1 << 63
_GDT = struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)


class Placed(NamedTuple):
    """Where the parts of an image go, which (begin, end) of them are code, and where it is entered."""

    segments: tuple[LoadSegment, ...]
    code: tuple[tuple[int, int], ...]
    entry: int


def place_bytes(image: bytes) -> Placed:
    """Plain bytes: all of them may be code."""
    end = LOAD_ADDRESS + len(image)
    return Placed((LoadSegment(LOAD_ADDRESS, memoryview(image), len(image)),), ((LOAD_ADDRESS, end),), LOAD_ADDRESS)


def place_elf(image: ElfImage, name: str) -> Placed:
    """A static ELF file; UsageError unless it is entered in code."""
    if not any(begin <= image.entry < end for begin, end in image.code):
        raise UsageError(
            f"{name}: the entry point {image.entry:#x} is in no executable segment", "name it for the linker (-e)"
        )
    return Placed(image.contents, image.code, image.entry)


def load(
    image: Placed,
    *,
    name: str,
    cmdline: str,
    memory_map: Sequence[MemoryRange],
    rsdp_address: int,
    highest_address: int,
) -> LoadPlan:
    """``highest_address`` is the end of everything to be mapped: RAM and the device window."""
    if not any(segment.size for segment in image.segments):
        raise UsageError(f"{name}: the image is empty", "give a file with code in it")
    segments = image.segments
    stack = LoadSegment(LOW_END - STACK_SIZE, memoryview(b""), STACK_SIZE)
    check_segments(name, [*segments, stack], memory_map)
    end = max(highest_address, 4 * GIB, *(segment.end for segment in segments))
    if end > HIGHEST:
        raise UsageError(
            f"{name}: a flat image cannot reach memory up to {end:#x}, its page tables end at {HIGHEST:#x}",
            "place devices lower, or use a Multiboot image with page tables of its own",
        )
    low = LowMemory(name, memory_map, [*segments, stack])
    cr3 = _page_tables(low, _pages(image.code), end)
    gdt = low.place(_GDT)
    info = start_info(low, cmdline, memory_map, rsdp_address)
    return LoadPlan(
        Kind.FLAT, (*segments, stack, *low.segments), Long64(image.entry, LOW_END, info, cr3, (gdt, len(_GDT)))
    )


def _pages(code: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (begin, end) of whole pages that ``code`` touches, in order and with a gap between any two."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted((align_down(begin, PAGE), align_up(end, PAGE)) for begin, end in code):
        if joined and begin <= joined[-1][1]:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return joined


def _page_tables(low: LowMemory, code: Sequence[tuple[int, int]], end: int) -> int:
    """Identity tables up to ``end``: 1 GiB pages, smaller ones where executable and other memory meet. CR3.

    ``code`` are the (begin, end) of the pages that are executable, in order and apart.
    """
    ends = [last for _, last in code]

    def entry(at: int, size: int) -> int:
        """A page of ``size`` bytes at ``at``, or the table that splits it."""
        large = _LARGE if size > PAGE else 0
        next_one = bisect_right(ends, at)
        begin, last = code[next_one] if next_one < len(code) else (end, end)
        if begin <= at and at + size <= last:
            return at | _PRESENT_WRITABLE | large
        if at + size <= begin or next_one == len(code):
            return at | _PRESENT_WRITABLE | large | _NX
        step = size // 512
        return table([entry(at + n * step, step) for n in range(512)])

    def table(entries: list[int]) -> int:
        data = struct.pack("<512Q", *entries, *[0] * (512 - len(entries)))
        return low.place(data, alignment=PAGE) | _PRESENT_WRITABLE

    giants = [entry(at, GIB) for at in range(0, align_up(end, GIB), GIB)]
    roots = [table(giants[n : n + 512]) for n in range(0, len(giants), 512)]
    return table(roots) & ~_PRESENT_WRITABLE
