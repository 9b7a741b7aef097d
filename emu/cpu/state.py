"""The architectural state of one engine: what its register interface shows, and what ``layout`` found."""

from __future__ import annotations

import struct

from emu.cpu import registers as r
from emu.cpu.engine import hooks
from emu.cpu.engine.layout import RFLAGS_OFFSET, SEGMENT_SIZE, Layout
from emu.cpu.engine.stops import take_over
from emu.cpu.engine.system import System
from emu.cpu.features import CR4_BITS, WORDS, offered
from emu.errors import HostError
from emu.record import NamedTuple

# Bits of a descriptor's high word (Intel SDM volume 3, section 3.4.5), which is also how the engine caches them.
TYPE_CODE, TYPE_CONFORMING = 1 << 11, 1 << 10
DESC_S, DESC_P, DESC_L, DESC_B, DESC_G = 1 << 12, 1 << 15, 1 << 21, 1 << 22, 1 << 23
DPL_SHIFT = 13

# Flags that the engine derives from the rest and keys its translated code with.
_CPL, _INHIBIT, _CS32, _SS32, _ADDSEG, _STEP, _LMA, _CS64 = 3, 8, 0x10, 0x20, 0x40, 0x100, 0x4000, 0x8000


class Segment(NamedTuple):
    """A segment register with its hidden part; ``flags`` is the descriptor's high word, ``limit`` is in bytes."""

    selector: int
    base: int = 0
    limit: int = 0
    flags: int = 0

    @property
    def dpl(self) -> int:
        return self.flags >> DPL_SHIFT & 3


class Table(NamedTuple):
    """GDTR or IDTR: linear base and limit (size - 1)."""

    base: int
    limit: int


class Places(NamedTuple):
    """Host addresses: of the engine's CPU object, of the CPU state in it, of CR0 to CR4 (64 bits each), of the flags
    that the engine derives (32 bits), and of the bases of ES, CS, SS, DS, FS and GS (64 bits each).
    """

    cpu: int
    state: int
    control: int
    hflags: int
    segment_bases: tuple[int, ...]


