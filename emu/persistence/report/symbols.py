"""Names and source lines of a guest's addresses, from its ELF symbols and DWARF."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.report import debug_info


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is: ``symbol`` like ``main+0x10``, ``source`` like ``log.c:42``; empty when not known."""

    symbol: str = ""
    source: str = ""


@dataclass(slots=True)
class Symbols:
    """Looks up addresses. ``note`` says which names are missing and why; empty when none are."""

    note: str = ""
    _functions: Sequence[tuple[int, int, str]] = ()
    _lines: Sequence[tuple[int, str]] = ()

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


def load_symbols(path: str | None, deadline: Deadline = NEVER) -> Symbols:
    """The symbols of the image at ``path``. What cannot be read until ``deadline`` gives no names, never an error."""
    if path is None or not _is_elf(path):
        return Symbols("the image is not an ELF file: addresses have no names")
    found = debug_info.read(path, deadline=deadline)
    return Symbols(found.note, found.functions, found.lines)


def _is_elf(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) == b"\x7fELF"
