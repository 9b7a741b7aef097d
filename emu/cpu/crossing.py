"""Where a store that crosses a page goes on.

Unicorn announces such a store once, with the physical address of its first byte. The page that follows in linear memory
can be anywhere in physical memory, so the linear address is needed: it is found from what the instruction stores
through, and checked against the page tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from emu.cpu.sites import memory_operand
from emu.errors import UsageError
from emu.units import PAGE, U64_MAX

if TYPE_CHECKING:
    from emu.cpu.cpu import Cpu

_X86_LONGEST = 15
# What instructions without a memory operand store through, the likely ones first: stack, string, frame.
_IMPLICIT = ("rsp", "rdi", "rbp", "rbx")


def next_page(cpu: Cpu, pc: int, address: int) -> int | None:
    """The guest-physical address of the next page of a store by the instruction at ``pc`` whose first byte is at
    guest-physical ``address``; None where it cannot be told.
    """
    if not cpu.paging_enabled:
        return address + PAGE & -PAGE
    for anchor in _anchors(cpu, pc):
        # A piece of a long operand, or a push, lies in the anchor's page or in one beside it.
        for page in (anchor & -PAGE, (anchor & -PAGE) + PAGE, (anchor & -PAGE) - PAGE):
            linear = page + address % PAGE & U64_MAX
            if cpu.translate(linear) == address:
                return cpu.translate((linear & -PAGE) + PAGE & U64_MAX)
    return None


def _anchors(cpu: Cpu, pc: int) -> Iterator[int]:
    """Linear addresses that the instruction may store at or near."""
    code = b""
    for length in (_X86_LONGEST, PAGE - pc % PAGE):
        try:
            code = cpu.read_linear(pc, min(length, _X86_LONGEST))
            break
        except UsageError:
            continue
    site = memory_operand(code, pc, cpu.mode)
    if site is not None:
        yield cpu.linear_address(site)
    general = cpu.registers()
    segments = cpu.segment("ss").base, cpu.segment("es").base
    for name in _IMPLICIT:
        yield general[name]
        if cpu.mode != 64:
            yield from (general[name] + base & 0xFFFFFFFF for base in segments)
