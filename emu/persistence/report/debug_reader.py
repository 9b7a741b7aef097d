"""The process that reads an image's symbols and DWARF: ``python -m emu.persistence.report.debug_reader IMAGE SECONDS``.

An image may be anybody's, and a few bytes of it can ask for any amount of work and memory: counts, compressed sections,
line programs. So it is read here, where the kernel bounds memory and processor time, and where being killed costs no
more than the names. Standard output gets one line of JSON for each part that could be read, in the order of PARTS.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from emu.persistence.report.elf_library import elf_file
from emu.units import MIB, U64_MAX
from emu.words import printable

# Address space; what needs more of it fails.
_MEMORY = 512 * MIB
_MOST_UNPACKED = 128 * MIB
_MOST_ENTRIES = 1 << 20
_LONGEST_NAME = 200
_LONGEST_PATH = 4096
_LAST_LINE = 0xFFFF_FFFF
_EXECUTABLE = 4  # SHF_EXECINSTR
# Elf32_Sym and Elf64_Sym (System V ABI, "Symbol Table"), and in which order they have name, info, section, value, size.
_SYMBOL_32, _FIELDS_32 = struct.Struct("<IIIBBH"), itemgetter(0, 3, 5, 1, 2)
_SYMBOL_64, _FIELDS_64 = struct.Struct("<IBBHQQ"), itemgetter(0, 1, 3, 4, 5)
_NOTYPE, _FUNCTION, _UNDEFINED = 0, 2, 0


class _TooLong(BaseException):
    """A part's time is over. Not an Exception: pyelftools must not take it for one of its own."""


def functions(elf: Any) -> Iterator[tuple[int, int, str]]:
    """(address, size, name) of each symbol that may be code.

    Unpacked here: a library has so many that pyelftools, with an object for each, takes too long.
    """
    table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
    if table is None:
        return
    names, sections = _bytes_of(elf, elf.get_section(table["sh_link"])), _CodeSections(elf)
    layout, fields = (_SYMBOL_64, _FIELDS_64) if elf.elfclass == 64 else (_SYMBOL_32, _FIELDS_32)
    data = _bytes_of(elf, table)
    for at in range(0, len(data) - layout.size + 1, table["sh_entsize"]):
        name, info, section, address, size = fields(layout.unpack_from(data, at))
        if info & 0xF in (_NOTYPE, _FUNCTION) and section != _UNDEFINED and names[name : name + 1] not in (b"", b"\0"):
            text = names[name : names.find(b"\0", name)].decode("utf-8", "replace")
            yield address, size or sections.behind(address, section), printable(text, _LONGEST_NAME)


def _bytes_of(elf: Any, section: Any) -> bytes:
    """As they are in the file: what pyelftools would unpack, or make up for a section that has none, may be endless."""
    elf.stream.seek(section["sh_offset"])
    data: bytes = elf.stream.read(section["sh_size"])
    return data


class _CodeSections:
    """How far a symbol without a size reaches, such as a label in assembly: to the next symbol, which the lookup sees
    to, and at most to the end of its section, if that is code.
    """

    def __init__(self, elf: Any) -> None:
        self._elf = elf
        self._ends: dict[int, int] = {}

    def behind(self, address: int, number: int) -> int:
        """Bytes from ``address`` to the end of section ``number``; 0 where there is no such section of code."""
        if number not in self._ends:
            self._ends[number] = 0
            if number < self._elf.num_sections():
                section = self._elf.get_section(number)
                if section["sh_flags"] & _EXECUTABLE:
                    self._ends[number] = min(section["sh_addr"] + section["sh_size"], U64_MAX)
        return max(self._ends[number] - address, 0)


def lines(elf: Any) -> Iterator[tuple[int, str]]:
    """(address, ``FILE:LINE``) of each row of the line tables, and (address, nothing) where a sequence ends."""
    yield from rows(program for _, program in _programs(elf)).items()


