"""The process that unwinds stacks: ``python -m emu.persistence.report.stack_reader IMAGE SECONDS``.

Standard input has a JSON object. ``captures`` are a list: ``registers`` by name, ``pc``, ``stack`` in hexadecimal
digits from RSP up and, where a program consists of several files, ``pages``: for the address of a page of code the
number of its file and how much higher it lies in memory than there. ``files`` are these, each with the one that has
its DWARF; without them all code is the image's, where it is linked to.

Standard output gets, for each capture, a list of frames, the innermost first: ``[address, file, address in the file,
[[function, call], ...]]``, in which inlined functions come before the one that they are in, and ``call`` is FILE:LINE
where an inlined one was called.

Frames are found by DWARF's call frame information, in ``.debug_frame`` or ``.eh_frame`` (``frame_tables``); where a
function has none, by RBP. As with ``debug_reader``, an image may be anybody's: the kernel bounds memory and time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from emu.persistence.report.debug_reader import bound, dwarf_of, text_of
from emu.persistence.report.elf_library import elf_file
from emu.persistence.report.frame_tables import FrameTables
from emu.persistence.report.units import UnitFinder
from emu.units import PAGE
from emu.words import printable

_MOST_FRAMES = 64
_LONGEST_NAME = 200
_NAMES = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", *(f"r{number}" for number in range(8, 16)))
_RBP, _RSP, _RETURN = 6, 7, 16
_WORD = 8
_ORIGINS = ("DW_AT_abstract_origin", "DW_AT_specification")
_SCOPES = ("DW_TAG_namespace", "DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_enumeration_type")
_LINKAGE = ("DW_AT_linkage_name", "DW_AT_MIPS_linkage_name")


class Place(NamedTuple):
    """Where the code of a frame is: the number of its file and the address that this uses; ``pc`` in memory."""

    pc: int
    file: int
    address: int


class Unwinder:
    """Walks stacks by the tables of ``codes``; names are those of ``names``, file by file."""

    def __init__(self, codes: Sequence[FrameTables], names: Sequence[Names]) -> None:
        self._codes = codes
        self._names = names

    def frames(self, capture: Mapping[str, Any]) -> Iterator[tuple[Place, list[tuple[str, str]]]]:
        """An address in each function with the functions there, the innermost first: behind a call, its last byte."""
        registers = {number: capture["registers"].get(name, 0) for number, name in enumerate(_NAMES)}
        base, stack = registers[_RSP], bytes.fromhex(capture["stack"])

        def word(address: int) -> int | None:
            at = address - base
            return int.from_bytes(stack[at : at + _WORD], "little") if 0 <= at <= len(stack) - _WORD else None

        pc: int | None = capture["pc"]
        for number in range(_MOST_FRAMES):
            place = _place(capture, pc - 1 if number else pc) if pc else None
            if place is None:
                return
            yield place, self._names[place.file].functions(place.address)
            pc = self._step(self._codes[place.file].row(place.address), registers, word)

    def _step(self, row: dict[Any, Any] | None, registers: dict[int, int], word: Any) -> int | None:
        """Go to the caller; where it goes on, None where nothing tells."""
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


def _place(capture: Mapping[str, Any], pc: int) -> Place | None:
    """Whose code it is at ``pc``; None where nobody knows."""
    pages = capture.get("pages")
    if pages is None:
        return Place(pc, 0, pc)
    found = pages.get(str(pc & -PAGE))
    return None if found is None else Place(pc, found[0], pc - found[1])


class Names:
    """Which functions are at the addresses of one file, by its DWARF."""

    def __init__(self, dwarf: Any | None) -> None:
        self._dwarf = dwarf
        self._units = None if dwarf is None else UnitFinder(dwarf)
        # Stacks of one program have most addresses in common.
        self._functions: dict[int, list[tuple[str, str]]] = {}

    def functions(self, pc: int) -> list[tuple[str, str]]:
        """The functions that are at ``pc``, those inlined first, each with where it was called if it was inlined."""
        if pc not in self._functions:
            self._functions[pc] = self._find(pc)
        return self._functions[pc]

    def _find(self, pc: int) -> list[tuple[str, str]]:
        unit = None if self._units is None else self._units.unit(pc)
        found: list[tuple[str, str]] = []
        scope = None if unit is None else unit.get_top_DIE()
        while scope is not None and (scope := self._inside(scope, pc)) is not None:
            if scope.tag == "DW_TAG_subprogram":
                found = [(self._name(scope), "")]
            elif scope.tag == "DW_TAG_inlined_subroutine":
                found.insert(0, (self._name(scope), self._call(unit, scope)))
        return found

    def _inside(self, scope: Any, pc: int) -> Any | None:
        """The entry in ``scope`` that has code at ``pc``; modules and classes have none of their own."""
        assert self._units is not None
        for die in scope.iter_children():
            if self._units.covers(die, pc):
                return die
            found = self._inside(die, pc) if die.tag in _SCOPES else None
            if found is not None:
                return found
        return None

    @staticmethod
    def _name(die: Any) -> str:
        for _ in range(8):
            # What the linker calls it says more: in which class, module or crate it is.
            named = (die.attributes.get(key) for key in (*_LINKAGE, "DW_AT_name"))
            name = next((value for value in named if value is not None), None)
            if name is not None:
                return printable(text_of(name.value), _LONGEST_NAME)
            origin = next((key for key in _ORIGINS if key in die.attributes), None)
            if origin is None:
                break
            die = die.get_DIE_from_attribute(origin)
        return ""

    def _call(self, unit: Any, die: Any) -> str:
        assert self._dwarf is not None
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
    ELFFile = elf_file()  # noqa: N806 - a class

    asked = json.load(sys.stdin)
    with ExitStack() as opened:

        def elf(path: str) -> Any:
            return ELFFile(opened.enter_context(Path(path).open("rb")))

        codes, names = [], []
        for code, debug in asked.get("files") or [[path, path]]:
            read = elf(code)
            dwarf = dwarf_of(read)
            codes.append(FrameTables(read, dwarf))
            names.append(Names(dwarf if debug == code else dwarf_of(elf(debug))))
        unwinder = Unwinder(codes, names)
        stacks = [[(*place, functions) for place, functions in unwinder.frames(one)] for one in asked["captures"]]
    sys.stdout.write(json.dumps(stacks))


if __name__ == "__main__":
    main()
