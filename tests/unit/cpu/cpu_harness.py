"""A bare machine for CPU tests: 4 MiB of RAM, ports that log, descriptor and page tables at fixed places."""

from __future__ import annotations

import ctypes
import mmap
import struct
from types import SimpleNamespace

from emu.cpu import Cpu, Stop
from emu.entry import Long64, Protected32
from emu.host.kernel import memory_view
from emu.memory import GuestMemory, Region

RAM = 4 << 20
CODE, HANDLERS, STACK, USER_STACK = 0x100000, 0x110000, 0x180000, 0x170000
GDT, IDT, IDT_POINTER, GDT_POINTER, TSS, TABLES = 0x4000, 0x5000, 0x6000, 0x6010, 0x7000, 0x8000
KERNEL_CODE, KERNEL_DATA, CODE32, USER_CODE, USER_DATA, TASK = 0x08, 0x10, 0x18, 0x23, 0x2B, 0x30
LIDT64 = b"\x0f\x01\x1c\x25" + struct.pack("<I", IDT_POINTER)
LIDT32 = b"\x0f\x01\x1d" + struct.pack("<I", IDT_POINTER)
LGDT32 = b"\x0f\x01\x15" + struct.pack("<I", GDT_POINTER)
LTR = b"\x66\xb8" + struct.pack("<H", TASK) + b"\x0f\x00\xd8"
HLT = b"\xf4"


def host_region(gpa: int, size: int, address: int, *, readonly: bool = False) -> Region:
    """Host memory at ``address``, as a region of guest memory."""
    host = SimpleNamespace(address=address, size=size, view=memory_view(address, size), readonly=False)
    return Region(gpa, size, host, readonly=readonly, name="memory")


class Guest:
    """``out`` is the log of port writes as (port, value); reads of port p give ``inputs[p]`` or 0."""

    def __init__(self, *, real_time: bool = False, native_delivery: bool = True) -> None:
        self.memory = mmap.mmap(-1, RAM)
        self._anchor = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(self._anchor)
        self.regions = GuestMemory()
        self.cpu = Cpu(self.regions, real_time=real_time, native_delivery=native_delivery)
        self.map(0, RAM, self.address)
        self.out: list[tuple[int, int]] = []
        self.inputs: dict[int, int] = {}
        self.cpu.on_port_write = lambda port, size, value: self.out.append((port, value))
        self.cpu.on_port_read = lambda port, size: self.inputs.get(port, 0)
        self._tables()

    def map(self, gpa: int, size: int, address: int, *, readonly: bool = False) -> None:
        self.regions.add(host_region(gpa, size, address, readonly=readonly))

    def close(self) -> None:
        self.cpu.close()
        del self._anchor
        self.memory.close()

    def _tables(self) -> None:
        descriptors = [
            0,
            0x00AF9B000000FFFF,
            0x00CF93000000FFFF,
            0x00CF9B000000FFFF,
            0x00AFFB000000FFFF,
            0x00CFF3000000FFFF,
        ]
        self.put(GDT, struct.pack("<6Q", *descriptors) + struct.pack("<HHIQ", 0x67, TSS, 0x00008900, 0))
        self.put(GDT_POINTER, struct.pack("<HI", 0x3F, GDT))
        self.put(IDT_POINTER, struct.pack("<HQ", 0xFFF, IDT))
        self.put(TSS + 4, struct.pack("<Q", STACK))
        self.put(TABLES, struct.pack("<Q", TABLES + 0x1003 | 4))
        self.put(TABLES + 0x1000, struct.pack("<Q", TABLES + 0x2003 | 4))
        self.put(TABLES + 0x2000, struct.pack("<2Q", 0x87, 0x200087))

    def put(self, gpa: int, data: bytes) -> None:
        self.memory[gpa : gpa + len(data)] = data

    def quads(self, gpa: int, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}Q", self.memory[gpa : gpa + 8 * count]))

    def gate64(self, vector: int, offset: int, kind: int = 0x8E, ist: int = 0, selector: int = KERNEL_CODE) -> None:
        low = struct.pack("<HHBBHII", offset & 0xFFFF, selector, ist, kind, offset >> 16 & 0xFFFF, offset >> 32, 0)
        self.put(IDT + 16 * vector, low)

    def gate32(self, vector: int, offset: int, kind: int = 0x8E, selector: int = CODE32) -> None:
        self.put(IDT + 8 * vector, struct.pack("<HHBBH", offset & 0xFFFF, selector, 0, kind, offset >> 16))

    def long(self, code: bytes) -> None:
        """Ready to run ``code`` in 64-bit mode, with an IDT register already loaded by it."""
        self.put(CODE, LIDT64 + code)
        self.cpu.enter(Long64(CODE, STACK, 0, TABLES, (GDT, 0x40)))

    def protected(self, code: bytes) -> None:
        self.put(CODE, LGDT32 + LIDT32 + code)
        self.cpu.enter(Protected32(CODE, 0x2BADB002, 0x9500))
        self.cpu.set_register("rsp", STACK)

    def run_long(self, code: bytes) -> Stop:
        self.long(code)
        return self.cpu.run()

    def run_protected(self, code: bytes) -> Stop:
        self.protected(code)
        return self.cpu.run()
