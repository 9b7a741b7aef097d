"""``--type OFFSET=struct NAME``: names of fields for offsets in the first NVDIMM, from the image's DWARF."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from emu.errors import UsageError
from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.report import readers
from emu.units import parse_size

_READER = "emu.persistence.report.type_reader"
_SECONDS = 10.0  # of processor time
_KEYWORDS = ("struct ", "union ", "class ")


@dataclass(frozen=True, slots=True)
class Types:
    """Which regions have which types: offset, the type's name and its number in ``_types``."""

    _regions: Sequence[tuple[int, str, int]] = ()
    _types: dict[int, dict[str, Any]] = field(default_factory=dict)

    def field_at(self, offset: int) -> str:
        """The innermost field that holds byte ``offset`` of the NVDIMM, like ``pool.slot[2].value``; empty for none."""
        for start, name, number in self._regions:
            if start <= offset < start + self._types[number]["size"]:
                return name + self._path(number, offset - start)
        return ""

    def _path(self, number: int, at: int) -> str:
        found = self._types[number]
        if "fields" in found:
            for offset, name, kind in found["fields"]:
                if offset <= at < offset + self._types[kind]["size"]:
                    return (f".{name}" if name else "") + self._path(kind, at - offset)
            return ""
        if found.get("count") and self._types[found["element"]]["size"]:
            index, rest = divmod(at, self._types[found["element"]]["size"])
            return f"[{index}]" + self._path(found["element"], rest)
        return ""


@lru_cache(maxsize=4)
def load_types(path: str | None, words: tuple[str, ...], deadline: Deadline = NEVER) -> Types:
    """What the words of ``--type`` mean for the image at ``path``; UsageError for what it does not have, or cannot be
    read until ``deadline``.
    """
    if not words:
        return Types()
    asked = [_parse(word) for word in words]
    if path is None:
        raise UsageError("--type: there is no program whose types could be read", "give an image")
    said = readers.ask(_READER, path, min(_SECONDS, deadline.left), *(name for _, name in asked), deadline=deadline)
    found: dict[str, Any] = {"names": {}, "types": {}}
    if said.status == 0:
        with suppress(ValueError):
            found = json.loads(said.output)
    for _, name in asked:
        if name not in found["names"]:
            raise UsageError(
                f"--type: {path} has no type {name!r}", "compile it with -g, and name a struct or a typedef"
            )
    types = {int(number): entry for number, entry in found["types"].items()}
    return Types([(offset, name, found["names"][name]) for offset, name in asked], types)


def _parse(word: str) -> tuple[int, str]:
    offset, equals, name = word.partition("=")
    for keyword in _KEYWORDS:
        name = name.removeprefix(keyword)
    if not equals or not name.strip():
        raise UsageError(f"--type {word}: no offset and type", "write OFFSET=struct NAME, like '0=struct pool'")
    return parse_size(offset, what="--type"), name.strip()
