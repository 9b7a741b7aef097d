"""Delivers exceptions and interrupts through the guest's IDT, which Unicorn leaves to its user.

Protected mode and IA-32e mode, as Intel SDM volume 3, chapter 6 says: gate checks, stack switch (TSS, IST), frame,
error code, and the rules for faults during delivery (double and triple fault). Task gates, virtual-8086 and real mode
are not supported: an exception there cannot be delivered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from emu.cpu import registers as r
from emu.cpu.memory import PhysicalMemory
from emu.cpu.paging import PageFault, Paging
from emu.cpu.state import DESC_B, DESC_G, DESC_L, DESC_P, DESC_S, TYPE_CODE, TYPE_CONFORMING, CpuState, Segment
from emu.enumeration import Enum
from emu.record import NamedTuple

_U64 = (1 << 64) - 1


class Source(Enum):
    """Where an event comes from; it decides about privilege checks and the EXT bit of error codes."""

    EXCEPTION = "exception"
    SOFTWARE = "software"
    EXTERNAL = "external"


class Fault(Exception):
    """The CPU raises ``vector``. ``error_code`` is None for the vectors that have none."""

    def __init__(self, vector: int, error_code: int | None = None, cr2: int | None = None) -> None:
        super().__init__(vector, error_code)
        self.vector = vector
        self.error_code = error_code
        self.cr2 = cr2


class TripleFault(Exception):
    """Not even the double fault could be delivered."""


class _Gate(NamedTuple):
    selector: int
    offset: int
    ist: int
    kind: int
    dpl: int
    present: bool

    @property
    def clears_if(self) -> bool:
        return not self.kind & 1


class Delivery:
    """Works on one stopped CPU; all or nothing: a fault during delivery leaves the state as it was."""

    def __init__(self, state: CpuState, memory: PhysicalMemory) -> None:
        self._state = state
        self._memory = memory
        self.on_fault: Callable[[int], None] | None = None
        self.on_push: Callable[[int, int], None] | None = None

    def paging(self) -> Paging:
        read = self._state.engine.read
        return Paging(read(r.CR0), read(r.CR3), read(r.CR4), self._state.long_mode)

    def deliver(self, fault: Fault, source: Source) -> None:
        """Enter the guest's handler for ``fault``, or for what its delivery raises in turn; TripleFault if none.

        ``on_fault`` first hears of the address of an instruction that raised an exception, ``on_push`` of the linear
        address and the size of the frame that was stored.
        """
        if source is Source.EXCEPTION and self.on_fault is not None:
            self.on_fault(self._state.rip)
        while True:
            try:
                self._enter(fault, source)
                return
            except PageFault as exc:
                second = Fault(r.PF, exc.error_code, exc.address)
            except Fault as exc:
                second = exc
            if source is Source.SOFTWARE:
                self._state.rip -= self._length_before_rip(fault.vector)
            fault = self._combine(fault, second, source)
            source = Source.EXCEPTION
            if fault.cr2 is not None:
                self._state.engine.write(r.CR2, fault.cr2)

    def _length_before_rip(self, vector: int) -> int:
        """Of the interrupt instruction just executed: INT3 and INTO have one byte, INT n two."""
        at = self._state.segment(r.CS).base + self._state.rip - 1
        try:
            opcode = self.paging().read(self._memory, at, 1, mark=False)
        except PageFault:  # the guest unmapped the page after its code was translated
            opcode = b""
        return 1 if (vector, opcode) in ((r.BP, b"\xcc"), (r.OF, b"\xce")) else 2

    @staticmethod
    def _combine(first: Fault, second: Fault, source: Source) -> Fault:
        if source is not Source.EXCEPTION:
            return second
        if first.vector == r.DF:
            raise TripleFault
        nested = first.vector in r.CONTRIBUTORY and second.vector in r.CONTRIBUTORY
        in_page_fault = first.vector == r.PF and second.vector in r.CONTRIBUTORY | {r.PF}
        return Fault(r.DF, 0, second.cr2) if nested or in_page_fault else second

    def _enter(self, fault: Fault, source: Source) -> None:
        state = self._state
        if not state.engine.read(r.CR0) & r.CR0_PE or state.flags & r.VM:
            raise TripleFault
        paging = self.paging()
        external = 0 if source is Source.SOFTWARE else 1
        gate = self._gate(paging, fault.vector, source, external)
        code = self._code_segment(paging, gate.selector, external, long=paging.long)
        cpl = state.cpl
        to = cpl if code.flags & TYPE_CONFORMING else code.dpl
        flags = state.flags
        if source is Source.EXCEPTION and fault.vector in r.FAULTS:
            flags |= r.RF  # the handler may return to the instruction, past its breakpoint (SDM volume 3, 18.3.1.1)
        enter = self._enter_long if paging.long else self._enter_protected
        enter(paging, fault, flags, gate, code, to, cpl, external)

    def _push(self, paging: Paging, address: int, frame: bytes, *, user: bool) -> None:
        paging.write(self._memory, address, frame, user=user)
        if self.on_push is not None:
            self.on_push(address, len(frame))

    # Gates and descriptors

    def _gate(self, paging: Paging, vector: int, source: Source, external: int) -> _Gate:
        table = self._state.table(r.IDTR)
        size = 16 if paging.long else 8
        error = vector << 3 | 2
        if vector * size + size - 1 > table.limit:
            raise Fault(r.GP, error | external)
        raw = paging.read(self._memory, table.base + vector * size, size)
        low, selector, ist, attributes, middle = struct.unpack_from("<HHBBH", raw)
        high = struct.unpack_from("<I", raw, 8)[0] if paging.long else 0
        gate = _Gate(
            selector,
            low | middle << 16 | high << 32,
            ist & 7 if paging.long else 0,
            attributes & 0x1F,
            attributes >> 5 & 3,
            bool(attributes & 0x80),
        )
        if gate.kind not in ((0xE, 0xF) if paging.long else (0x6, 0x7, 0xE, 0xF)):
            raise Fault(r.GP, error | external)
        if source is Source.SOFTWARE and gate.dpl < self._state.cpl:
            raise Fault(r.GP, error)
        if not gate.present:
            raise Fault(r.NP, error | external)
        return gate

    def _descriptor(self, paging: Paging, selector: int, vector: int, external: int) -> Segment:
        error = selector & 0xFFFC | external
        if selector & 4:
            local = self._state.system_segment(r.LDTR)
            base, limit = local.base, local.limit
        else:
            table = self._state.table(r.GDTR)
            base, limit = table.base, table.limit
        if (selector | 7) > limit:
            raise Fault(vector, error)
        low, high = struct.unpack("<II", paging.read(self._memory, base + (selector & ~7), 8))
        size = low & 0xFFFF | high & 0xF0000
        if high & DESC_G:
            size = size << 12 | 0xFFF
        return Segment(selector, low >> 16 | (high & 0xFF) << 16 | high & 0xFF000000, size, high)

    def _code_segment(self, paging: Paging, selector: int, external: int, *, long: bool) -> Segment:
        if not selector & 0xFFFC:
            raise Fault(r.GP, external)
        error = selector & 0xFFFC | external
        code = self._descriptor(paging, selector, r.GP, external)
        if code.flags & (DESC_S | TYPE_CODE) != DESC_S | TYPE_CODE or code.dpl > self._state.cpl:
            raise Fault(r.GP, error)
        if not code.flags & DESC_P:
            raise Fault(r.NP, error)
        if long and (not code.flags & DESC_L or code.flags & DESC_B):
            raise Fault(r.GP, error)
        return code

    # 64-bit

    def _enter_long(
        self, paging: Paging, fault: Fault, flags: int, gate: _Gate, code: Segment, to: int, cpl: int, external: int
    ) -> None:
        state = self._state
        old_rsp = state.general(4)
        if gate.ist:
            rsp = self._long_stack(paging, 0x24 + 8 * (gate.ist - 1), external)
        elif to < cpl:
            rsp = self._long_stack(paging, 4 + 8 * to, external)
        else:
            rsp = old_rsp
        rsp &= ~15
        frame = [state.rip, state.segment(r.CS).selector, flags, old_rsp, state.segment(r.SS).selector]
        if fault.error_code is not None:
            frame.insert(0, fault.error_code)
        rsp = rsp - 8 * len(frame) & _U64
        if not paging.canonical(rsp) or not paging.canonical(rsp + 8 * len(frame) - 1 & _U64):
            raise Fault(r.SS_FAULT, external)
        if not paging.canonical(gate.offset):
            raise Fault(r.GP, external)
        self._push(paging, rsp, struct.pack(f"<{len(frame)}Q", *frame), user=to == 3)
        if to < cpl:
            state.set_segment(r.SS, Segment(to, flags=to << 13))
        self._jump(gate, code, to, rsp, flags)

    def _long_stack(self, paging: Paging, offset: int, external: int) -> int:
        task = self._state.system_segment(r.TR)
        if offset + 7 > task.limit:
            raise Fault(r.TS, task.selector & 0xFFFC | external)
        (rsp,) = struct.unpack("<Q", paging.read(self._memory, task.base + offset, 8))
        if not paging.canonical(rsp):
            raise Fault(r.SS_FAULT, external)
        return int(rsp)

    # 32-bit and 16-bit gates

    def _enter_protected(
        self, paging: Paging, fault: Fault, flags: int, gate: _Gate, code: Segment, to: int, cpl: int, external: int
    ) -> None:
        state = self._state
        old_esp, old_stack = state.general(4) & 0xFFFFFFFF, state.segment(r.SS)
        frame = [state.rip & 0xFFFFFFFF, state.segment(r.CS).selector, flags]
        if fault.error_code is not None:
            frame.insert(0, fault.error_code)
        if to < cpl:
            stack, esp = self._protected_stack(paging, to, external)
            frame += [old_esp, old_stack.selector]
        else:
            stack, esp = old_stack, old_esp
        if gate.offset > code.limit:
            raise Fault(r.GP, external)
        wide = gate.kind & 8
        data = b"".join(struct.pack("<I" if wide else "<H", word & (0xFFFFFFFF if wide else 0xFFFF)) for word in frame)
        mask = 0xFFFFFFFF if stack.flags & DESC_B else 0xFFFF
        esp = esp & ~mask | esp - len(data) & mask
        self._push(paging, stack.base + (esp & mask) & 0xFFFFFFFF, data, user=to == 3)
        if to < cpl:
            state.set_segment(r.SS, stack)
        self._jump(gate, code, to, esp, flags)

    def _protected_stack(self, paging: Paging, to: int, external: int) -> tuple[Segment, int]:
        task = self._state.system_segment(r.TR)
        wide = task.flags >> 8 & 8
        offset, size = (8 * to + 4, 6) if wide else (4 * to + 2, 4)
        if offset + size - 1 > task.limit:
            raise Fault(r.TS, task.selector & 0xFFFC | external)
        esp, selector = struct.unpack("<IH" if wide else "<HH", paging.read(self._memory, task.base + offset, size))
        error = selector & 0xFFFC | external
        if not selector & 0xFFFC:
            raise Fault(r.TS, external)
        stack = self._descriptor(paging, selector, r.TS, external)
        writable_data = stack.flags & (DESC_S | TYPE_CODE | 0x200) == DESC_S | 0x200
        if selector & 3 != to or stack.dpl != to or not writable_data:
            raise Fault(r.TS, error)
        if not stack.flags & DESC_P:
            raise Fault(r.SS_FAULT, error)
        return stack, esp

    def _jump(self, gate: _Gate, code: Segment, to: int, rsp: int, flags: int) -> None:
        state = self._state
        flags &= ~(r.TF | r.NT | r.RF | r.VM)
        state.flags = flags & ~r.IF if gate.clears_if else flags
        state.set_segment(r.CS, Segment(code.selector & ~3 | to, code.base, code.limit, code.flags))
        state.set_general(4, rsp)
        state.rip = gate.offset if gate.kind & 8 else gate.offset & 0xFFFF
        state.refresh()
