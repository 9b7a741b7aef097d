"""Reads that are noted because the TLB says so: exactly those that a program makes, by any instruction and address."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

import pytest

from emu.cpu import read_watch
from emu.cpu.scratch import Scratch
from emu.entry import Long64

_CODE, _BASE, _SIZE = 0x5000, 0x8000, 0x2000
_PAGES = {0x8: 0x8, 0x9: 0x9, 0xA: 0x9, 0xB: 0x8}
"""Where linear pages are in memory, as far as it is watched."""
# Instructions with a ModR/M byte for [rdi + 32 bits], which come next: bytes, what is read and what is written of them.
_LOADS = ("8a87 1", "668b87 2", "8b87 4", "488b87 8", "0f38f087 4", "480f38f087 8", "f30f6f87 16", "0f1287 8",
          "f20ff087 16", "d987 4", "dbaf 10")  # fmt: skip
_STORES = ("8887 1", "668987 2", "8987 4", "488987 8", "480f38f187 8", "f30f7f87 16", "480fc387 8")
_BOTH = ("f0480fc187 8", "f0480fb18f 8")


def _program(rng: random.Random, count: int) -> tuple[bytes, set[int]]:
    """Loads and stores all over the watched pages and their aliases, many of them across an end of a page; and the
    bytes that they read before they were stored to.
    """
    code = bytearray(bytes.fromhex("bf00000000"))  # mov edi, 0
    read, stored = set[int](), set[int]()
    for _ in range(count):
        near = rng.choice((0x8000, 0x9000, 0xA000, 0xB000, 0xC000))
        linear = near + rng.randint(-24, 8) if rng.random() < 0.4 else rng.randrange(0x8000, 0xBFF0)
        kind = rng.choice((_LOADS, _LOADS, _STORES, _BOTH))
        opcode, size = rng.choice(kind).split()
        code += bytes.fromhex(opcode) + struct.pack("<i", linear)
        touched = {
            _PAGES[at >> 12] << 12 | at & 0xFFF for at in range(linear, linear + int(size)) if at >> 12 in _PAGES
        }
        if kind is not _STORES:
            read |= touched - stored
        if kind is not _LOADS:
            stored |= touched
    return bytes(code) + b"\xf4", read


class _Machine(Scratch):
    """The scratch CPU with a program of its own, in RAM behind the watched pages."""

    def __init__(self) -> None:
        super().__init__(b"")

    def start(self, program: bytes, values: bytes) -> None:
        """Be about to run it; unknown bytes are put into memory when they are asked for."""
        self.memory[_BASE : _BASE + _SIZE] = bytes(_SIZE)
        self.memory[_CODE : _CODE + len(program)] = program
        tracer = self.tracer
        self.asked: list[tuple[int, int]] = []

        def put(unit: int, present: int) -> None:
            self.asked.append((unit, self.cpu.rip))
            for byte in range(8):
                if present >> byte & 1:
                    self.memory[unit + byte] = values[unit + byte - _BASE]

        tracer.on_unknown_read = put
        tracer.watch_pages()
        self.cpu.count_blocks(tracer.counter)
        self.begin(range(_BASE, _BASE + _SIZE, 8))

    def begin(self, unknown: Iterable[int]) -> None:
        """From the program's first instruction again."""
        self.tracer.set_unknown(unknown)
        self.tracer.restore_unknown()
        self.cpu.enter(Long64(_CODE, 0x7800, 0, 0x1000))

    def finish(self) -> list[tuple[int, int, int]]:
        """Run to the end; what was read of unknown bytes, in order."""
        self.cpu.run()
        assert self.tracer.take_failure() is None
        assert self.cpu.halted
        return list(struct.iter_unpack("<QQQ", self.tracer.reads()))

    def run(self, program: bytes, values: bytes) -> list[tuple[int, int, int]]:
        self.start(program, values)
        return self.finish()


def test_it_works_with_the_library_that_is_installed() -> None:
    assert read_watch.is_available()


def test_who_is_asked_sees_the_instruction_that_reads() -> None:
    program = bytes.fromhex("bf00000000 90 8b8704800000 90 488b87fd8f0000 f4".replace(" ", ""))
    with _Machine() as machine:
        machine.run(program, bytes(_SIZE))
        assert machine.asked == [(0x8000, _CODE + 6), (0x8FF8, _CODE + 13), (0x9000, _CODE + 13)]


def test_code_in_watched_memory_is_known() -> None:
    jumps = bytes.fromhex("b8408000 00ffe0".replace(" ", ""))  # mov eax, 0x8040; jmp rax
    with _Machine() as machine:
        machine.run(b"\xf4", bytes(_SIZE))
        assert not machine.tracer.executes
        machine.memory[0x8040] = 0xF4
        machine.memory[_CODE : _CODE + len(jumps)] = jumps
        machine.cpu.invalidate(0, 1)
        machine.begin(())
        machine.finish()
        assert machine.cpu.rip == 0x8041
        assert machine.tracer.executes


def test_pages_without_unknown_bytes_are_not_watched() -> None:
    program = bytes.fromhex("bf00000000 8b8700800000 8b8700900000 f4".replace(" ", ""))
    with _Machine() as machine:
        machine.run(program, bytes(_SIZE))
        machine.begin([0x9000])
        assert [unit for unit, _, _ in machine.finish()] == [0x9000]


@pytest.mark.parametrize("blocks", [2, 40, 299])
def test_the_budget_is_met_at_its_block(blocks: int) -> None:
    loop = bytes.fromhex("b92c010000 ffc9 75fc f4".replace(" ", ""))  # mov ecx, 300; dec ecx; jnz
    with _Machine() as machine:
        met: list[int] = []

        def stop(why: int) -> None:
            met.append(machine.tracer.blocks)
            machine.tracer.set_budget(1 << 60)
            machine.cpu.stop_before_block()

        machine.tracer.on_stop = stop
        machine.tracer.set_budget(blocks)
        machine.start(loop, bytes(_SIZE))
        machine.cpu.run()
        assert met == [blocks]
        assert machine.cpu.registers()["rcx"] == 301 - blocks
        machine.finish()
        assert machine.cpu.registers()["rcx"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_exactly_the_bytes_that_are_read_are_noted_with_their_values(seed: int) -> None:
    rng = random.Random(seed)
    program, read = _program(rng, 300)
    values = rng.randbytes(_SIZE)
    with _Machine() as machine:
        noted = machine.run(program, values)
    found: dict[int, int] = {}
    for unit, mask, value in noted:
        for byte in range(8):
            if mask >> 8 * byte & 0xFF:
                assert unit + byte not in found, "noted twice"
                found[unit + byte] = value >> 8 * byte & 0xFF
    assert set(found) == read
    assert found == {address: values[address - _BASE] for address in read}
