"""Who called the instruction that made an event: frames with inlined functions, from the image's DWARF."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.lab.stacks import Capture
from emu.persistence.report import readers
from emu.persistence.report.demangle import demangled
from emu.persistence.report.symbols import CodeAt, CodeFile, Symbols

_READER = "emu.persistence.report.stack_reader"
_SECONDS = 5.0  # of processor time
# What a program stores, flushes and prints with, and what calls main: the author wrote what lies between.
_LIBRARY = re.compile(
    r"_*(pmem2?_\w*|w?mem(cpy|set|move)\w*|str(n?cpy|n?cat)\w*|_mm_\w+|clwb|clflush(opt)?|[slm]fence"
    r"|out[bwl]|v?[dfs]?n?printf|f?puts|f?putc|putchar|fwrite|write|guest_start|long_mode|__libc_start\w*|_start)"
    r"|(std|core|alloc)::.+|<.* as (std|core|alloc)::.+"  # Rust's own
)
_LIBRARIES = re.compile(
    r"(libpmem\w*|libvmem\w*|libndctl|libdaxctl|libc|libm|libpthread|libstdc\+\+|libgcc_s|ld-linux[\w-]*)[.-]"
)
_LIBRARY_FILES = frozenset(("format.c", "libpmem.c", "pmem.c", "pmem.h", "print.c", "serial.c", "stdio.c"))


def _is_library(function: str, source: str) -> bool:
    return _LIBRARY.fullmatch(function) is not None or source.rpartition(":")[0] in _LIBRARY_FILES


class Frame(NamedTuple):
    """``function`` at ``source`` (FILE:LINE, empty where not known); ``inlined`` into the next one. ``library``: it is
    a means to store, flush or print, or the way to ``main``, not what the program's author wrote.
    """

    function: str
    source: str
    inlined: bool
    library: bool


def unwind(
    path: str | None, captures: Mapping[int, Capture], symbols: Symbols, deadline: Deadline = NEVER
) -> dict[int, list[Frame]]:
    """The stack of each capture, the innermost frame first. What cannot be read until ``deadline`` gives none, never an
    error.
    """
    if path is None or not captures:
        return {}
    numbers: dict[CodeFile, int] = {}
    asked: list[dict[str, Any]] = []
    for one in captures.values():
        pages = None
        if one.pages is not None:
            pages = {
                address: (numbers.setdefault(found.file, len(numbers)), address - found.address)
                for address, content in one.pages.items()
                if (found := symbols.page(content)) is not None
            }
        asked.append({"pc": one.pc, "registers": one.registers, "stack": one.stack.hex(), "pages": pages})
    files = [(file.path, file.debug) for file in numbers]
    data = json.dumps({"files": files, "captures": asked}).encode()
    said = readers.ask(_READER, path, _SECONDS, data=data, deadline=deadline)
    try:
        stacks = json.loads(said.output) if said.status == 0 else []
    except ValueError:
        return {}
    return {number: _frames(stack, list(numbers), symbols) for number, stack in zip(captures, stacks, strict=False)}


def _frames(stack: list[Any], files: Sequence[CodeFile], symbols: Symbols) -> list[Frame]:
    frames = []
    names = demangled(name for *_, functions in stack for name, _ in functions)
    for pc, file, address, functions in stack:
        place = symbols.find_in(CodeAt(files[file], address)) if files else symbols.find(pc)
        library = bool(files) and _LIBRARIES.match(Path(files[file].path).name) is not None
        source = place.source
        inner = functions or [[place.symbol.partition("+")[0], ""]]
        for number, (name, call) in enumerate(inner):
            if name:
                inlined = number < len(inner) - 1
                frames.append(Frame(names.get(name, name), source, inlined, library or _is_library(name, source)))
            source = call
    return frames
