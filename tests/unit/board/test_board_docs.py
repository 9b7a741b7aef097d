"""The tables of "Write your own guest" say where things are: the same as the board's map."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from emu.acpi.hardware import TABLES_END, TABLES_START
from emu.board import map as board_map
from emu.boot.plan import LOW_END
from emu.config import MachineConfig

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "write-your-own-guest.md").read_text("utf-8")


def rows(head: str) -> list[tuple[str, str]]:
    """The two columns of the table whose first column is headed so."""
    table = PAGE.partition(f"| {head} | ")[2].partition("\n\n")[0]
    lines = [line.replace("\\|", "or").split("|")[1:3] for line in table.splitlines()[2:]]
    return [(first.strip(), second.strip()) for first, second in lines]


def numbers(text: str) -> list[int]:
    return [int(found, 16) for found in re.findall(r"0x[0-9A-F]+", text)]


def windows() -> Iterator[range]:
    """Of the board's own devices, and of the exit port."""
    for name, value in vars(board_map).items():
        if name.isupper():
            yield from (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, range))
    for first, length in MachineConfig().exit_ports:
        yield range(first, first + length)


def test_the_table_of_ports_is_the_boards_map() -> None:
    told = {number for ports, _ in rows("ports") for number in numbers(ports)}
    there = set(windows())
    assert len(there) > 15
    assert {window.start for window in there} <= told
    assert all(any(number in window for window in there) for number in told)
    spans = [tuple(numbers(span)) for ports, _ in rows("ports") for span in re.findall(r"0x\w+ to 0x\w+", ports)]
    assert spans
    assert set(spans) <= {(window.start, window.stop - 1) for window in there}


def test_interrupts_and_what_the_exit_port_means() -> None:
    said = {numbers(ports)[0]: words for ports, words in rows("ports")}
    for ports, irq in ((0x40, board_map.PIT_IRQ), (0x70, board_map.RTC_IRQ), (0x3F8, board_map.COM1_IRQ),
                       (0x600, board_map.SCI_IRQ)):  # fmt: skip
        assert said[ports].endswith(f"IRQ {irq}")
    assert sum("IRQ" in words for words in said.values()) == 4
    assert "`(value << 1) or 1`" in said[0xF4]
    assert numbers(said[0xCF8]) == [board_map.RESET]


def test_the_memory_map() -> None:
    ram, tables, nvdimm = rows("memory")
    assert numbers(ram[1]) == [LOW_END]
    assert numbers(tables[0]) == [TABLES_START, TABLES_END - 1]
    assert numbers(nvdimm[0]) == [4 << 30]  # tests/unit/board/test_board_build.py sees an NVDIMM there
