"""ELF images: loadable segments, entry and the PVH note (System V ABI; Xen's public header elfnote.h)."""

from __future__ import annotations

import struct

from emu.boot.plan import LoadSegment
from emu.errors import UsageError
from emu.record import NamedTuple
from emu.units import KIB

MAGIC = b"\x7fELF"
_LITTLE_ENDIAN, _I386, _X86_64 = 1, 3, 62
_PT_LOAD, _PT_INTERP, _PT_NOTE = 1, 3, 4
_PF_X = 1
_STATIC = 2  # e_type ET_EXEC: everything has its address
_PHYS32_ENTRY = 18
_ABI_TAG = 1
# Bytes of notes that are looked through, in all segments together: thousands of segments may name the same ones. Linux
# has less than a kilobyte.
_MOST_NOTES = 64 * KIB
_RELINK = "link the image again as a static x86 executable"


class ElfImage(NamedTuple):
    """``pvh_entry`` is None without a PVH note. ``entry`` is translated to the physical address it loads at.

    ``contents`` are the segments without one that holds nothing but the file's own headers: linkers like to put it a
    page below the code, wherever that is. ``code`` are the (begin, end) of executable segments. ``bare`` says that the
    file runs without anybody's help: it is static, linked to the addresses that it loads at, and no program of an
    operating system that has put its mark on it.
    """

    bits: int
    entry: int
    segments: tuple[LoadSegment, ...]
    pvh_entry: int | None
    contents: tuple[LoadSegment, ...]
    code: tuple[tuple[int, int], ...]
    bare: bool


class _Header(NamedTuple):
    kind: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int
    flags: int


def parse(image: bytes, name: str) -> ElfImage:
    """UsageError when ``image``, which starts with the ELF magic, is cut short or not for x86."""
    if len(image) < 52 or image[5] != _LITTLE_ENDIAN or image[4] not in (1, 2):
        raise UsageError(f"{name}: the ELF header is cut short or not little-endian", _RELINK)
    bits = 32 * image[4]
    if bits == 64 and len(image) < 64:
        raise UsageError(f"{name}: the ELF header is cut short", _RELINK)
    machine = struct.unpack_from("<H", image, 18)[0]
    if machine not in (_I386, _X86_64):
        raise UsageError(f"{name}: ELF machine {machine} is not x86", "build the image for x86-64 or i386")
    if bits == 64:
        entry, table = struct.unpack_from("<QQ", image, 24)
        size, count = struct.unpack_from("<HH", image, 54)
    else:
        entry, table = struct.unpack_from("<II", image, 24)
        size, count = struct.unpack_from("<HH", image, 42)
    if count and size != (56 if bits == 64 else 32):
        raise UsageError(f"{name}: program headers of {size} bytes are not those of ELF{bits}", _RELINK)
    if table + size * count > len(image):
        raise UsageError(f"{name}: the program headers lie beyond the end of the file", "the file is cut short")
    headers = [_header(image, table + size * n, bits) for n in range(count)]
    loaded = [header for header in headers if header.kind == _PT_LOAD and header.memsz]
    if not loaded:
        raise UsageError(f"{name}: the ELF file has nothing to load", _RELINK)
    segments = tuple(_segment(image, header, name) for header in loaded)
    end_of_headers = table + size * count
    contents = tuple(
        segment
        for header, segment in zip(loaded, segments, strict=True)
        if header.offset or header.memsz > end_of_headers
    )
    for header in loaded:
        if header.vaddr <= entry < header.vaddr + header.memsz:
            entry += header.paddr - header.vaddr
            break
    code = tuple((header.paddr, header.paddr + header.memsz) for header in loaded if header.flags & _PF_X)
    bare = (
        struct.unpack_from("<H", image, 16)[0] == _STATIC
        and all(header.vaddr == header.paddr for header in loaded)
        and not any(header.kind == _PT_INTERP for header in headers)
        and _note(image, headers, b"GNU", _ABI_TAG) is None
    )
    entries = _note(image, headers, b"Xen", _PHYS32_ENTRY)
    pvh_entry = int.from_bytes(entries, "little") if entries is not None and len(entries) in (4, 8) else None
    return ElfImage(bits, entry, segments, pvh_entry, contents, code, bare)


def _header(image: bytes, at: int, bits: int) -> _Header:
    if bits == 64:
        kind, flags, offset, vaddr, paddr, filesz, memsz, align = struct.unpack_from("<IIQQQQQQ", image, at)
    else:
        kind, offset, vaddr, paddr, filesz, memsz, flags, align = struct.unpack_from("<8I", image, at)
    return _Header(kind, offset, vaddr, paddr, filesz, memsz, align, flags)


def _segment(image: bytes, header: _Header, name: str) -> LoadSegment:
    if header.filesz > header.memsz:
        raise UsageError(f"{name}: a segment at {header.paddr:#x} has more bytes in the file than in memory", _RELINK)
    if header.offset + header.filesz > len(image):
        raise UsageError(
            f"{name}: the segment at {header.paddr:#x} needs file bytes up to {header.offset + header.filesz:#x}, "
            f"the file has {len(image):#x}",
            "the file is cut short; build or copy it again",
        )
    return LoadSegment(header.paddr, memoryview(image)[header.offset : header.offset + header.filesz], header.memsz)


def _note(image: bytes, headers: list[_Header], owner: bytes, kind: int) -> bytes | None:
    """What the first note of ``owner`` and ``kind`` says."""
    budget = _MOST_NOTES
    for header in headers:
        if header.kind == _PT_NOTE and header.offset + header.filesz <= len(image):
            notes = image[header.offset : header.offset + min(header.filesz, budget)]
            budget -= len(notes)
            at = 0
            while at + 12 <= len(notes):
                name_size, desc_size, found = struct.unpack_from("<III", notes, at)
                desc = at + 12 + (name_size + 3 & ~3)
                named = notes[at + 12 : at + 12 + name_size] if name_size <= 16 else b""
                if found == kind and named.rstrip(b"\0") == owner and desc + desc_size <= len(notes):
                    return notes[desc : desc + desc_size]
                at = desc + (desc_size + 3 & ~3)
    return None
