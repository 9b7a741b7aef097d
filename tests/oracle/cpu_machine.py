"""Runs cases, each one instruction with its whole input state, on the host CPU, in emu and in QEMU.

The same machine code (``cpu/harness.S``) at the same addresses walks a table of records of 2048 bytes: input state,
then output state. An exception is a result like any other: vector, error code and the state at that point.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from emu.cpu import Cpu, StopKind
from emu.entry import Protected32
from emu.memory import GuestMemory, Region
from tests.oracle.requirements import require

HERE = Path(__file__).parent / "cpu"
BASE, TABLE, ARENA, SPAN = 0x10000000, 0x11000000, 0x12000000, 0x2010000
CASES, SLOT = BASE + 0x100000, 64
RECORD, OUT, FX, MEMORY = 2048, 1024, 192, 704
ARENA_SIZE = 256
MOST_CASES = 8192
"""A batch ends here: its records fill the table."""
SELECTORS = {64: 0x33, 32: 0x23}
NO_VECTOR = (1 << 64) - 1
MULTIBOOT_MAGIC = 0x2BADB002
_HEADER = struct.Struct("<5Q")  # count, ending, addresses of run, caught and boot


@dataclass(slots=True)
class Case:
    """``text`` is one instruction (or a short sequence) in Intel syntax; ``mode`` 64 or 32 bits.

    ``general`` are the 16 registers by their numbers, ``fx`` an FXSAVE image of 512 bytes, ``memory`` what ARENA holds.
    """

    text: str
    mode: int
    general: list[int]
    flags: int
    fx: bytes
    memory: bytes

    def record(self, number: int) -> bytes:
        head = struct.pack("<17QIHxx", *self.general, self.flags, CASES + SLOT * number, SELECTORS[self.mode])
        return (head.ljust(FX, b"\0") + self.fx + self.memory).ljust(RECORD, b"\0")


class Result(NamedTuple):
    """The state after a case; ``vector`` is None when no exception came, and then ``rip`` and ``error`` are 0."""

    general: tuple[int, ...]
    flags: int
    rip: int
    vector: int | None
    error: int
    fx: bytes
    memory: bytes


def _results(table: bytes | memoryview, count: int) -> list[Result]:
    found = []
    for n in range(count):
        out = bytes(table[n * RECORD + OUT : (n + 1) * RECORD])
        *general, flags, rip, vector, error = struct.unpack_from("<20Q", out)
        fault = vector != NO_VECTOR
        found.append(
            Result(
                tuple(general),
                flags,
                rip if fault else 0,
                vector if fault else None,
                error if fault else 0,
                out[FX:MEMORY],
                out[MEMORY : MEMORY + ARENA_SIZE],
            )
        )
    return found


def assemble(cases: Sequence[Case], folder: Path) -> bytes:
    """The image that lies at BASE: harness and code of all cases."""
    lines = ['.include "harness.S"', '.section .cases, "awx"']
    mode = 0
    for number, case in enumerate(cases):
        if case.mode != mode:
            mode = case.mode
            lines.append(f".code{mode}")
        lines += [f".org {SLOT * number}", case.text, "jmp finish" if mode == 64 else "ljmp 0x33, offset finish"]
    source, obj, image = folder / "cases.s", folder / "cases.o", folder / "image"
    source.write_text("\n".join(lines) + "\n")
    for command in (
        [require("as", "binutils"), "--64", "-I", str(HERE), "-o", str(obj), str(source)],
        [require("ld", "binutils"), "-T", str(HERE / "harness.ld"), "--oformat", "binary", "-o", str(image), str(obj)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, done.stderr
    return image.read_bytes()


def _table(cases: Sequence[Case]) -> bytes:
    assert len(cases) <= MOST_CASES
    return b"".join(case.record(number) for number, case in enumerate(cases))


def build_native(folder: Path) -> Path:
    """The program that runs a table on the host CPU."""
    program = folder / "native"
    command = [require("gcc", "gcc"), "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(HERE / "native.c")]
    subprocess.run(command, check=True)
    return program


def run_native(program: Path, cases: Sequence[Case], image: bytes, folder: Path) -> list[Result]:
    file = folder / "image"
    file.write_bytes(image)
    done = subprocess.run([program, file, str(len(cases))], input=_table(cases), capture_output=True)
    assert not done.returncode, f"the program for the host CPU ended with {done.returncode}: {done.stderr!r}"
    return _results(done.stdout, len(cases))


def _with_header(image: bytes, count: int, ending: int) -> bytes:
    return struct.pack("<2Q", count, ending) + image[16:]


@cache
def _memory() -> tuple[mmap.mmap, int]:
    memory = mmap.mmap(-1, SPAN)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def run_emu(cases: Sequence[Case], image: bytes) -> list[Result]:
    memory, address = _memory()
    memory[: len(image)] = _with_header(image, len(cases), 1)
    memory[TABLE - BASE : TABLE - BASE + len(cases) * RECORD] = _table(cases)
    (boot,) = struct.unpack_from("<Q", image, 32)
    regions = GuestMemory()
    regions.add(Region(BASE, SPAN, SimpleNamespace(address=address, size=SPAN, view=memory, readonly=False)))
    cpu = Cpu(regions)
    try:
        cpu.enter(Protected32(boot, MULTIBOOT_MAGIC, 0))
        stop = cpu.run()
    finally:
        cpu.close()
    assert stop.kind is StopKind.HALT, stop
    return _results(memoryview(memory)[TABLE - BASE : TABLE - BASE + len(cases) * RECORD], len(cases))


def run_qemu(cases: Sequence[Case], image: bytes, folder: Path, cpu: str = "Icelake-Server") -> list[Result]:
    """As a Multiboot image under QEMU's software emulation; it prints the records on the debug console."""
    qemu = require("qemu-system-x86_64", "qemu-system-x86")
    file, console = folder / "guest", folder / "console"
    file.write_bytes(_with_header(image, len(cases), 2).ljust(TABLE - BASE, b"\0") + _table(cases))
    command = [
        qemu, "-machine", "q35,accel=tcg", "-cpu", cpu, "-m", "512M", "-nodefaults", "-display", "none", "-no-reboot",
        "-kernel", str(file), "-debugcon", f"file:{console}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    table = console.read_bytes()
    assert len(table) == len(cases) * RECORD, f"QEMU ended with {done.returncode} early: {done.stderr}"
    return _results(table, len(cases))
