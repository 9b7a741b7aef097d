"""Names and lines of single addresses are those of the whole tables."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from emu.persistence.report.place_reader import places
from emu.persistence.report.symbols import load_symbols
from emu.persistence.report.units import UnitFinder

IMAGE = Path(__file__).parents[3] / "guest" / "images" / "commit-noflush.elf"


@pytest.mark.parametrize("with_ranges", [True, False])
def test_a_place_is_that_of_the_whole_tables(with_ranges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of files without .debug_aranges, which clang and rustc do not write."""
    if not with_ranges:
        monkeypatch.setattr(UnitFinder, "_ranges", None)
    symbols = load_symbols(str(IMAGE))
    starts = [start for start, size, _ in symbols._functions if size]
    rng = random.Random(1)
    addresses = [rng.choice(starts) + rng.randrange(-3, 40) for _ in range(60)]
    with IMAGE.open("rb") as file:
        elf: Any = ELFFile(file)
        found = places(elf, addresses)
    expected = [symbols.find(address) for address in addresses]
    assert [symbol for symbol, _ in found] == [place.symbol for place in expected]
    assert [source for _, source in found] == [place.source for place in expected]
    assert sum(bool(source) for _, source in found) > 30


def test_what_is_nowhere_has_no_name() -> None:
    with IMAGE.open("rb") as file:
        elf: Any = ELFFile(file)
        assert places(elf, [0, (1 << 64) - 1]) == [("", ""), ("", "")]


LABELS = """
        .globl  sized, first, behind, constant
        constant = 0x100010
sized:  nop
        nop
        .type   sized, @function
        .size   sized, 2
first:  nop
        nop
behind: nop
        nop
        .data
table:  .quad   1, 2
"""


def test_a_label_without_a_size_reaches_to_the_next_one_and_to_the_end_of_the_code(tmp_path: Path) -> None:
    """Assembly seldom gives sizes. What is data, or a mere number, names no code."""
    source, made, image = (tmp_path / name for name in ("labels.S", "labels.o", "labels.elf"))
    source.write_text(LABELS)
    subprocess.run(["as", "-o", made, source], check=True)
    subprocess.run(["ld", "-Ttext=0x100000", "-Tdata=0x100020", "-e", "0x100000", "-o", image, made], check=True)
    addresses = [*range(0x100000, 0x100008), 0x100010, 0x100011, 0x100028]
    expected = ["sized", "sized+0x1", "first", "first+0x1", "behind", "behind+0x1", "", "", "constant", "", ""]
    symbols = load_symbols(str(image))
    assert [symbols.find(address).symbol for address in addresses] == expected
    with image.open("rb") as file:
        elf: Any = ELFFile(file)
        assert [symbol for symbol, _ in places(elf, addresses)] == expected
