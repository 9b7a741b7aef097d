"""ELF files that ask for endless work or memory: symbols are read in bounded time, and what is sound is still read.

Each bomb is a bundled guest with one hostile section. They were found by hand and by fuzzing; add what is found.
"""

from __future__ import annotations

import math
import random
import re
import resource
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.boot import elf
from emu.errors import EmuError
from emu.persistence.lab.deadline import Deadline
from emu.persistence.lab.stacks import Capture
from emu.persistence.report import debug_info, readers
from emu.persistence.report.stacks import unwind
from emu.persistence.report.symbols import Symbols, load_symbols
from emu.units import MIB
from tests.fuzzing import times

IMAGE = Path(__file__).parents[3] / "guest" / "images" / "commit-noflush.elf"
SECONDS = 0.5
# The reader's parts, its start, and a busy machine.
BOUND_CPU_S = 4 * SECONDS + 3
NOBITS = 8
_FIELDS = {"type": 4, "flags": 8, "offset": 24, "size": 32, "entsize": 56}


class Bomb:
    """An image whose section headers can be changed; sections are named as in the ELF file."""

    def __init__(self) -> None:
        self.data = bytearray(IMAGE.read_bytes())
        self._table = struct.unpack_from("<Q", self.data, 40)[0]
        count, names = struct.unpack_from("<HH", self.data, 60)
        strings = self.get(names, "offset")
        self._numbers = {}
        for number in range(count):
            at = strings + struct.unpack_from("<I", self.data, self._table + 64 * number)[0]
            self._numbers[self.data[at : self.data.index(0, at)].decode()] = number

    def get(self, number: int, field: str) -> int:
        form = "<I" if field == "type" else "<Q"
        return int(struct.unpack_from(form, self.data, self._table + 64 * number + _FIELDS[field])[0])

    def set(self, section: str, **fields: int) -> Bomb:
        for name, value in fields.items():
            form = "<I" if name == "type" else "<Q"
            struct.pack_into(form, self.data, self._table + 64 * self._numbers[section] + _FIELDS[name], value)
        return self

    def replace(self, section: str, data: bytes, **fields: int) -> Bomb:
        """Give ``section`` other contents, at the end of the file."""
        self.set(section, offset=len(self.data), size=len(data), **fields)
        self.data += data
        return self

    def patch(self, section: str, data: bytes) -> Bomb:
        at = self.get(self._numbers[section], "offset")
        self.data[at : at + len(data)] = data
        return self


def uleb(number: int) -> bytes:
    out = bytearray()
    while True:
        out.append(number & 0x7F | (0x80 if number >> 7 else 0))
        number >>= 7
        if not number:
            return bytes(out)


LENGTHS = bytes([0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1])


def line_program(program: bytes) -> bytes:
    """A DWARF 4 line table of one file."""
    head = b"\1\1\1" + struct.pack("<b", -5) + bytes([14, 13]) + LENGTHS + b"\0" + b"a.c\0\0\0\0" + b"\0"
    unit = struct.pack("<HI", 4, len(head)) + head + program
    return struct.pack("<I", len(unit)) + unit


def line_header_5(files: int) -> bytes:
    """A DWARF 5 line table that announces ``files`` files of no bytes each."""
    head = b"\1\1\1" + struct.pack("<b", -5) + bytes([14, 13]) + LENGTHS + b"\0\0\0" + uleb(files)
    unit = struct.pack("<HBBI", 5, 8, 0, len(head)) + head + b"\0\1\1"
    return struct.pack("<I", len(unit)) + unit


def unit(abbreviation: int = 1) -> bytes:
    body = struct.pack("<HIB", 4, 0, 8) + uleb(abbreviation)
    return struct.pack("<I", len(body)) + body


