"""What loaders and debuggers need of every committed ELF image, read straight from its bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from emu import guest

ROOT = Path(guest.__file__).parent.parent
NAMES = [image.name for image in guest.images() if image.kind == "multiboot"]
PT_LOAD, PT_NOTE = 1, 4
EXECUTE, WRITE = 1, 2
MULTIBOOT_MAGIC, ADDRESS_FIELDS = 0x1BADB002, 1 << 16
XEN_PHYS32_ENTRY = 18
SHF_COMPRESSED = 0x800


class Elf:
    """The few fields of a little-endian ELF64 file that are looked at here."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        assert data[:6] == b"\x7fELF\x02\x01"
        self.type, self.machine = struct.unpack_from("<HH", data, 16)
        self.entry, self.phoff, self.shoff = struct.unpack_from("<QQQ", data, 24)
        phentsize, phnum, shentsize, shnum, self.shstrndx = struct.unpack_from("<HHHHH", data, 54)
        # (type, flags, offset, vaddr, paddr, filesz, memsz, align)
        self.segments = [struct.unpack_from("<IIQQQQQQ", data, self.phoff + n * phentsize) for n in range(phnum)]
        # (name, type, flags, addr, offset, size, ...)
        self.sections = [struct.unpack_from("<IIQQQQ", data, self.shoff + n * shentsize) for n in range(shnum)]

    def section_names(self) -> list[str]:
        strings = self.sections[self.shstrndx][4]
        return [self.data[strings + s[0] :].split(b"\0", 1)[0].decode() for s in self.sections]


def elf(name: str) -> Elf:
    image = guest.find(name)
    assert image is not None
    return Elf(image.read())


@pytest.mark.parametrize("name", NAMES)
def test_multiboot_address_fields_describe_the_file(name: str) -> None:
    image = elf(name)
    at = next(n for n in range(0, 8192 - 32, 4) if struct.unpack_from("<I", image.data, n)[0] == MULTIBOOT_MAGIC)
    magic, flags, checksum, header, load, load_end, bss_end, entry = struct.unpack_from("<8I", image.data, at)
    assert (magic + flags + checksum) & 0xFFFFFFFF == 0
    assert flags & ADDRESS_FIELDS
    assert entry == image.entry
    loads = [s for s in image.segments if s[0] == PT_LOAD]
    assert load == min(s[3] for s in loads)
    assert load_end == max(s[3] + s[5] for s in loads)
    assert bss_end >= max(s[3] + s[6] for s in loads)
    for _, _, offset, address, physical, *_ in loads:
        assert offset - at == address - header
        assert address == physical


@pytest.mark.parametrize("name", NAMES)
def test_pvh_note_points_into_the_code(name: str) -> None:
    image = elf(name)
    (offset,) = (s[2] for s in image.segments if s[0] == PT_NOTE)
    name_size, value_size, kind, owner, entry = struct.unpack_from("<III4sQ", image.data, offset)
    assert (name_size, value_size, kind, owner) == (4, 8, XEN_PHYS32_ENTRY, b"Xen\0")
    code = next(s for s in image.segments if s[0] == PT_LOAD and s[1] & EXECUTE)
    assert code[3] <= entry < code[3] + code[5]


@pytest.mark.parametrize("name", NAMES)
def test_no_page_is_both_writable_and_executable(name: str) -> None:
    loads = [s for s in elf(name).segments if s[0] == PT_LOAD]
    assert not [s for s in loads if s[1] & EXECUTE and s[1] & WRITE]
    assert all(s[3] % 4096 == 0 for s in loads)
    assert max(s[3] + s[6] for s in loads) <= 0x200000


@pytest.mark.parametrize("name", NAMES)
def test_debug_information_is_plain_and_relative(name: str) -> None:
    image = elf(name)
    names = image.section_names()
    assert {".debug_line", ".debug_info", ".symtab"} <= set(names)
    assert not [n for n in names if n.startswith(".zdebug")]
    assert not [s for s in image.sections if s[2] & SHF_COMPRESSED]
    assert ".note.gnu.build-id" not in names
    assert str(ROOT).encode() not in image.data


@pytest.mark.parametrize("name", NAMES)
def test_source_lines_name_files_of_the_project(name: str) -> None:
    image = guest.find(name)
    assert image is not None
    with image.path.open("rb") as stream:
        dwarf = ELFFile(stream).get_dwarf_info()
        units = [unit.get_top_DIE().attributes["DW_AT_name"].value.decode() for unit in dwarf.iter_CUs()]
    assert "guest/lib/boot.c" in units
    assert all((ROOT / unit).is_file() for unit in units)