def rows(programs: Iterable[Any]) -> dict[int, str]:
    """``FILE:LINE`` by address, of these line programs; nothing where a sequence ends.

    Of several rows for one address the last one counts (DWARF 5, 6.2.5: those before it cover no instruction).
    """
    found: dict[int, str] = {}
    for program in programs:
        files = program["file_entry"]
        base = 0 if program["version"] >= 5 else 1
        for entry in program.get_entries():
            state = entry.state
            if state is None or not 0 <= state.address <= U64_MAX or not 0 <= state.line <= _LAST_LINE:
                continue
            if state.end_sequence:
                found.setdefault(state.address, "")
            elif 0 <= state.file - base < len(files):
                name = printable(text_of(files[state.file - base].name), _LONGEST_NAME)
                found[state.address] = f"{name}:{state.line}"
            if len(found) == _MOST_ENTRIES:
                break
    return found


def paths(elf: Any) -> Iterator[tuple[str, str]]:
    """(name, path) of each source file in the line tables; one name may have several paths."""
    for unit, program in _programs(elf):
        attribute = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        home = text_of(attribute.value) if attribute else "."
        folders = [text_of(folder) for folder in program["include_directory"]]
        if program["version"] < 5:
            folders.insert(0, "")
        for entry in program["file_entry"]:
            name = text_of(entry.name)
            folder = folders[entry.dir_index] if entry.dir_index < len(folders) else ""
            path = str(Path(home) / folder / name)
            if len(path) <= _LONGEST_PATH:
                yield printable(name, _LONGEST_NAME), path


def _programs(elf: Any) -> Iterator[tuple[Any, Any]]:
    """Each compilation unit with the line program that it has."""
    dwarf = dwarf_of(elf)
    for unit in dwarf.iter_CUs() if dwarf else ():
        program = dwarf.line_program_for_CU(unit)
        if program is not None:
            yield unit, program


def dwarf_of(elf: Any) -> Any:
    """The DWARF of an ELF file, call frames included; None where it has none.

    MemoryError where a section would unpack to more than a sound one needs: that is one call into C, which no timer of
    Python's ends.
    """
    if not elf.has_dwarf_info() and not elf.get_section_by_name(".eh_frame"):
        return None
    if any(section.compressed and section.data_size > _MOST_UNPACKED for section in elf.iter_sections()):
        raise MemoryError
    return elf.get_dwarf_info()


def bound(seconds: float) -> None:
    """Let this process fail when it needs too much memory, and end when it takes more processor time than that."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    most = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def text_of(name: object) -> str:
    """A name of DWARF as text."""
    raw = getattr(name, "name", name)
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


PARTS: dict[str, Callable[[Any], Iterator[tuple[Any, ...]]]] = {"functions": functions, "lines": lines, "paths": paths}


def _over(number: int, frame: object) -> None:
    raise _TooLong


def _part(name: str, part: Callable[[Any], Iterator[tuple[Any, ...]]], path: str, seconds: float) -> str:
    ELFFile = elf_file()  # noqa: N806 - a class

    try:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        with Path(path).open("rb") as file:
            entries = sorted(set(islice(part(ELFFile(file)), _MOST_ENTRIES)))
        return json.dumps({"part": name, "entries": entries})
    except MemoryError:
        return _failed(name, "they take too much memory to read")
    except Exception:  # whatever a broken image makes of the reader: it has no names
        return _failed(name, "they are damaged")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _read(path: str, seconds: float) -> None:
    for name, part in PARTS.items():
        try:  # of its own: the time may be over at any moment until the timer is off
            said = _part(name, part, path, seconds)
        except _TooLong:
            said = _failed(name, f"they take more than {seconds:.2g} s to read")
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


def _failed(part: str, why: str) -> str:
    return json.dumps({"part": part, "why": why})


def main() -> None:
    path, seconds = sys.argv[1], float(sys.argv[2])
    # What no signal handler interrupts, because it does not come back to the interpreter, ends by this.
    bound(seconds * (len(PARTS) + 1))
    signal.signal(signal.SIGPROF, _over)
    _read(path, seconds)


if __name__ == "__main__":
    main()
