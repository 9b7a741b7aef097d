"""Linux kernels as distributions ship them: the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst).

A bzImage is a real-mode part, which only firmware needs, and a protected-mode part, which unpacks the kernel that it
carries, whatever the compression, and starts it. It is entered at its 64-bit entry (protocol 2.12, Linux 3.8).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from emu.boot.plan import (
    Kind,
    LoadPlan,
    LoadSegment,
    LowMemory,
    MemoryRange,
    check_segments,
    command_line,
    place_high,
)
from emu.entry import Long64
from emu.errors import UsageError
from emu.units import GIB, PAGE

_SECTOR = 512
_HEADER_AT, _MAGIC_AT = 0x1F1, 0x202
_OLDEST = 0x20C
_HEADER_END = 0x268
"""Where the fields of protocol 2.12 end (``handover_offset``)."""
_KERNEL_64 = 1 << 0
_ENTRY_64 = 0x200
_LONGEST_VERSION = 256
_PAYLOAD = 0x248

# The structure that the kernel is handed, "zero page" or boot_params (zero-page.rst).
_PARAMS_SIZE = 4096
_RSDP, _E820_COUNT, _E820_TABLE, _E820_MOST = 0x70, 0x1E8, 0x2D0, 128
_LOADER, _INITRD_IMAGE, _INITRD_SIZE, _COMMAND_LINE = 0x210, 0x218, 0x21C, 0x228
_UNDEFINED_LOADER = 0xFF

# Entries 2 and 3 are what the protocol wants as __BOOT_CS and __BOOT_DS.
_GDT = struct.pack("<4Q", 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
_CODE_SELECTOR = 0x10
_PRESENT_WRITABLE, _LARGE = 3, 0x80
_REPLACE = "give the vmlinuz of a 64-bit distribution kernel, or its vmlinux"


class Header(NamedTuple):
    """What the setup header says: ``setup`` is its bytes as the kernel wants them back, ``start`` the place of the
    protected-mode part in the file, ``load_at`` and ``memory_size`` where it runs and what it needs there."""

    setup: bytes
    start: int
    load_at: int
    memory_size: int
    initrd_end: int
    command_line_size: int


def version(image: bytes) -> str | None:
    """The version of a kernel with a setup header, as ``uname -r`` says it; None without one."""
    if len(image) < _HEADER_END:
        return None
    (at,) = struct.unpack_from("<H", image, 0x20E)
    words = image[at + 0x200 : at + 0x200 + _LONGEST_VERSION].split(b"\0")[0].split() if at else []
    return words[0].decode("ascii", "replace") if words else None


def payload(image: bytes, header: Header) -> memoryview:
    """The compressed kernel inside ``image``; what is outside of the file is left away."""
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    return memoryview(image)[header.start + offset :][:length]


def parse(image: bytes, name: str) -> Header:
    """UsageError when ``image``, which has a setup header, is cut short, too old or no 64-bit kernel."""
    if len(image) < _HEADER_END:
        raise UsageError(f"{name}: the Linux setup header is cut short", "the file is cut short; copy it again")
    (protocol,) = struct.unpack_from("<H", image, 0x206)
    if protocol < _OLDEST:
        raise UsageError(
            f"{name}: a Linux kernel of boot protocol {protocol >> 8}.{protocol & 0xFF:02}, emu needs 2.12 (Linux 3.8)",
            _REPLACE,
        )
    (flags,) = struct.unpack_from("<H", image, 0x236)
    if not flags & _KERNEL_64:
        raise UsageError(f"{name}: a Linux kernel without 64-bit entry, so a 32-bit one", _REPLACE)
    end = _MAGIC_AT + image[0x201]
    setup_sectors = image[_HEADER_AT] or 4
    start = (setup_sectors + 1) * _SECTOR
    if start + _ENTRY_64 >= len(image) or end > start or end < _HEADER_END:
        raise UsageError(
            f"{name}: the Linux setup header puts the kernel at {start:#x} of a file of {len(image):#x} bytes",
            "the file is cut short; copy it again",
        )
    (command_line_size,) = struct.unpack_from("<I", image, 0x238)
    load_at, memory_size = struct.unpack_from("<QI", image, 0x258)
    (paragraphs,) = struct.unpack_from("<I", image, 0x1F4)  # of 16 bytes; signatures may follow the kernel
    if start + 16 * paragraphs > len(image):
        raise UsageError(
            f"{name}: the kernel needs {start + 16 * paragraphs} bytes, the file has {len(image)}",
            "the file is cut short; copy it again",
        )
    if memory_size < len(image) - start:
        raise UsageError(
            f"{name}: the kernel says it needs {memory_size:#x} bytes of memory, less than it has in the file",
            "the file is damaged; copy it again",
        )
    return Header(
        image[_HEADER_AT:end],
        start,
        load_at,
        memory_size,
        struct.unpack_from("<I", image, 0x22C)[0] + 1,
        command_line_size,
    )


def load(
    image: bytes,
    *,
    name: str,
    cmdline: str,
    memory_map: Sequence[MemoryRange],
    rsdp_address: int,
    initrd: bytes | None,
) -> LoadPlan:
    """The protected-mode part at the place it prefers, ``initrd`` as high as it may lie, 4 GiB mapped as they are."""
    header = parse(image, name)
    text = command_line(cmdline)
    if len(text) > header.command_line_size + 1:
        raise UsageError(
            f"{name}: the command line has {len(text) - 1} bytes, this kernel takes {header.command_line_size}",
            "shorten --append",
        )
    kernel = LoadSegment(header.load_at, memoryview(image)[header.start :], header.memory_size)
    check_segments(name, [kernel], memory_map)
    disk = place_high(name, initrd, memory_map, [kernel], below=header.initrd_end)
    low = LowMemory(name, memory_map, [])
    params = bytearray(_PARAMS_SIZE)
    params[_HEADER_AT : _HEADER_AT + len(header.setup)] = header.setup
    struct.pack_into("<Q", params, _RSDP, rsdp_address)
    params[_LOADER] = _UNDEFINED_LOADER
    if disk is not None:
        struct.pack_into("<II", params, _INITRD_IMAGE, disk.gpa, disk.size)
    struct.pack_into("<I", params, _COMMAND_LINE, low.place(text))
    ranges = sorted(memory_map)[:_E820_MOST]
    params[_E820_COUNT] = len(ranges)
    for place, item in enumerate(ranges):
        struct.pack_into("<QQI", params, _E820_TABLE + 20 * place, item.base, item.size, item.kind)
    zero_page = low.place(bytes(params), alignment=PAGE)
    gdt = low.place(_GDT)
    giants = [n * GIB | _PRESENT_WRITABLE | _LARGE for n in range(4)]
    directory = low.place(struct.pack("<512Q", *giants, *[0] * 508), alignment=PAGE)
    root = low.place(struct.pack("<512Q", directory | _PRESENT_WRITABLE, *[0] * 511), alignment=PAGE)
    entry = Long64(header.load_at + _ENTRY_64, 0, 0, root, (gdt, len(_GDT)), zero_page, _CODE_SELECTOR)
    disks = () if disk is None else (disk,)
    return LoadPlan(Kind.LINUX, (kernel, *disks, *low.segments), entry)
