"""Multiboot 1 (Multiboot Specification 0.6.96): header, load addresses and the information structure."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from emu.boot import elf
from emu.boot.plan import (
    Kind,
    LoadPlan,
    LoadSegment,
    LowMemory,
    MemoryRange,
    MemoryType,
    Module,
    check_entry,
    check_segments,
    command_line,
    place_high,
)
from emu.entry import Protected32
from emu.errors import UsageError
from emu.record import NamedTuple
from emu.units import KIB, MIB

HEADER_MAGIC, BOOT_MAGIC = 0x1BADB002, 0x2BADB002
SEARCH = 8 * KIB
"""The header lies in the first 8 KiB of the file, on a 4-byte border (section 3.1)."""
LOADER_NAME = b"emu\0"

_ADDRESS_FIELDS = 1 << 16
_UNDERSTOOD = 0x7
"""Of the header's requirements: page-aligned modules, memory information, and a video mode, which is optional."""
_INFO_MEMORY, _INFO_COMMAND_LINE, _INFO_MODULES, _INFO_MMAP, _INFO_LOADER_NAME = 1, 1 << 2, 1 << 3, 1 << 6, 1 << 9
_INFO_SIZE = 116
_INFO_AT = 0x9000


class Header(NamedTuple):
    """``offset`` is its place in the file."""

    offset: int
    flags: int


def find_header(image: bytes) -> Header | None:
    """The first header whose checksum is right, or None."""
    window = image[:SEARCH]
    at = window.find(struct.pack("<I", HEADER_MAGIC))
    while at >= 0:
        if at % 4 == 0 and at + 12 <= len(window):
            magic, flags, checksum = struct.unpack_from("<III", window, at)
            if (magic + flags + checksum) & 0xFFFFFFFF == 0:
                return Header(at, flags)
        at = window.find(struct.pack("<I", HEADER_MAGIC), at + 1)
    return None


def load(
    image: bytes,
    header: Header,
    *,
    name: str,
    cmdline: str,
    memory_map: Sequence[MemoryRange],
    modules: Sequence[Module] = (),
) -> LoadPlan:
    """The image at its places and the machine state of section 3.2: EAX = 2BADB002h, EBX = information structure.

    ``modules`` lie on page borders as high as there is room, which suits images that ask for that and all others.
    """
    unknown = header.flags & 0xFFFF & ~_UNDERSTOOD
    if unknown:
        raise UsageError(
            f"{name}: the Multiboot header requires features {unknown:#x} that emu does not know",
            "clear these bits of the header's flags",
        )
    if header.flags & _ADDRESS_FIELDS:
        segments, entry = _by_address_fields(image, header, name)
    elif image.startswith(elf.MAGIC):
        parsed = elf.parse(image, name)
        segments, entry = parsed.segments, parsed.entry
    else:
        raise UsageError(
            f"{name}: the Multiboot header has no address fields and the file is not ELF",
            "set bit 16 of the header's flags and fill in the addresses, or link as ELF",
        )
    check_segments(name, segments, memory_map)
    check_entry(name, entry, segments)
    placed: list[LoadSegment] = []
    for module in modules:
        segment = place_high(name, module.data, memory_map, [*segments, *placed])
        placed.append(segment or LoadSegment(MIB, memoryview(b""), 0))
    low = LowMemory(name, memory_map, segments)
    texts = [(segment, module.text) for segment, module in zip(placed, modules, strict=True)]
    info = _information(low, f"{name} {cmdline}".rstrip(), memory_map, texts)
    return LoadPlan(Kind.MULTIBOOT, (*segments, *placed, *low.segments), Protected32(entry, BOOT_MAGIC, info))


def _by_address_fields(image: bytes, header: Header, name: str) -> tuple[tuple[LoadSegment, ...], int]:
    if header.offset + 32 > len(image):
        raise UsageError(f"{name}: the Multiboot header's address fields are cut short", "the file is cut short")
    header_at, load_at, load_end, bss_end, entry = struct.unpack_from("<5I", image, header.offset + 12)
    start = header.offset - (header_at - load_at)
    if header_at < load_at or start < 0:
        raise UsageError(
            f"{name}: the Multiboot load address {load_at:#x} does not fit the header at {header_at:#x}",
            "correct the header's addresses",
        )
    size = load_end - load_at if load_end else len(image) - start
    if size <= 0 or start + size > len(image):
        raise UsageError(
            f"{name}: the Multiboot header loads {size:#x} bytes at {load_at:#x}, "
            f"the file has {max(len(image) - start, 0):#x} of them",
            "the file is cut short, or the header's addresses are wrong",
        )
    if bss_end and bss_end < load_at + size:
        raise UsageError(
            f"{name}: the Multiboot header ends the BSS at {bss_end:#x}, before the data does",
            "correct the header's addresses",
        )
    memory_size = bss_end - load_at if bss_end else size
    return (LoadSegment(load_at, memoryview(image)[start : start + size], memory_size),), entry


def _information(
    low: LowMemory, cmdline: str, memory_map: Sequence[MemoryRange], modules: Sequence[tuple[LoadSegment, str]]
) -> int:
    """Like QEMU's, the command line starts with the image's name, and the structure is at 9000h if that is free."""
    info = low.reserve(_INFO_SIZE, at_least=_INFO_AT)
    text = low.place(command_line(cmdline), at_least=_INFO_AT)
    loader = low.place(LOADER_NAME, at_least=_INFO_AT)
    entries = b"".join(struct.pack("<IQQI", 20, item.base, item.size, item.kind) for item in sorted(memory_map))
    table = low.place(entries, at_least=_INFO_AT)
    ram = [item for item in memory_map if item.kind is MemoryType.RAM]
    lower = max((item.end for item in ram if item.base == 0), default=0)
    upper = max((item.end for item in ram if item.base <= MIB < item.end), default=MIB) - MIB
    data = bytearray(_INFO_SIZE)
    flags = _INFO_MEMORY | _INFO_COMMAND_LINE | _INFO_MMAP | _INFO_LOADER_NAME
    struct.pack_into("<II", data, 4, min(lower, 640 * KIB) // KIB, upper // KIB)
    struct.pack_into("<I", data, 16, text)
    if modules:
        listed = b"".join(
            struct.pack("<4I", segment.gpa, segment.end, low.place(command_line(text), at_least=_INFO_AT), 0)
            for segment, text in modules
        )
        flags |= _INFO_MODULES
        struct.pack_into("<II", data, 20, len(modules), low.place(listed, at_least=_INFO_AT))
    struct.pack_into("<I", data, 0, flags)
    struct.pack_into("<II", data, 44, len(entries), table)
    struct.pack_into("<I", data, 64, loader)
    low.fill(info, bytes(data))
    return info
