"""The process that finds addresses in files of code: ``python -m emu.persistence.report.place_reader / SECONDS``.

Standard input has a JSON object: for each path of an ELF file the addresses that are asked for. Standard output gets a
line of JSON for each file that could be read: its path, and for each address [symbol, source], empty where not known.
A system's libraries have millions of line numbers, so only those of the compilation units in question are decoded.
As with ``debug_reader``, a file may be anybody's: the kernel bounds memory and time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emu.persistence.report.debug_reader import bound, dwarf_of, functions, rows
from emu.persistence.report.elf_library import elf_file
from emu.persistence.report.symbols import Symbols
from emu.persistence.report.units import UnitFinder


def places(elf: Any, addresses: Sequence[int]) -> list[tuple[str, str]]:
    """Symbol and source of each address."""
    symbols, lines = sorted(functions(elf)), _Lines(elf)
    found = (Symbols("", symbols, lines.around(address)).find(address) for address in addresses)
    return [(place.symbol, place.source) for place in found]


class _Lines:
    """The line tables of one file, decoded unit by unit."""

    def __init__(self, elf: Any) -> None:
        self._dwarf = dwarf_of(elf)
        self._units = None if self._dwarf is None else UnitFinder(self._dwarf)
        self._tables: dict[int, list[tuple[int, str]]] = {}

    def around(self, address: int) -> list[tuple[int, str]]:
        """The sorted rows of the unit that has ``address``; none where none does."""
        unit = None if self._units is None else self._units.unit(address)
        if unit is None:
            return []
        if unit.cu_offset not in self._tables:
            program = self._dwarf.line_program_for_CU(unit)
            self._tables[unit.cu_offset] = [] if program is None else sorted(rows([program]).items())
        return self._tables[unit.cu_offset]


def main() -> None:
    bound(float(sys.argv[2]))
    ELFFile = elf_file()  # noqa: N806 - a class

    for path, addresses in json.load(sys.stdin).items():
        try:
            with Path(path).open("rb") as file:
                found = places(ELFFile(file), addresses)
        except Exception:  # noqa: S112 - whatever a broken file makes of the reader: it has no names
            continue
        sys.stdout.write(json.dumps([path, found]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
