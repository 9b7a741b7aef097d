"""Stacks of programs that consist of several files, and what their functions are called."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from emu.host import _kernel
from emu.persistence.report.demangle import _asked, demangled
from emu.persistence.report.frame_tables import FrameTables
from emu.persistence.report.stack_reader import Names, Unwinder

LIBRARY = Path(_kernel.__file__)


def test_a_function_is_found_in_the_sorted_table_as_among_all() -> None:
    with LIBRARY.open("rb") as file:
        elf: Any = ELFFile(file)
        dwarf = elf.get_dwarf_info()
        sorted_ones, all_of_them = FrameTables(elf, dwarf), FrameTables(elf, dwarf)
        all_of_them._sorted = None
        assert sorted_ones._sorted is not None
        text = elf.get_section_by_name(".text")
        rng = random.Random(3)
        addresses = [text["sh_addr"] + rng.randrange(-64, text["sh_size"] + 64) for _ in range(300)]
        rows = [sorted_ones.row(address) for address in addresses]
        assert [str(row) for row in rows] == [str(all_of_them.row(address)) for address in addresses]
        assert sum(row is not None for row in rows) > 200


class Row(dict[Any, Any]):
    """A function that has pushed nothing but its return address."""

    def __init__(self) -> None:
        rule, saved = type("", (), {"reg": 7, "offset": 8})(), type("", (), {"type": "OFFSET", "arg": -8})()
        super().__init__({"cfa": rule, 16: saved, "pc": 0})


class Tables(FrameTables):
    def __init__(self) -> None:
        super().__init__(None, None)
        self.asked: list[int] = []

    def row(self, address: int) -> Row | None:
        self.asked.append(address)
        return Row()


def test_each_frame_is_looked_up_in_its_own_file() -> None:
    """Program at 0x10000, linked to 0, calls a library at 0x7f0000, linked to 0x2000."""
    program, library = Tables(), Tables()
    stack = (0x10123).to_bytes(8, "little") + (0x99999).to_bytes(8, "little")
    capture = {
        "pc": 0x7F0010,
        "registers": {"rsp": 0x8000},
        "stack": stack.hex(),
        "pages": {str(0x10000): (0, 0x10000), str(0x7F0000): (1, 0x7EE000)},
    }
    frames = list(Unwinder([program, library], [Names(None), Names(None)]).frames(capture))
    assert [tuple(place) for place, _ in frames] == [(0x7F0010, 1, 0x2010), (0x10122, 0, 0x122)]
    assert (program.asked, library.asked) == ([0x122], [0x2010])


@pytest.fixture
def filt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    _asked.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "c++filt"


def say(filt: Path, script: str) -> None:
    filt.write_text(f"#!/bin/sh\n{script}\n")
    filt.chmod(0o755)


def test_names_are_as_their_authors_wrote_them(filt: Path) -> None:
    say(
        filt,
        r"""[ "$1" = -p ] && exec /bin/sed 's/_ZN1a1bE/a::b/; s/_ZN1c17h0123456789abcdefE/c::h0123456789abcdef/'""",
    )
    assert demangled(["_ZN1a1bE", "main", "_ZN1c17h0123456789abcdefE"]) == {
        "_ZN1a1bE": "a::b",
        "_ZN1c17h0123456789abcdefE": "c",
    }


@pytest.mark.parametrize("script", [None, "exit 1", "echo one; echo two"])
def test_without_a_demangler_that_works_names_stay(filt: Path, script: str | None) -> None:
    if script is not None:
        say(filt, script)
    assert demangled(["_ZN1a1bE"]) == {}
