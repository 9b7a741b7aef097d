"""The process that reads types: ``python -m emu.persistence.report.type_reader IMAGE SECONDS NAME...``.

Standard output gets a JSON object: ``names`` has the number of each type that was found, ``types`` for each number its
``size`` in bytes and ``fields`` (offset, name, number of the field's type), or ``element`` (number) and ``count`` of an
array. As with ``debug_reader``, an image may be anybody's: the kernel bounds memory and time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from emu.persistence.report.debug_reader import bound, dwarf_of, text_of
from emu.persistence.report.elf_library import elf_file
from emu.words import printable

_LONGEST_NAME = 200
_MOST_TYPES = 1 << 14
_ALIASES = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_atomic_type", "DW_TAG_restrict_type")
_RECORDS = ("DW_TAG_structure_type", "DW_TAG_union_type", "DW_TAG_class_type")


class Types:
    """The types that are reached from those that are asked for."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, Any]] = {}

    def add(self, die: Any) -> int:
        """The number of a type; its parts are added, too."""
        while die.tag in _ALIASES and "DW_AT_type" in die.attributes:
            die = die.get_DIE_from_attribute("DW_AT_type")
        if die.offset in self.found or len(self.found) >= _MOST_TYPES:
            return int(die.offset)
        size = _value(die, "DW_AT_byte_size")
        entry: dict[str, Any] = {"size": size}
        self.found[die.offset] = entry
        if die.tag in _RECORDS:
            entry["fields"] = [
                [
                    _value(member, "DW_AT_data_member_location") + _value(member, "DW_AT_data_bit_offset") // 8,
                    _name(member),
                    self.add(_type_of(member)),
                ]
                for member in die.iter_children()
                if member.tag == "DW_TAG_member" and "DW_AT_type" in member.attributes
            ]
        elif die.tag == "DW_TAG_array_type" and "DW_AT_type" in die.attributes:
            self._array(die, entry)
        return int(die.offset)

    def _array(self, die: Any, entry: dict[str, Any]) -> None:
        counts = [_count(child) for child in die.iter_children() if child.tag == "DW_TAG_subrange_type"]
        element = self.add(_type_of(die))
        # The last dimension varies fastest: the inner ones become types of their own, with numbers that no DIE has.
        for dimension, count in enumerate(reversed(counts[1:]), 1):
            inner = -(die.offset * 16 + dimension)
            self.found[inner] = {"size": count * self.found[element]["size"], "element": element, "count": count}
            element = inner
        count = counts[0] if counts else 0
        entry.update(size=count * self.found[element]["size"], element=element, count=count)


def _type_of(die: Any) -> Any:
    return die.get_DIE_from_attribute("DW_AT_type")


def _value(die: Any, name: str) -> int:
    value = die.attributes[name].value if name in die.attributes else 0
    return value if isinstance(value, int) else 0


def _name(die: Any) -> str:
    name = die.attributes.get("DW_AT_name")
    return printable(text_of(name.value), _LONGEST_NAME) if name is not None else ""


def _count(die: Any) -> int:
    if "DW_AT_upper_bound" in die.attributes:
        return _value(die, "DW_AT_upper_bound") + 1
    return _value(die, "DW_AT_count")


def read(elf: Any, wanted: set[str]) -> dict[str, Any]:
    """The types of these names; of several of one name the first that is complete."""
    types, names = Types(), dict[str, int]()
    dwarf = dwarf_of(elf)
    for unit in dwarf.iter_CUs() if dwarf else ():
        for die in unit.iter_DIEs():
            if die.tag not in (*_RECORDS, "DW_TAG_typedef") or "DW_AT_declaration" in die.attributes:
                continue
            name = _name(die)
            if name in wanted and name not in names:
                names[name] = types.add(die)
    return {"names": names, "types": types.found}


def main() -> None:
    path, seconds, *names = sys.argv[1:]
    bound(float(seconds))
    ELFFile = elf_file()  # noqa: N806 - a class

    with Path(path).open("rb") as file:
        sys.stdout.write(json.dumps(read(ELFFile(file), set(names))))


if __name__ == "__main__":
    main()
