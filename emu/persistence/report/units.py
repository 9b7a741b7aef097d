"""Finds the compilation unit of an address in DWARF, in the readers' processes."""

from __future__ import annotations

from functools import cached_property
from typing import Any


class UnitFinder:
    """The compilation units of one file's DWARF (``elftools.dwarf.dwarfinfo.DWARFInfo``)."""

    def __init__(self, dwarf: Any) -> None:
        self._dwarf = dwarf

    def unit(self, address: int) -> Any | None:
        """The unit that has ``address``; None where none does.

        By .debug_aranges (DWARF 5, section 6.1.2), which not every compiler writes; else by the ranges of each unit.
        """
        if not self._dwarf.has_debug_info:
            return None
        offset = None if self._ranges is None else self._ranges.cu_offset_at_addr(address)
        if offset is not None:
            return self._dwarf.get_CU_at(offset)
        return next((unit for unit in self._units if self.covers(unit.get_top_DIE(), address)), None)

    @cached_property
    def _ranges(self) -> Any | None:
        ranges = self._dwarf.get_aranges()
        return ranges if ranges is not None and ranges.entries else None

    @cached_property
    def _units(self) -> list[Any]:
        """Those that .debug_aranges does not name."""
        named = set() if self._ranges is None else {entry.info_offset for entry in self._ranges.entries}
        return [unit for unit in self._dwarf.iter_CUs() if unit.cu_offset not in named]

    def covers(self, die: Any, address: int) -> bool:
        """Whether the entry ``die`` says that ``address`` is in it."""
        attributes = die.attributes
        if "DW_AT_low_pc" in attributes and "DW_AT_high_pc" in attributes:
            from elftools.dwarf.descriptions import describe_form_class

            low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
            end = high.value if describe_form_class(high.form) == "address" else low + high.value
            return bool(low <= address < end)
        if "DW_AT_ranges" not in attributes:
            return False
        ranges = self._dwarf.range_lists()
        base = die.cu.get_top_DIE().attributes.get("DW_AT_low_pc")
        base = base.value if base else 0
        at = attributes["DW_AT_ranges"]
        listed = ranges.get_range_list_at_offset(at.value, die.cu) if at.form != "DW_FORM_rnglistx" else (
            ranges.get_range_list_at_offset_ex(at.value))  # fmt: skip
        for entry in listed:
            if hasattr(entry, "base_address"):
                base = entry.base_address
            elif (
                entry.begin_offset + (0 if entry.is_absolute else base)
                <= address
                < entry.end_offset + (0 if entry.is_absolute else base)
            ):
                return True
        return False
