"""What the guest's code says: the text of an instruction, and which one is being executed."""

from __future__ import annotations

from emu.cpu import Cpu
from emu.cpu.sites import describe_instruction, port_write
from emu.errors import UsageError
from emu.units import PAGE

_X86_LONGEST = 15
_LOOKED_THROUGH = 256


def writes_to_port(cpu: Cpu) -> int:
    """The instruction that writes to a port now. The engine stands at it or at one before it, in the same block."""
    at = cpu.rip
    for length in (_LOOKED_THROUGH, PAGE - at % PAGE):
        try:
            return port_write(cpu.read_linear(at, length), at, cpu.mode) or at
        except UsageError:
            continue
    return at


def instruction_at(cpu: Cpu, pc: int) -> str:
    """The text of the instruction at ``pc``; empty where its code cannot be read any more."""
    for length in (_X86_LONGEST, 1):
        try:
            code = cpu.read_linear(pc, length)
        except UsageError:
            continue
        return describe_instruction(code, pc, cpu.mode)
    return ""
