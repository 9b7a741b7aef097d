"""Call frame information of one ELF file (DWARF 4, section 6.4), in the process that unwinds stacks.

A system's library has ten thousand entries, and a stack asks for five. Where .eh_frame_hdr, the table that the run-time
unwinder searches (Linux Standard Base, "Exception Frames"), has its usual form, only those are read.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from functools import cached_property
from typing import Any

Row = dict[Any, Any]
"""Rules by register number, and that of the "cfa"."""

# Version 1; pointer and entries relative, in 4 bytes with a sign; the number of entries in 4 bytes without.
_USUAL = bytes((1, 0x1B, 0x03, 0x3B))
_HEADER, _ENTRY = struct.Struct("<4siI"), struct.Struct("<ii")


class FrameTables:
    """Those of ``elf`` (``elftools.elf.elffile.ELFFile``)."""

    def __init__(self, elf: Any, dwarf: Any | None) -> None:
        self._elf = elf
        self._dwarf = dwarf
        self._rows: dict[int, Row | None] = {}

    def row(self, address: int) -> Row | None:
        """How the function at ``address`` has left its caller's registers; None where nothing tells."""
        if address not in self._rows:
            entry = self._search(address)
            rows = [] if entry is None else [row for row in entry.get_decoded().table if row["pc"] <= address]
            self._rows[address] = rows[-1] if rows else None
        return self._rows[address]

    def _search(self, address: int) -> Any | None:
        if self._sorted is not None:
            starts, places, tables = self._sorted
            at = bisect_right(starts, address) - 1
            entries = [tables._parse_entry_at(places[at])] if at >= 0 else []
        else:
            entries = self._entries
        for entry in entries:
            start = entry.header["initial_location"]
            if start <= address < start + entry.header["address_range"]:
                return entry
        return None

    @cached_property
    def _sorted(self) -> tuple[list[int], list[int], Any] | None:
        """Where functions start, and where in .eh_frame their entries are; None without such a table."""
        from elftools.dwarf.callframe import CallFrameInfo

        header, frames = (self._elf.get_section_by_name(name) for name in (".eh_frame_hdr", ".eh_frame"))
        known = hasattr(CallFrameInfo, "_parse_entry_at")  # of pyelftools' insides; else all entries are read
        if not known or header is None or frames is None or self._dwarf is None or self._dwarf.has_CFI():
            return None
        data = header.data()
        if len(data) < _HEADER.size or not data.startswith(_USUAL):
            return None
        _, _, count = _HEADER.unpack_from(data)
        pairs = list(_ENTRY.iter_unpack(data[_HEADER.size :][: _ENTRY.size * count]))
        section = self._dwarf.eh_frame_sec
        tables = CallFrameInfo(section.stream, section.size, section.address, self._dwarf.structs, for_eh_frame=True)
        base = header["sh_addr"]
        starts = [base + start for start, _ in pairs]
        return (starts, [base + place - section.address for _, place in pairs], tables) if pairs else None

    @cached_property
    def _entries(self) -> list[Any]:
        from elftools.dwarf.callframe import FDE

        entries: list[Any] = []
        if self._dwarf is not None:
            entries += self._dwarf.CFI_entries() if self._dwarf.has_CFI() else []
            entries += self._dwarf.EH_CFI_entries() if self._dwarf.has_EH_CFI() else []
        return [entry for entry in entries if isinstance(entry, FDE)]
