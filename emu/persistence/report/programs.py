"""Names and source lines for what a Linux machine executed: the user's programs, their libraries, and the kernel.

Where a program was loaded nobody says; its code does: a page of code in memory is a page of its file. So the pages that
were executed are looked for in the files of the initial RAM disk, which lie at the same places on the host. Names come
from a file itself or, where a distribution has stripped it, from its separate debug file. All that will be asked for is
known before, so each file is read once, and no more of it than that takes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from emu.linux import kallsyms
from emu.linux.cpio import files
from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.report import readers
from emu.persistence.report.demangle import demangled
from emu.persistence.report.symbols import CodeAt, CodeFile, Place, Symbols
from emu.units import PAGE

_DEBUG_FOLDERS = (Path("/usr/lib/debug"), Path("/usr/local/lib/debug"))
_ELF64 = b"\x7fELF\x02\x01"
_LOAD, _NOTE, _EXECUTABLE, _BUILD_ID = 1, 4, 1, 3
_KERNEL_START = 0xFFFF_8000_0000_0000
_CODE_TYPES = frozenset("tTwW")
_READER = "emu.persistence.report.place_reader"
_SECONDS = 10.0  # of processor time
# Bytes of program headers that Linux takes, and notes that are looked at: a file may say anything.
_LARGEST_TABLE = 1 << 16
_MOST_NOTES = 1 << 12


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
    for at in range(table, table + min(size * count, _LARGEST_TABLE), size or 1):
        if at + 40 > len(data):
            return
        kind, flags, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, at)
        yield _Segment(kind, flags, offset, address, length)


def build_id(data: bytes) -> str:
    """The build ID of an ELF file in hexadecimal digits; empty when it has none."""
    most = _MOST_NOTES
    for segment in _segments(data):
        at, end = segment.offset, segment.offset + segment.size
        while segment.kind == _NOTE and at + 12 <= min(end, len(data)) and most:
            most -= 1
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
    """``pages`` are what was executed, ``disk`` the initial RAM disk, ``kernel`` the path of the kernel's image.
    ``asked`` are the addresses that ``find`` will be asked for, most of them at least.
    """

    def __init__(
        self,
        pages: Mapping[int, frozenset[bytes]],
        disk: bytes,
        kernel: str | None,
        asked: Iterable[int] = (),
        *,
        deadline: Deadline = NEVER,
    ) -> None:
        super().__init__()
        self._deadline = deadline
        self._pages = pages
        self._disk = disk
        self._kernel = kernel
        self._asked = set(asked)
        self._places: dict[CodeAt, Place] = {}

    @cached_property
    def _programs(self) -> dict[str, bytes]:
        return {path: data for path, data in files(self._disk) if data.startswith(_ELF64)}

    @cached_property
    def _index(self) -> dict[bytes, CodeAt]:
        wanted = {content for contents in self._pages.values() for content in contents}
        index: dict[bytes, CodeAt] = {}
        for path, data in self._programs.items():
            file, looked_at = CodeFile(path, debug_file(path, data)), set[int]()
            for segment in _segments(data):
                if segment.kind != _LOAD or not segment.flags & _EXECUTABLE:
                    continue
                end = min(segment.offset + segment.size, len(data))
                for offset in range(segment.offset & -PAGE, end, PAGE):
                    if offset in looked_at:
                        continue
                    looked_at.add(offset)
                    content = data[offset : offset + PAGE].ljust(PAGE, b"\0")
                    if content in wanted:
                        index.setdefault(content, CodeAt(file, segment.address + offset - segment.offset))
        return index

    def find(self, address: int) -> Place:
        if address >= _KERNEL_START:
            return self._of_kernel(address)
        # Programs can have been at one address, one after the other: known when only one has a name for it.
        codes = self._codes(address)
        if any(code not in self._places for code in codes):
            asked, self._asked = self._asked | {address}, set()
            self._read({code for one in asked for code in self._codes(one)})
        named = [place for place in {self._places[code] for code in codes} if place.symbol]
        if len(named) == 1:
            return named[0]
        if named or len(codes) != 1:
            return Place()
        return _in_file(codes[0])

    def page(self, content: bytes) -> CodeAt | None:
        return self._index.get(content)

    def find_in(self, code: CodeAt) -> Place:
        if code not in self._places:
            self._read({code})
        found = self._places[code]
        return found if found.symbol else _in_file(code)

    def _codes(self, address: int) -> list[CodeAt]:
        """Where the code that was at ``address`` is from: one place for each program that had some there."""
        pages = (self._index.get(content) for content in self._pages.get(address & -PAGE, ()))
        return [page._replace(address=page.address + address % PAGE) for page in pages if page is not None]

    def _read(self, codes: set[CodeAt]) -> None:
        """Find what is at these places in their files; what cannot be read gives no names, never an error."""
        wanted: dict[str, list[CodeAt]] = {}
        for code in sorted(codes - self._places.keys()):
            wanted.setdefault(code.file.debug, []).append(code)
            self._places[code] = Place()
        data = json.dumps({path: [code.address for code in some] for path, some in wanted.items()})
        said = readers.ask(_READER, "/", _SECONDS, data=data.encode(), deadline=self._deadline)
        for line in said.output.splitlines(keepends=True):
            if line.endswith(b"\n"):
                path, found = json.loads(line)
                named = demangled(symbol.partition("+")[0] for symbol, _ in found)
                for code, (symbol, source) in zip(wanted[path], found, strict=True):
                    name, plus, offset = symbol.partition("+")
                    self._places[code] = Place(named.get(name, name) + plus + offset, source)

    def _of_kernel(self, address: int) -> Place:
        if self._system_map:
            return Symbols("", self._system_map).find(address)
        found = self._own_names.function(address) if self._own_names is not None else None
        if found is None:
            return Place()
        start, _, name = found
        return Place(f"{name}+{address - start:#x}" if address > start else name)

    @cached_property
    def _system_map(self) -> Sequence[tuple[int, int, str]]:
        return _system_map(self._kernel)

    @cached_property
    def _own_names(self) -> kallsyms.Table | None:
        return None if self._kernel is None else kallsyms.of_file(self._kernel)


def _in_file(code: CodeAt) -> Place:
    """Code of a stripped library without a debug file: where in which file still says whose it is."""
    return Place(f"{Path(code.file.path).name}+{code.address:#x}")


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