def compressed(claimed: int, real: int) -> bytes:
    """A compressed section of ``real`` zeros, so many MiB, that says it had ``claimed`` bytes."""
    packer = zlib.compressobj(9)
    first, again = (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return struct.pack("<IIQQ", 1, 0, claimed, 1) + first + again * (real // MIB - 1)


BOMBS: dict[str, Callable[[], Bomb]] = {
    "symbols of one byte": lambda: Bomb().replace(".symtab", bytes(8 << 20), entsize=1),
    "symbols of no bytes": lambda: Bomb().replace(".symtab", bytes(8 << 20), entsize=0),
    "symbols beyond the file": lambda: Bomb().set(".symtab", size=1 << 62),
    "a file table of 2^40 files": lambda: Bomb().patch(".debug_line", line_header_5(1 << 40)),
    "a line program of four million rows": lambda: Bomb().replace(
        ".debug_line", line_program(b"\1" * (4 << 20) + b"\0\1\1")
    ),
    "an operand without end": lambda: Bomb().replace(".debug_line", line_program(b"\2" + b"\x80" * (4 << 20))),
    "a line number without end": lambda: Bomb().replace(
        ".debug_line", line_program(b"\3" + b"\xff" * 20_000 + b"\0\1\0\1\1")
    ),
    "an abbreviation without end": lambda: Bomb().replace(".debug_abbrev", b"\x80" * (4 << 20)),
    "a million abbreviations": lambda: Bomb().replace(
        ".debug_abbrev", b"".join(uleb(n) + b"\x11\0\0\0" for n in range(1, 1 << 20))
    ),
    "a million units": lambda: Bomb().replace(".debug_info", unit() * (1 << 20)),
    "a unit of no bytes": lambda: Bomb().patch(".debug_info", bytes(4)),
    "a unit that goes back": lambda: Bomb().patch(".debug_info", struct.pack("<i", -4)),
    "a 64-bit unit that goes back": lambda: Bomb().patch(".debug_info", struct.pack("<Iq", 0xFFFFFFFF, -12)),
    "a section that unpacks to a gigabyte": lambda: Bomb().replace(
        ".debug_line", compressed(1 << 30, 1 << 30), flags=0x800
    ),
    "a section that unpacks to more than it says": lambda: Bomb().replace(
        ".debug_line", compressed(100, 1 << 30), flags=0x800
    ),
    "a section of 2^60 bytes": lambda: Bomb().set(".debug_str", size=1 << 60),
}
# pyelftools makes all sections or none.
NO_SECTIONS = ("symbols of no bytes", "symbols beyond the file")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is processor time; on a busy machine ten times as much on the clock can be less than that."""
    monkeypatch.setattr(readers, "_WALL_FACTOR", 100)


@pytest.fixture(scope="module")
def sound() -> debug_info.DebugInfo:
    found = debug_info.read(str(IMAGE))
    assert found.note == ""
    return found


def spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_sound_image_has_them_all(sound: debug_info.DebugInfo) -> None:
    assert sound.note == ""
    assert any(name == "main" for _, _, name in sound.functions)
    assert any(line.startswith("commit.c:") for _, line in sound.lines)
    assert dict(sound.paths)["commit.c"].endswith("/commit.c")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_bounded_time_and_only_its_own_names(
    tmp_path: Path, name: str, sound: debug_info.DebugInfo
) -> None:
    path = tmp_path / "bomb.elf"
    path.write_bytes(BOMBS[name]().data)
    before = spent()
    found = debug_info.read(str(path), seconds=SECONDS)
    assert spent() - before < BOUND_CPU_S
    for why in re.findall(r"cannot be read: ([^;]*)", found.note):
        assert re.fullmatch(r"they (are damaged|ask for too much|take more than .* s to read|take too much .*)", why)
    if name in NO_SECTIONS:
        assert found.note.startswith("the image's symbols cannot be read: ")
    elif name.startswith("symbols"):
        assert found.lines == sound.lines
        assert "the image's symbols cannot be read: " in found.note
    else:
        assert found.functions == sound.functions
        assert found.lines != sound.lines or found.paths != sound.paths, "this is no bomb"


def test_what_is_missing_and_why_is_said(tmp_path: Path) -> None:
    path = tmp_path / "bomb.elf"
    path.write_bytes(BOMBS["a section that unpacks to a gigabyte"]().data)
    note = debug_info.read(str(path), seconds=SECONDS).note
    assert note.startswith("the image's source lines cannot be read: they ")
    assert "symbols" not in note
    path.write_bytes(BOMBS["symbols of one byte"]().data)
    note = debug_info.read(str(path), seconds=SECONDS).note
    assert note == f"the image's symbols cannot be read: they take more than {SECONDS:g} s to read"


def test_memory_is_bounded_where_time_is_not(tmp_path: Path) -> None:
    path, most = tmp_path / "bomb.elf", 600 * MIB
    bomb = Bomb()
    bomb.set(".debug_line", type=NOBITS, size=most)  # pyelftools makes the zeros
    path.write_bytes(bomb.data)
    note = debug_info.read(str(path), seconds=10.0).note
    assert "the image's source lines cannot be read: they take too much memory to read" in note


@pytest.fixture
def image_of_a_slow_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its reader does not come back, as in a long call into C, where no timer of Python's is heard."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "reader.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(debug_info, "_READER", "reader")
    monkeypatch.syspath_prepend(str(tmp_path / "slow"))
    path = tmp_path / "image.elf"
    path.write_bytes(IMAGE.read_bytes())
    return str(path)


@pytest.mark.parametrize(
    ("seconds", "limit", "why"),
    [(0.05, math.inf, "they ask for too much"), (100.0, 0.5, "the time limit of 0.5 s was reached")],
)
def test_a_reader_that_does_not_come_back_is_ended(
    image_of_a_slow_reader: str, seconds: float, limit: float, why: str
) -> None:
    found = debug_info.read(image_of_a_slow_reader, seconds=seconds, deadline=Deadline.after(limit))
    assert f"the image's source lines cannot be read: {why}" in found.note


def test_what_a_reader_had_said_when_it_was_ended_counts() -> None:
    found = debug_info._decode(b'{"part": "functions", "entries": [[1, 2, "f"]]}\n{"part": "lin', "it was ended")
    assert found.functions == ((1, 2, "f"),)
    assert found.note == (
        "the image's source lines cannot be read: it was ended; the image's source files cannot be read: it was ended"
    )


def test_after_the_deadline_nothing_is_read_and_it_is_read_when_there_is_time_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound: debug_info.DebugInfo
) -> None:
    path = tmp_path / "image.elf"
    path.write_bytes(IMAGE.read_bytes())
    with monkeypatch.context() as without_processes:
        without_processes.setattr(subprocess, "Popen", None)
        found = debug_info.read(str(path), deadline=Deadline.after(0))
        assert found.functions == ()
        assert "the image's symbols cannot be read: the time limit of 0 s was reached" in found.note
        assert unwind(str(path), {1: Capture(0, {}, b"")}, Symbols(), Deadline.after(0)) == {}
    assert debug_info.read(str(path)) == sound


def test_names_are_printable_whatever_the_image_calls_its_functions(tmp_path: Path) -> None:
    data = bytearray(IMAGE.read_bytes())
    at = data.index(b"\0main\0") + 1
    data[at : at + 4] = b"\x1b[1m"
    path = tmp_path / "names.elf"
    path.write_bytes(data)
    names = [name for _, _, name in debug_info.read(str(path)).functions]
    assert r"\x1b[1m" in names
    assert all(name.isprintable() for name in names)


def mutations() -> Iterator[bytes]:
    rng, good = random.Random(37), IMAGE.read_bytes()
    tables = struct.unpack_from("<Q", good, 40)[0]
    for _ in range(times(10)):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(tables, len(data)) if rng.random() < 0.5 else rng.randrange(0x1000, len(data))
            data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        yield bytes(data)


@pytest.mark.fuzz
def test_damaged_images_give_names_or_none(tmp_path: Path) -> None:
    for number, data in enumerate(mutations()):
        path = tmp_path / f"{number}.elf"
        path.write_bytes(data)
        symbols = load_symbols(str(path))
        assert symbols.find(0x100000) is not None


def test_notes_that_thousands_of_segments_share_are_not_read_again_and_again() -> None:
    count, notes = 60_000, struct.pack("<III", 0, 0, 1) * 80_000
    at = 64 + 56 * (count + 1)
    fields = (2, 62, 1, 0x100000, 64, 0, 0, 64, 56, count + 1, 0, 0, 0)
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *fields)
    load = struct.pack("<IIQQQQQQ", 1, 7, 0, 0x100000, 0x100000, 64, 64, 4096)
    note = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(notes), len(notes), 4)
    began = time.process_time()
    parsed = elf.parse(head + load + note * count + notes, "bomb")
    assert parsed.pvh_entry is None
    assert time.process_time() - began < 5


def test_a_segment_that_all_program_headers_name_is_refused_at_once() -> None:
    image = bytearray(IMAGE.read_bytes())
    struct.pack_into("<H", image, 56, 0xFFFF)
    with pytest.raises(EmuError, match="beyond the end"):
        elf.parse(bytes(image), "bomb")
