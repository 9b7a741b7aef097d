"""What an exception and its return, and a system call and its return, cost: delivered in C, and in Python."""

from __future__ import annotations

import ctypes
import mmap
import struct
import time
from functools import partial
from types import SimpleNamespace

from emu.cpu import Cpu
from emu.entry import Long64
from emu.host.kernel import memory_view
from emu.memory import GuestMemory, Region
from tests.bench.measure import interleaved, ratio, row

_SIZE = 2 << 20
_CODE, _HANDLER, _STACK, _GDT, _IDT, _POINTER, _TABLES = 0x10000, 0x11000, 0x18000, 0x4000, 0x5000, 0x6000, 0x8000
_LIDT = b"\x0f\x01\x1c\x25" + struct.pack("<I", _POINTER)
_STAR, _LSTAR, _FMASK = 0xC0000081, 0xC0000082, 0xC0000084
# (instruction, what its handler does)
KINDS = {
    "ud2; add qword [rsp], 2; iretq": (b"\x0f\x0b", b"\x48\x83\x04\x24\x02\x48\xcf"),
    "int3; iretq": (b"\xcc", b"\x48\xcf"),
    "syscall; jmp rcx": (b"\x0f\x05", b"\xff\xe1"),
}


def _write_msr(number: int, value: int) -> bytes:
    words = struct.pack("<I", number), struct.pack("<I", value & 0xFFFFFFFF), struct.pack("<I", value >> 32)
    return b"\xb9%b\xb8%b\xba%b\x0f\x30" % words


def _cost(kind: str, *, native: bool, rounds: int = 20_000) -> float:
    """Nanoseconds of CPU time for one."""
    memory = mmap.mmap(-1, _SIZE)
    anchor = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(anchor)
    regions = GuestMemory()
    cpu = Cpu(regions, native_delivery=native)
    host = SimpleNamespace(address=address, size=_SIZE, view=memory_view(address, _SIZE), readonly=False)
    regions.add(Region(0, _SIZE, host))
    instruction, handler = KINDS[kind]
    code = _LIDT + _write_msr(0xC0000080, 0x501) + _write_msr(_STAR, 8 << 32)
    code += _write_msr(_LSTAR, _HANDLER) + _write_msr(_FMASK, 0)
    code += b"\xbd" + struct.pack("<I", rounds)
    body = instruction + b"\xff\xcd"  # dec ebp
    code += body + b"\x75" + bytes([256 - len(body) - 2]) + b"\xf4"
    descriptors = (0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    for at, data in (
        (_CODE, code),
        (_HANDLER, handler),
        (_GDT, struct.pack("<3Q", *descriptors)),
        (_POINTER, struct.pack("<HQ", 0xFFF, _IDT)),
        (_TABLES, struct.pack("<Q", _TABLES + 0x1003)),
        (_TABLES + 0x1000, struct.pack("<Q", _TABLES + 0x2003)),
        (_TABLES + 0x2000, struct.pack("<Q", 0x83)),
    ):
        memory[at : at + len(data)] = data
    for vector in (3, 6):
        gate = struct.pack("<HHBBHII", _HANDLER & 0xFFFF, 8, 0, 0x8E, _HANDLER >> 16, 0, 0)
        memory[_IDT + 16 * vector : _IDT + 16 * vector + 16] = gate
    cpu.enter(Long64(_CODE, _STACK, 0, _TABLES, (_GDT, 0x18)))
    began = time.process_time()
    cpu.run()
    took = (time.process_time() - began) / rounds * 1e9
    assert cpu.registers()["rbp"] == 0
    cpu.close()
    del anchor
    memory.close()
    return took


def main(rounds: int = 5) -> None:
    print("time of one with its return, in Python / in C")
    for kind in KINDS:
        figures = interleaved({name: partial(_cost, kind, native=name == "C") for name in ("Python", "C")}, rounds)
        both = "{:.0f} and {:.0f} ns".format(*(min(figures[name]) for name in ("Python", "C")))
        print(row(kind, ratio(figures["Python"], figures["C"]), "20"), both)


if __name__ == "__main__":
    main()
