"""Names and source lines of a guest's addresses, from its ELF symbols and DWARF (with the optional pyelftools)."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MISSING = "install emu[symbols] (pyelftools) to see symbols and source lines"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is: ``symbol`` like ``main+0x10``, ``source`` like ``log.c:42``; empty when not known."""

    symbol: str = ""
    source: str = ""


@dataclass(slots=True)
class Symbols:
    """Looks up addresses. ``note`` says why there are no names; empty when there may be some."""

    note: str = ""
    _functions: list[tuple[int, int, str]] = field(default_factory=list)
    _lines: list[tuple[int, str]] = field(default_factory=list)

    def find(self, address: int) -> Place:
        symbol = source = ""
        at = bisect_right(self._functions, (address, 1 << 64, "")) - 1
        if at >= 0:
            start, size, name = self._functions[at]
            if address < start + max(size, 1):
                symbol = f"{name}+{address - start:#x}" if address > start else name
        at = bisect_right(self._lines, (address, "\U0010ffff")) - 1
        if at >= 0:
            source = self._lines[at][1]
        return Place(symbol, source)


def load_symbols(path: str | None) -> Symbols:
    """The symbols of the image at ``path``. Anything that cannot be read gives no names, never an error."""
    if path is None or not _is_elf(path):
        return Symbols("the image is not an ELF file: addresses have no names")
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return Symbols(MISSING)
    try:
        with Path(path).open("rb") as file:
            elf = ELFFile(file)
            return Symbols("", sorted(_functions(elf)), sorted(_lines(elf)))
    except Exception as error:  # a broken image has no names; its analysis goes on
        return Symbols(f"the image's symbols cannot be read: {error}")


def _is_elf(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _functions(elf: Any) -> list[tuple[int, int, str]]:
    table = elf.get_section_by_name(".symtab")
    if table is None:
        return []
    return [
        (symbol["st_value"], symbol["st_size"], symbol.name)
        for symbol in table.iter_symbols()
        if symbol["st_info"]["type"] in ("STT_FUNC", "STT_NOTYPE") and symbol["st_shndx"] != "SHN_UNDEF" and symbol.name
    ]


def _lines(elf: Any) -> list[tuple[int, str]]:
    if not elf.has_dwarf_info():
        return []
    dwarf = elf.get_dwarf_info()
    found: list[tuple[int, str]] = []
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        files = program["file_entry"]
        base = 0 if program["version"] >= 5 else 1
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if state.end_sequence:
                found.append((state.address, ""))
            elif 0 <= state.file - base < len(files):
                name = files[state.file - base].name.decode("utf-8", "replace")
                found.append((state.address, f"{name}:{state.line}"))
    return found
