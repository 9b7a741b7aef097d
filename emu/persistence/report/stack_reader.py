"""The process that unwinds stacks: ``python -m emu.persistence.report.stack_reader IMAGE SECONDS``.

Standard input has a JSON list of captures: ``registers`` by name, ``pc``, ``stack`` in hexadecimal digits from RSP up.
Standard output gets, for each, a list of frames, the innermost first: ``[address, [[function, call], ...]]``, in which
inlined functions come before the one that they are in, and ``call`` is FILE:LINE where an inlined one was called.

Frames are found by DWARF's call frame information (DWARF 4, section 6.4), in ``.debug_frame`` or ``.eh_frame``; where a
function has none, by RBP. As with ``debug_reader``, an image may be anybody's: the kernel bounds memory and time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emu.persistence.report.debug_reader import bound, dwarf_of, text_of
from emu.persistence.report.units import UnitFinder
from emu.words import printable

_MOST_FRAMES = 64
_LONGEST_NAME = 200
_NAMES = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
_RBP, _RSP, _RETURN = 6, 7, 16
_WORD = 8
_ORIGINS = ("DW_AT_abstract_origin", "DW_AT_specification")


class Unwinder:
    """Walks stacks by the tables of one ELF file."""

    def __init__(self, elf: Any) -> None:
        from elftools.dwarf.callframe import FDE

        self._dwarf: Any = dwarf_of(elf)
        entries: list[Any] = []
        if self._dwarf is not None:
            entries += self._dwarf.CFI_entries() if self._dwarf.has_CFI() else []
            entries += self._dwarf.EH_CFI_entries() if self._dwarf.has_EH_CFI() else []
        self._frames = [entry for entry in entries if isinstance(entry, FDE)]
        self._units = None if self._dwarf is None else UnitFinder(self._dwarf)
        # Stacks of one program have most addresses in common.
        self._rows: dict[int, dict[Any, Any] | None] = {}
        self._functions: dict[int, list[tuple[str, str]]] = {}

    def frames(self, capture: dict[str, Any]) -> Iterator[int]:
        """An address in each function, the innermost first: behind a call, the last byte of it."""
        registers = {number: capture["registers"].get(name, 0) for number, name in enumerate(_NAMES)}
        base, stack = registers[_RSP], bytes.fromhex(capture["stack"])

        def word(address: int) -> int | None:
            at = address - base
            return int.from_bytes(stack[at : at + _WORD], "little") if 0 <= at <= len(stack) - _WORD else None

        pc: int | None = capture["pc"]
        for number in range(_MOST_FRAMES):
            if not pc:
                return
            here = pc - 1 if number else pc
            yield here
            pc = self._step(here, registers, word)

    def _step(self, pc: int, registers: dict[int, int], word: Any) -> int | None:
        """Go to the caller; where it goes on, None where nothing tells."""
        row = self._row(pc)
        if row is None:
            frame = registers[_RBP]
            back, caller = word(frame), word(frame + _WORD)
            if back is None or caller is None:
                return None
            registers[_RBP], registers[_RSP] = back, frame + 2 * _WORD
            return int(caller)
        rule = row["cfa"]
        if rule.reg is None or rule.reg not in registers:
            return None
        frame = registers[rule.reg] + rule.offset
        if frame <= registers[_RSP]:
            return None  # it would go round
        found = {}
        for number, saved in row.items():
            if isinstance(number, int) and saved.type == "OFFSET":
                value = word(frame + saved.arg)
                if value is None:
                    return None
                found[number] = value
        registers.update({number: value for number, value in found.items() if number in registers})
        registers[_RSP] = frame
        return found.get(_RETURN)

    def _row(self, pc: int) -> dict[Any, Any] | None:
        if pc not in self._rows:
            self._rows[pc] = self._look_up(pc)
        return self._rows[pc]

    def _look_up(self, pc: int) -> dict[Any, Any] | None:
        for entry in self._frames:
            start = entry.header["initial_location"]
            if start <= pc < start + entry.header["address_range"]:
                rows = [row for row in entry.get_decoded().table if row["pc"] <= pc]
                return rows[-1] if rows else None
        return None

    def functions(self, pc: int) -> list[tuple[str, str]]:
        """The functions that are at ``pc``, those inlined first, each with where it was called if it was inlined."""
        if pc not in self._functions:
            self._functions[pc] = self._find(pc)
        return self._functions[pc]

    def _find(self, pc: int) -> list[tuple[str, str]]:
        unit = None if self._units is None else self._units.unit(pc)
        if self._units is None or unit is None:
            return []
        found: list[tuple[str, str]] = []
        scope = unit.get_top_DIE()
        while scope is not None:
            scope = next((die for die in scope.iter_children() if self._units.covers(die, pc)), None)
            if scope is None:
                break
            if scope.tag == "DW_TAG_subprogram":
                found = [(self._name(scope), "")]
            elif scope.tag == "DW_TAG_inlined_subroutine":
                found.insert(0, (self._name(scope), self._call(unit, scope)))
        return found

    @staticmethod
    def _name(die: Any) -> str:
        for _ in range(8):
            name = die.attributes.get("DW_AT_name")
            if name is not None:
                return printable(text_of(name.value), _LONGEST_NAME)
            origin = next((key for key in _ORIGINS if key in die.attributes), None)
            if origin is None:
                break
            die = die.get_DIE_from_attribute(origin)
        return ""

    def _call(self, unit: Any, die: Any) -> str:
        program = self._dwarf.line_program_for_CU(unit)
        number, line = (die.attributes.get(name) for name in ("DW_AT_call_file", "DW_AT_call_line"))
        if program is None or number is None or line is None:
            return ""
        files, base = program["file_entry"], 0 if program["version"] >= 5 else 1
        if not 0 <= number.value - base < len(files):
            return ""
        return f"{printable(text_of(files[number.value - base].name), _LONGEST_NAME)}:{line.value}"


def main() -> None:
    path, seconds = sys.argv[1], float(sys.argv[2])
    bound(seconds)
    from elftools.elf.elffile import ELFFile

    with Path(path).open("rb") as file:
        unwinder = Unwinder(ELFFile(file))
        stacks = [[(pc, unwinder.functions(pc)) for pc in unwinder.frames(capture)] for capture in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(stacks))


if __name__ == "__main__":
    main()
