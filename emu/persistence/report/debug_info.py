"""What an image's symbols and DWARF say, read by a process of its own (see ``debug_reader``), in bounded time."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.report import readers

SECONDS = 3.0
"""Processor time for each of symbols, lines and paths."""
_PARTS = 3
NO_ELF = "the image is not an ELF file: addresses have no names"

_READER = "emu.persistence.report.debug_reader"


class DebugInfo(NamedTuple):
    """``functions``: (address, size, name), ``lines``: (address, ``FILE:LINE`` or nothing where code ends), both in
    order; ``paths``: (name, path). ``note`` says what could not be read, and why; empty when all was."""

    functions: tuple[tuple[int, int, str], ...] = ()
    lines: tuple[tuple[int, str], ...] = ()
    paths: tuple[tuple[str, str], ...] = ()
    note: str = ""


_known: OrderedDict[tuple[object, ...], DebugInfo] = OrderedDict()
_MOST_KNOWN = 4


def read(path: str, *, seconds: float = SECONDS, deadline: Deadline = NEVER) -> DebugInfo:
    """What the ELF image at ``path`` says of its code, as far as it can be read until ``deadline``. What cannot is left
    out, and never an error.
    """
    try:
        if not _is_elf(path):
            return DebugInfo(note=NO_ELF)
        status = Path(path).stat()
    except OSError as error:
        return DebugInfo(note=f"the image's symbols cannot be read: {error.strerror}")
    image = path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    # What lacks something is known to those only who had no more time.
    with_this_time = *image, seconds, deadline
    found = _known.get(image) or _known.get(with_this_time)
    if found is None:
        found = _read(path, seconds, deadline)
        _known[with_this_time if found.note else image] = found
        if len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)
    return found


def _is_elf(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _read(path: str, seconds: float, deadline: Deadline) -> DebugInfo:
    said = readers.ask(_READER, path, min(seconds, deadline.left / _PARTS), deadline=deadline)
    # A signal is how the kernel, or we, end a reader of whom too much is asked; anything else is a fault of its own.
    why = str(deadline) if not deadline.left else "they ask for too much"
    return _decode(said.output, why if said.status <= 0 else f"their reader failed (status {said.status})")


def _decode(output: bytes, why: str) -> DebugInfo:
    """What the reader said before it ended, and ``why`` it said no more."""
    parts: dict[str, dict[str, Any]] = {}
    for line in output.splitlines(keepends=True):
        if line.endswith(b"\n"):
            document = json.loads(line)
            parts[document["part"]] = document
    found: dict[str, Any] = {}
    missing = []
    for name, what in (("functions", "symbols"), ("lines", "source lines"), ("paths", "source files")):
        part = parts.get(name, {"why": why})
        found[name] = tuple(tuple(entry) for entry in part.get("entries", ()))
        if "why" in part:
            missing.append(f"the image's {what} cannot be read: {part['why']}")
    return DebugInfo(**found, note="; ".join(missing))
