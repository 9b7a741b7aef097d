"""The log of a recorded run explains the memory that the run left, whatever stored there; else there is no verdict."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import capstone
import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.cpu.instructions import NON_TEMPORAL
from emu.errors import Status
from emu.host import trace
from emu.machine import Machine
from emu.persistence import recorder
from emu.persistence.events import Event, Fence, LabelWrite, Store
from emu.persistence.explained import UnexplainedMemory
from emu.persistence.workload import Workload, record
from emu.units import MIB, PAGE
from random_stores import BASE, SIZE, Programs

CODE = 0x100000
HALT = b"\xf4"
TABLES = SIZE  # offset of the page tables in an NVDIMM that has some, behind what random programs store to
PRESENT, LARGE, ACCESSED, DIRTY = 3, 0x80, 0x20, 0x40


def run(tmp_path: Path, code: bytes, content: bytes | None = None, **options: object) -> Workload:
    image = tmp_path / "guest.bin"
    image.write_bytes(code)
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=SIZE)
    if content is not None:
        file = tmp_path / "pool.img"
        file.write_bytes(content)
        backend = BackendConfig(id="m", path=str(file), size=len(content))
    config = MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)
    return record(config, **options)  # type: ignore[arg-type]


def stores(workload: Workload) -> list[tuple[int, bytes]]:
    return [(event.address - BASE, event.data) for event in workload.events if isinstance(event, Store)]


# Random programs


def instructions(code: bytes) -> dict[int, tuple[list[str], str]]:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found, at = {}, 0
    while at < len(code):
        for address, length, mnemonic, operands in decoder.disasm_lite(code[at:], CODE + at):
            found[address] = (mnemonic.split(), operands)
            at = address - CODE + length
        if at < len(code):  # an encoding of SFENCE that Capstone does not know
            assert code[at : at + 2] == b"\x0f\xae"
            at += 3
    return found


def check_events(events: tuple[Event, ...], code: bytes) -> None:
    """Each store names the instruction that made it, in program order, and is what that instruction makes."""
    known, last = instructions(code), 0
    for event in events:
        if isinstance(event, Store):
            words, operands = known[event.pc]
            assert event.pc >= last, f"{words} {operands} at {event.pc:#x} after {last:#x}"
            assert event.nt == (words[-1] in NON_TEMPORAL), words
            assert event.locked == ("lock" in words or (words[-1] == "xchg" and "[" in operands)), words
            last = event.pc


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_programs(tmp_path: Path, first: int) -> None:
    made = 0
    for seed in range(first, first + 20):
        code = Programs(seed).program(60)
        workload = run(tmp_path, code)
        assert (workload.ended.reason, workload.doubts) == ("halt", ()), seed
        check_events(workload.events, code)
        made += len(stores(workload))
    assert made > 800


def scattered(dice: random.Random) -> bytes:
    """An NVDIMM with page tables that map the linear addresses of its first half page by page to pages of it and of
    RAM in random order, and 0-1 GiB and the tables themselves as they are.
    """
    content = bytearray(2 * SIZE)
    places = [BASE + at for at in range(0, SIZE, PAGE)] + [8 * MIB + at for at in range(0, SIZE, PAGE)]
    dice.shuffle(places)

    def put(table: int, entries: dict[int, int]) -> None:
        for number, entry in entries.items():
            struct.pack_into("<Q", content, TABLES + table * PAGE + 8 * number, entry)

    def table(number: int) -> int:
        return BASE + TABLES + number * PAGE | PRESENT

    put(0, {0: table(1)})
    put(1, {0: table(2), 3: table(5), 4: table(3)})
    put(2, {number: number << 21 | PRESENT | LARGE for number in range(512)})
    put(3, {0: table(4), 1: BASE + (1 << 21) | PRESENT | LARGE})
    put(4, {number: places[number] | PRESENT for number in range(512)})
    put(5, {511: BASE | PRESENT | LARGE})  # programs that store just below the first page
    return bytes(content)


@pytest.mark.parametrize("first", range(0, 40, 20))
def test_random_programs_under_scattered_pages(tmp_path: Path, first: int) -> None:
    """Stores that cross a page go on anywhere; and the page tables, which the CPU marks, are in the NVDIMM too."""
    for seed in range(first, first + 20):
        code = Programs(seed).program(60, cr3=BASE + TABLES)
        workload = run(tmp_path, code, scattered(random.Random(seed)))
        assert workload.ended.reason == "halt", (seed, workload.ended)
        marks = [data for offset, data in stores(workload) if offset >= TABLES]
        assert marks and all(data[0] & ACCESSED for data in marks)
