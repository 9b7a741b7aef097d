"""SYSCALL and SYSENTER: Unicorn only reports them, so the entry itself is done here (Intel SDM volume 2)."""

from __future__ import annotations

from emu.cpu import registers as r
from emu.cpu.delivery import Fault
from emu.cpu.state import DESC_B, DESC_G, DESC_L, DESC_P, DESC_S, TYPE_CODE, CpuState, Segment

_CODE = DESC_S | DESC_P | DESC_G | TYPE_CODE | 0x300
_DATA = DESC_S | DESC_P | DESC_G | DESC_B | 0x300
_FLAT = 0xFFFFFFFF
_LENGTH = 2


def _enter(state: CpuState, selector: int, *, long: bool) -> None:
    state.set_segment(r.CS, Segment(selector & 0xFFFC, 0, _FLAT, _CODE | (DESC_L if long else DESC_B)))
    state.set_segment(r.SS, Segment((selector & 0xFFFC) + 8, 0, _FLAT, _DATA))
    state.refresh()


def enter_syscall(state: CpuState) -> None:
    """RIP is behind the instruction. Fault #UD unless in 64-bit mode with EFER.SCE set, as on Intel processors."""
    if not state.code64 or not state.msr(r.MSR_EFER) & r.EFER_SCE:
        state.rip -= _LENGTH
        raise Fault(r.UD)
    flags = state.flags
    state.set_general(1, state.rip)
    state.set_general(11, flags & ~r.RF)
    _enter(state, state.msr(r.MSR_STAR) >> 32, long=True)
    state.rip = state.msr(r.MSR_LSTAR)
    state.flags = flags & ~state.msr(r.MSR_FMASK)


def enter_sysenter(state: CpuState) -> None:
    """RIP is behind the instruction. Fault #GP(0) without protected mode or a code segment in IA32_SYSENTER_CS."""
    selector = state.msr(r.MSR_SYSENTER_CS)
    if not state.engine.read(r.CR0) & r.CR0_PE or not selector & 0xFFFC:
        state.rip -= _LENGTH
        raise Fault(r.GP, 0)
    long = state.long_mode
    state.flags &= ~(r.VM | r.IF)
    _enter(state, selector, long=long)
    mask = (1 << 64) - 1 if long else _FLAT
    state.set_general(4, state.msr(r.MSR_SYSENTER_ESP) & mask)
    state.rip = state.msr(r.MSR_SYSENTER_EIP) & mask
