"""Names and source lines of a guest's addresses, from its ELF symbols and DWARF."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.report import debug_info


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is: ``symbol`` like ``main+0x10``, ``source`` like ``log.c:42``; empty when not known."""

    symbol: str = ""
    source: str = ""


class CodeFile(NamedTuple):
    """A file of code, by its path, and the one that has its names: itself or, where it is stripped, a separate one."""

    path: str
    debug: str


class CodeAt(NamedTuple):
    """Where in which file code is from: ``address`` is that which the file's symbols use."""

    file: CodeFile
    address: int


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

    def page(self, content: bytes) -> CodeAt | None:
        """Where a page of code with this content is from; None for a guest that is one image."""
        return None

    def find_in(self, code: CodeAt) -> Place:
        """What is there, in a file that ``page`` has named."""
        return Place()


def load_symbols(path: str | None, deadline: Deadline = NEVER) -> Symbols:
    """The symbols of the image at ``path``. What cannot be read until ``deadline`` gives no names, never an error."""
    if path is None:
        return Symbols(debug_info.NO_ELF)
    found = debug_info.read(path, deadline=deadline)
    return Symbols(found.note, found.functions, found.lines)
