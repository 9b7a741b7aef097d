"""Runs a guest image on bare Unicorn with just enough of a PC around it: an examiner that shares no code with emu.

Records what the guest did to its NVDIMM, and enumerates by brute force what a power failure can leave there: per cache
line any prefix of the stores that are not yet durable, at every fence and at the end.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from dataclasses import dataclass
from typing import Any

import capstone
import unicorn
from unicorn import x86_const as x86

RAM_SIZE, NVDIMM_BASE, NVDIMM_SIZE = 2 << 20, 0x100000000, 64 << 10
RSDP_AT, RSDT_AT, NFIT_AT, GDT_AT, INFO_AT = 0xE0000, 0xE0100, 0xE1000, 0x8000, 0x9000
LINE, PAGE = 64, 4096
SFENCE = b"\x0f\xae\xf8"


@dataclass(frozen=True)
class Store:
    """Bytes stored within one aligned 8-byte unit; the offset counts from the start of the NVDIMM."""

    offset: int
    data: bytes


@dataclass(frozen=True)
class Flush:
    line: int


@dataclass(frozen=True)
class Fence:
    pass


Event = Store | Flush | Fence


@dataclass(frozen=True)
class Ran:
    status: int
    serial: str
    nvdimm: bytes
    events: tuple[Event, ...]


def _checksummed(table: bytes, at: int) -> bytes:
    return table[:at] + bytes([-sum(table) & 0xFF]) + table[at + 1 :]


def _table(signature: bytes, body: bytes) -> bytes:
    head = (
        signature + struct.pack("<IBB", 36 + len(body), 1, 0) + b"EXAM  EXAMINER" + struct.pack("<I4sI", 1, b"EXAM", 1)
    )
    return _checksummed(head + body, 9)


def _tables() -> dict[int, bytes]:
    pmem_guid = bytes.fromhex("79d3f066f3b47440ac430d3318b78cdb")
    spa = struct.pack("<HHHHII16sQQQ", 0, 56, 2, 3, 0, 0, pmem_guid, NVDIMM_BASE, NVDIMM_SIZE, 0x8008)
    memdev = struct.pack("<HHIHHHHQQQHHHH", 1, 48, 1, 0, 0, 2, 3, NVDIMM_SIZE, 0, 0, 0, 1, 0, 0)
    rsdp = b"RSD PTR \0EXAM  \0" + struct.pack("<I", RSDT_AT)
    return {
        RSDP_AT: _checksummed(rsdp, 8),
        RSDT_AT: _table(b"RSDT", struct.pack("<I", NFIT_AT)),
        NFIT_AT: _table(b"NFIT", bytes(4) + spa + memdev),
        GDT_AT: struct.pack("<QQQ", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF),
    }


def _pages(size: int) -> tuple[Any, int]:
    """A buffer and the first page-aligned address in it."""
    buffer = ctypes.create_string_buffer(size + PAGE)
    return buffer, (ctypes.addressof(buffer) + PAGE - 1) & ~(PAGE - 1)


class BareGuest:
    """One image, booted as often as wanted. The engine is kept, so only the first boot pays for translation."""

    def __init__(self, image: bytes, *, trace: bool = False) -> None:
        at = image.index(struct.pack("<I", 0x1BADB002))
        _, _, _, _, load, load_end, _, entry = struct.unpack_from("<8I", image, at)
        self._ram_buffer, ram = _pages(RAM_SIZE)
        self._nvdimm_buffer, self._nvdimm = _pages(NVDIMM_SIZE)
        self._trace, self._events, self._serial, self._status = trace, list[Event](), bytearray(), -1
        self._latch = False
        self._decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        self._decoder.detail = True
        ctypes.memmove(ram + load, image[at : at + load_end - load], load_end - load)
        for address, data in _tables().items():
            ctypes.memmove(ram + address, data, len(data))
        # The way into long mode runs once, in a 32-bit engine; a 64-bit engine takes over from there.
        start = self._engine(unicorn.UC_MODE_32, ram)
        for register, value in ((x86.UC_X86_REG_CR0, 1), (x86.UC_X86_REG_GDTR, (0, GDT_AT, 23, 0))):
            start.reg_write(register, value)
        start.reg_write(x86.UC_X86_REG_CS, 8)
        for register in (x86.UC_X86_REG_DS, x86.UC_X86_REG_ES, x86.UC_X86_REG_SS):
            start.reg_write(register, 16)
        start.reg_write(x86.UC_X86_REG_EAX, 0x2BADB002)
        start.reg_write(x86.UC_X86_REG_EBX, INFO_AT)
        far_jump = image.index(b"\xea", at)  # ljmp $0x08, $long_mode: the first one behind the header
        (self._entry,) = struct.unpack_from("<I", image, far_jump + 1)
        start.emu_start(entry, self._entry)
        self._context = start.context_save()
        self._ram, self._snapshot = ram, ctypes.string_at(ram, RAM_SIZE)
        self._cpu = self._engine(unicorn.UC_MODE_64, ram)
        if trace:
            end = NVDIMM_BASE + NVDIMM_SIZE - 1
            self._cpu.hook_add(unicorn.UC_HOOK_MEM_WRITE, self._on_store, None, NVDIMM_BASE, end)
            self._cpu.hook_add(unicorn.UC_HOOK_CODE, self._on_code)

    def _engine(self, mode: int, ram: int) -> Any:
        make: Any = unicorn.unicorn.Uc  # its annotations do not fit its use
        engine = make(unicorn.UC_ARCH_X86, mode, x86.UC_CPU_X86_ICELAKE_SERVER)
        engine.mem_map_ptr(0, RAM_SIZE, unicorn.UC_PROT_ALL, ram)
        engine.mem_map_ptr(NVDIMM_BASE, NVDIMM_SIZE, unicorn.UC_PROT_ALL, self._nvdimm)
        engine.hook_add(unicorn.UC_HOOK_INSN, self._on_out, None, 1, 0, x86.UC_X86_INS_OUT)
        engine.hook_add(unicorn.UC_HOOK_INSN, lambda *_: 0x60, None, 1, 0, x86.UC_X86_INS_IN)
        return engine

    def _on_out(self, engine: Any, port: int, _size: int, value: int, _data: object) -> None:
        if port == 0x3FB:
            self._latch = bool(value & 0x80)
        elif port == 0x3F8 and not self._latch:
            self._serial.append(value & 0xFF)
        elif port in (0x604, 0xF4):
            self._status = 0 if port == 0x604 else value << 1 | 1
            engine.emu_stop()

    def _on_store(self, _cpu: Any, _kind: int, address: int, size: int, value: int, _data: object) -> None:
        offset, data = address - NVDIMM_BASE, (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        while data:
            room = 8 - offset % 8
            self._events.append(Store(offset, data[:room]))
            offset, data = offset + room, data[room:]

    def _on_code(self, cpu: Any, address: int, size: int, _data: object) -> None:
        code = bytes(cpu.mem_read(address, size))
        if code == SFENCE:
            self._events.append(Fence())
        elif b"\x0f\xae" in code:
            instruction = next(self._decoder.disasm(code, address))
            if instruction.mnemonic in ("clwb", "clflushopt", "clflush"):
                self._events.append(Flush((self._operand(cpu, instruction) - NVDIMM_BASE) // LINE))

    def _operand(self, cpu: Any, instruction: Any) -> int:
        memory = instruction.operands[0].mem

        def register(number: int) -> int:
            name = instruction.reg_name(number)
            return int(cpu.reg_read(getattr(x86, f"UC_X86_REG_{name.upper()}"))) if name else 0

        return register(memory.base) + register(memory.index) * int(memory.scale) + int(memory.disp)

    def run(self, nvdimm: bytes) -> Ran:
        """Boot once with those NVDIMM contents."""
        ctypes.memmove(self._ram, self._snapshot, RAM_SIZE)
        ctypes.memmove(self._nvdimm, nvdimm, NVDIMM_SIZE)
        self._events, self._serial, self._status = [], bytearray(), -1
        self._cpu.context_restore(self._context)
        self._cpu.emu_start(self._entry, 0, timeout=20_000_000)
        left = ctypes.string_at(self._nvdimm, NVDIMM_SIZE)
        return Ran(self._status, self._serial.decode(), left, tuple(self._events))


def _written(memory: bytes, stores: list[Store]) -> bytes:
    changed = bytearray(memory)
    for store in stores:
        changed[store.offset : store.offset + len(store.data)] = store.data
    return bytes(changed)


def adr_states(events: tuple[Event, ...], initial: bytes, *, journalled: bool = True) -> set[bytes]:
    """Every memory after a power failure that loses caches; not ``journalled``: touched pages may read as before."""
    durable, states, touched = initial, set[bytes](), set[int]()
    pending: dict[int, list[Store]] = {}
    marks: dict[int, int] = {}

    def crash() -> None:
        for chosen in itertools.product(*(range(len(stores) + 1) for stores in pending.values())):
            prefix = [store for stores, n in zip(pending.values(), chosen, strict=True) for store in stores[:n]]
            states.add(_written(durable, prefix))

    for event in events:
        if isinstance(event, Store):
            pending.setdefault(event.offset // LINE, []).append(event)
            touched.add(event.offset // PAGE)
        elif isinstance(event, Flush):
            marks[event.line] = len(pending.get(event.line, ()))
        else:
            crash()
            for line, mark in marks.items():
                stores = pending.pop(line, [])
                durable = _written(durable, stores[:mark])
                if stores[mark:]:
                    pending[line] = stores[mark:]
            marks.clear()
    crash()
    if journalled:
        return states
    subsets = [set(s) for n in range(len(touched) + 1) for s in itertools.combinations(sorted(touched), n)]
    return {_with_old_pages(state, initial, lost) for state in states for lost in subsets}


def _with_old_pages(state: bytes, initial: bytes, lost: set[int]) -> bytes:
    pages = range(0, len(state), PAGE)
    return b"".join((initial if at // PAGE in lost else state)[at : at + PAGE] for at in pages)


def eadr_states(events: tuple[Event, ...], initial: bytes) -> set[bytes]:
    """Every memory after a power failure when caches are saved: some prefix of all stores."""
    stores = [event for event in events if isinstance(event, Store)]
    return {_written(initial, stores[:n]) for n in range(len(stores) + 1)}
