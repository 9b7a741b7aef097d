"""Names and lines of single addresses are those of the whole tables."""

from __future__ import annotations

import random
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
