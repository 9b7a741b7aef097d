"""Names and source lines for what a Linux machine executed: the user's programs, their libraries, and the kernel.

Where a program was loaded nobody says; its code does: a page of code in memory is a page of its file. So the pages that
were executed are looked for in the files of the initial RAM disk, which lie at the same places on the host. Names come
from a file itself or, where a distribution has stripped it, from its separate debug file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from emu.linux import kallsyms
from emu.linux.cpio import files
from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.report import debug_info
from emu.persistence.report.symbols import Place, Symbols
from emu.units import PAGE

_DEBUG_FOLDERS = (Path("/usr/lib/debug"), Path("/usr/local/lib/debug"))
_ELF64 = b"\x7fELF\x02\x01"
_LOAD, _NOTE, _EXECUTABLE, _BUILD_ID = 1, 4, 1, 3
_KERNEL_START = 0xFFFF_8000_0000_0000
_CODE_TYPES = frozenset("tTwW")


class _Code(NamedTuple):
    """Where in a file a page of code is: its path, and the address that its symbols use."""

    path: str
    address: int


class _Segment(NamedTuple):
    kind: int
    flags: int
    offset: int
    address: int
    size: int


def _segments(data: bytes) -> Iterator[_Segment]:
    """The program headers of an ELF file; none of what is none, or damaged."""
    if not data.startswith(_ELF64) or len(data) < 64:
        return
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for at in range(table, table + size * count, size or 1):
        if at + 40 > len(data):
            return
        kind, flags, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        yield _Segment(kind, flags, offset, address, length)


def build_id(data: bytes) -> str:
    """The build ID of an ELF file in hexadecimal digits; empty when it has none."""
    for segment in _segments(data):
        at, end = segment.offset, segment.offset + segment.size
        while segment.kind == _NOTE and at + 12 <= min(end, len(data)):
            name, length, kind = struct.unpack_from("<III", data, at)
            start = at + 12 + (name + 3 & ~3)
            if kind == _BUILD_ID and data[at + 12 : at + 15] == b"GNU":
                return data[start : start + length].hex()
            at = start + (length + 3 & ~3)
    return ""


def debug_file(path: str, data: bytes) -> str:
    """The file with the names of ``path``: a separate one, found by its build ID, or itself."""
    identity = build_id(data)
    for folder in _DEBUG_FOLDERS if identity else ():
        separate = folder / ".build-id" / identity[:2] / f"{identity[2:]}.debug"
        if separate.is_file():
            return str(separate)
    return path


class ProgramSymbols(Symbols):
    """``pages`` are what was executed, ``disk`` the initial RAM disk, ``kernel`` the path of the kernel's image."""

    def __init__(
        self, pages: Mapping[int, frozenset[bytes]], disk: bytes, kernel: str | None, deadline: Deadline = NEVER
    ) -> None:
        super().__init__()
        self._deadline = deadline
        self._pages = pages
        self._disk = disk
        self._kernel = kernel
        self._modules: dict[str, Symbols] = {}

    @cached_property
    def _programs(self) -> dict[str, bytes]:
        return {path: data for path, data in files(self._disk) if data.startswith(_ELF64)}

    @cached_property
    def _index(self) -> dict[bytes, _Code]:
        wanted = {content for contents in self._pages.values() for content in contents}
        index: dict[bytes, _Code] = {}
        for path, data in self._programs.items():
            for segment in _segments(data):
                if segment.kind != _LOAD or not segment.flags & _EXECUTABLE:
                    continue
                for offset in range(segment.offset & -PAGE, segment.offset + segment.size, PAGE):
                    content = data[offset : offset + PAGE].ljust(PAGE, b"\0")
                    if content in wanted:
                        index.setdefault(content, _Code(path, segment.address + offset - segment.offset))
        return index

    def find(self, address: int) -> Place:
        if address >= _KERNEL_START:
            return self._of_kernel.find(address)
        # Programs can have been at one address, one after the other: known when only one has a name for it.
        codes = [code for content in self._pages.get(address & -PAGE, ()) if (code := self._index.get(content))]
        places = {self._in(code.path).find(code.address + address % PAGE) for code in codes}
        named = [place for place in places if place.symbol]
        if len(named) == 1:
            return named[0]
        if named or len(codes) != 1:
            return Place()
        # A stripped library without a debug file: where in which file still says whose code it is.
        (code,) = codes
        return Place(f"{Path(code.path).name}+{code.address + address % PAGE:#x}")

    def _in(self, path: str) -> Symbols:
        if path not in self._modules:
            found = debug_info.read(debug_file(path, self._programs[path]), deadline=self._deadline)
            self._modules[path] = Symbols(found.note, found.functions, found.lines)
        return self._modules[path]

    @cached_property
    def _of_kernel(self) -> Symbols:
        return Symbols("", _system_map(self._kernel) or (kallsyms.of_file(self._kernel) if self._kernel else ()))


def _system_map(kernel: str | None) -> Sequence[tuple[int, int, str]]:
    """The functions in the System.map beside ``kernel``; none where there is none, or one that is only a pointer."""
    release = re.search(r"(?:vmlinuz|vmlinux|bzImage)-(.+)$", kernel or "")
    if kernel is None or release is None:
        return ()
    try:
        text = Path(kernel).with_name(f"System.map-{release[1]}").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ()
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in _CODE_TYPES and len(words[0]) == 16:
            found.append((int(words[0], 16), words[2]))
    found.sort()
    ends = [address for address, _ in found[1:]] + [found[-1][0]] if found else []
    return tuple((address, end - address, name) for (address, name), end in zip(found, ends, strict=True))
