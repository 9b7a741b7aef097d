"""Builders of small images for the loader tests."""

from __future__ import annotations

import struct

from emu.boot import MemoryRange, MemoryType

MAP = (
    MemoryRange(0, 0x9FC00),
    MemoryRange(0x9FC00, 0x400, MemoryType.RESERVED),
    MemoryRange(0xE0000, 0x20000, MemoryType.RESERVED),
    MemoryRange(0x100000, 0x1F00000),
    MemoryRange(1 << 32, 1 << 26, MemoryType.PERSISTENT),
)
RSDP, HIGHEST = 0xE0000, (1 << 32) + (1 << 26)


def multiboot_header(flags: int, *fields: int) -> bytes:
    magic = 0x1BADB002
    return struct.pack(f"<III{len(fields)}I", magic, flags, -(magic + flags) & 0xFFFFFFFF, *fields)


def flat_multiboot(
    code: bytes = b"\xf4", *, load: int = 0x100000, entry: int = 0x100020, bss_end: int = 0, before: bytes = b""
) -> bytes:
    """``before`` precedes the header in the file and is not loaded."""
    end = load + 32 + len(code)
    return before + multiboot_header(0x10000, load, load, end, bss_end, entry) + code


def elf(
    segments: list[tuple[int, bytes, int]], *, bits: int = 64, entry: int = 0x100000, note: int | None = None,
    virtual: int = 0, head: bytes = b"", owner: bytes = b"Xen\0", note_kind: int = 18, flags: int = 7, kind: int = 2,
) -> bytes:  # fmt: skip
    """An ELF file; ``segments`` are (physical address, bytes, size in memory), loaded ``virtual`` bytes higher.

    ``head`` comes right behind the headers: room for a Multiboot header.
    """
    notes = b""
    if note is not None:
        notes = struct.pack("<III4s", 4, bits // 8, note_kind, owner) + note.to_bytes(bits // 8, "little")
    count = len(segments) + (note is not None)
    header_size, entry_size = (64, 56) if bits == 64 else (52, 32)
    offset = header_size + entry_size * count
    body = head + notes
    headers = b""

    def header(type_: int, at: int, address: int, size: int, memory: int) -> bytes:
        if bits == 64:
            return struct.pack("<IIQQQQQQ", type_, flags, at, address + virtual, address, size, memory, 4096)
        return struct.pack("<8I", type_, at, address + virtual, address, size, memory, flags, 4096)

    if note is not None:
        headers += header(4, offset + len(head), 0, len(notes), len(notes))
    for address, data, memory in segments:
        headers += header(1, offset + len(body), address, len(data), memory)
        body += data
    ident = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    if bits == 64:
        rest = struct.pack("<HHIQQQIHHHHHH", kind, 62, 1, entry + virtual, 64, 0, 0, 64, 56, count, 0, 0, 0)
    else:
        rest = struct.pack("<HHIIIIIHHHHHH", kind, 3, 1, entry + virtual, 52, 0, 0, 52, 32, count, 0, 0, 0)
    return ident + rest + headers + body


def bzimage(
    code: bytes = b"\xf4", *, protocol: int = 0x20F, flags: int = 1, load: int = 0x1000000, memory: int = 0x100000,
    release: bytes = b"6.1.0-test (someone) #1", payload: bytes = b"", setup_sectors: int = 4,
    initrd_max: int = 0x7FFFFFFF,
) -> bytes:  # fmt: skip
    """A Linux kernel: ``code`` is at the 64-bit entry, ``payload`` the compressed kernel behind it."""
    setup = bytearray((setup_sectors + 1) * 512)
    kernel = (bytes(0x200) + code + payload).ljust(0x400, b"\0")
    kernel += bytes(-len(kernel) % 16)
    setup[0x1F1] = setup_sectors
    struct.pack_into("<I", setup, 0x1F4, len(kernel) // 16)
    setup[0x200:0x206] = b"\xeb\x66HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<H", setup, 0x20E, 0x300)  # plus 200h: where the release is
    setup[0x500 : 0x500 + len(release)] = release
    struct.pack_into("<I", setup, 0x22C, initrd_max)
    struct.pack_into("<H", setup, 0x236, flags)
    struct.pack_into("<I", setup, 0x238, 2047)
    struct.pack_into("<II", setup, 0x248, 0x200 + len(code), len(payload))
    struct.pack_into("<QI", setup, 0x258, load, memory)
    return bytes(setup) + kernel