class CpuState:
    """Reads and writes the state of a stopped engine. Numbers are unsigned, general registers 64 bits wide."""

    def __init__(self, engine: hooks.Engine, layout: Layout) -> None:
        self.engine = engine
        self.system = System()
        self._layout = layout
        self.attach()

    def attach(self) -> None:
        """Find the state of the engine, which was opened just now."""
        engine, layout = self.engine, self._layout
        own = engine.own_memory()
        (cpu,) = struct.unpack_from("<Q", own, layout.cpu_pointer)
        start = cpu + layout.state
        if hooks.peek(cpu + layout.self_pointer, 8) != struct.pack("<Q", start):
            raise HostError("Unicorn's CPU state is not where it was measured", "report this as a bug")
        self._cpu = cpu
        self._start = start
        self._q = hooks.words(start, "uint64_t")
        self._d = hooks.words(start, "uint32_t")
        self._hflags = layout.hflags // 4
        self._segments = layout.segments
        self._latch = hooks.words(start + layout.latch, "int32_t")
        self._error_code = hooks.words(start + layout.error_code, "uint32_t")
        self._is_software = hooks.words(start + layout.is_software, "uint32_t")
        engine.watch_state(start, RFLAGS_OFFSET, layout.hflags, cpu + layout.halted)
        take_over(engine, cpu, layout.stop_slots)
        self._guest = layout.guest
        self._b = hooks.words(start, "uint8_t")
        for word, number in WORDS.items():
            self._q[layout.guest.features // 8 + number] = offered(*word)
        self.system.attach(engine.handle, cpu, start, cr4_bits=CR4_BITS)

    # General registers

    def general(self, number: int) -> int:
        return int(self._q[number])

    def set_general(self, number: int, value: int) -> None:
        self._q[number] = value

    @property
    def rip(self) -> int:
        return int(self._q[16])

    @rip.setter
    def rip(self, value: int) -> None:
        self._q[16] = value

    @property
    def flags(self) -> int:
        # Some lazily evaluated flags leave operand bits above the flags.
        return self.engine.read(r.RFLAGS) & r.RFLAGS_BITS | 2

    @flags.setter
    def flags(self, value: int) -> None:
        self.engine.write(r.RFLAGS, value & r.RFLAGS_BITS | 2)

    # Modes

    @property
    def cpl(self) -> int:
        return int(self._d[self._hflags]) & _CPL

    @property
    def long_mode(self) -> bool:
        """IA-32e mode is active (EFER.LMA), 64-bit or compatibility."""
        return bool(self._d[self._hflags] & _LMA)

    @property
    def code64(self) -> bool:
        return bool(self._d[self._hflags] & _CS64)

    @property
    def shadow(self) -> bool:
        """Interrupts are held back for one instruction, after STI or a load of SS."""
        return bool(self._d[self._hflags] & _INHIBIT)

    @shadow.setter
    def shadow(self, value: bool) -> None:
        self._d[self._hflags] = self._d[self._hflags] & ~_INHIBIT | (_INHIBIT if value else 0)

    # Exceptions

    @property
    def error_code(self) -> int:
        return int(self._error_code[0])

    @property
    def is_software(self) -> bool:
        """The exception came from INT n, INT3 or INTO, and RIP is already behind it."""
        return bool(self._is_software[0])

    def clear_latch(self) -> None:
        """Tell the engine that its exception has been dealt with, else the next one counts as nested in it."""
        self._latch[0] = -1

    # Segments and tables

    def segment(self, number: int) -> Segment:
        at = (self._segments + SEGMENT_SIZE * number) // 4
        d = self._d
        return Segment(int(d[at]), int(d[at + 2]) | int(d[at + 3]) << 32, int(d[at + 4]), int(d[at + 5]))

    @property
    def places(self) -> Places:
        """Where the engine keeps this state; until it is opened again."""
        start, bases = self._start, self._start + self._segments + 8
        return Places(
            self._cpu,
            start,
            start + self._guest.control,
            start + 4 * self._hflags,
            tuple(bases + SEGMENT_SIZE * number for number in range(len(r.SEGMENTS))),
        )

    def set_segment(self, number: int, value: Segment) -> None:
        """Load hidden part and all; ``refresh`` afterwards."""
        at = (self._segments + SEGMENT_SIZE * number) // 4
        d = self._d
        d[at], d[at + 2], d[at + 3] = value.selector, value.base & 0xFFFFFFFF, value.base >> 32
        d[at + 4], d[at + 5] = value.limit, value.flags

    def refresh(self) -> None:
        """Derive the flags that depend on the segments; ends an interrupt shadow and the wait for a data breakpoint."""
        flags = int(self._d[self._hflags]) & ~(_CPL | _INHIBIT | _CS32 | _SS32 | _ADDSEG | _STEP | _CS64)
        code, stack = self.segment(r.CS), self.segment(r.SS)
        flags |= stack.dpl
        if flags & _LMA and code.flags & DESC_L:
            flags |= _CS32 | _SS32 | _CS64
        else:
            flags |= _CS32 if code.flags & DESC_B else 0
            flags |= _SS32 if stack.flags & DESC_B else 0
            simple = not self.engine.read(r.CR0) & r.CR0_PE or not code.flags & DESC_B or self.flags & r.VM
            if simple or stack.base or self.segment(r.DS).base or self.segment(r.ES).base:
                flags |= _ADDSEG
        self._d[self._hflags] = flags

    def _structure(self, register: int) -> tuple[int, int, int, int]:
        selector, base, limit, flags = struct.unpack("<H6xQII", self.engine.read_bytes(register, 24))
        return selector, base, limit, flags

    def table(self, register: int) -> Table:
        _, base, limit, _ = self._structure(register)
        return Table(base, limit)

    def set_table(self, register: int, value: Table) -> None:
        self.engine.write_bytes(register, struct.pack("<H6xQII", 0, value.base, value.limit, 0))

    def system_segment(self, register: int) -> Segment:
        """LDTR or TR."""
        selector, base, limit, flags = self._structure(register)
        return Segment(selector, base, limit, flags)

    def set_system_segment(self, register: int, value: Segment) -> None:
        data = struct.pack("<H6xQII", value.selector, value.base, value.limit, value.flags)
        self.engine.write_bytes(register, data)

    # Model-specific registers

    def msr(self, number: int) -> int:
        (value,) = struct.unpack("<8xQ", self.engine.read_bytes(r.MSR, 16, struct.pack("<I4xQ", number, 0)))
        return int(value)

    def set_msr(self, number: int, value: int) -> None:
        self.engine.write_bytes(r.MSR, struct.pack("<I4xQ", number, value))

    # Registers that only the guest can reach

    def outside_context(self) -> memoryview:
        """Registers (MTRRs, machine check) that Unicorn's own contexts leave out; meaningful for this engine only."""
        begin, end = self._guest.not_in_context
        return hooks.view(self._start + begin, end - begin)

    @property
    def xcr0(self) -> int:
        return int(self._q[self._guest.xcr0 // 8])

    @xcr0.setter
    def xcr0(self, value: int) -> None:
        self._q[self._guest.xcr0 // 8] = value

    @property
    def pkru(self) -> int:
        return int(self._d[self._guest.pkru // 4])

    @pkru.setter
    def pkru(self, value: int) -> None:
        """The caller drops cached translations of addresses: the rights of pages change with it."""
        self._d[self._guest.pkru // 4] = value

    @property
    def task_priority(self) -> int:
        """CR8."""
        return int(self._b[self._guest.task_priority])

    @task_priority.setter
    def task_priority(self, value: int) -> None:
        self._b[self._guest.task_priority] = value
