"""What the guest's code says: the text of an instruction."""

from __future__ import annotations

from emu.cpu import Cpu
from emu.cpu.sites import describe_instruction
from emu.errors import UsageError

_X86_LONGEST = 15


def instruction_at(cpu: Cpu, pc: int) -> str:
    """The text of the instruction at ``pc``; empty where its code cannot be read any more."""
    for length in (_X86_LONGEST, 1):
        try:
            code = cpu.read_linear(pc, length)
        except UsageError:
            continue
        return describe_instruction(code, pc, cpu.mode)
    return ""
