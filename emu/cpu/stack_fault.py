"""Tells #SS from #GP: an address that is not canonical, which the engine reports without saying through which segment.

Intel SDM volume 3, section 6.15, "Interrupt 12": in 64-bit code it is #SS where the stack segment is used: by PUSH,
CALL and their like, and by operands whose base is RSP or RBP without FS or GS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.cpu import registers as r
from emu.units import U64_MAX

if TYPE_CHECKING:
    from emu.cpu.sites import Site

_WORD = 8
_PUSHES = frozenset(("push", "pushfq", "call", "lcall", "enter"))
_POPS = frozenset(("pop", "popfq", "ret", "retf", "retfq", "iretq", "iretd", "iret"))
_STACK_BASES = (r.GENERAL["rsp"], r.GENERAL["rbp"])


def is_stack_fault(code: bytes, address: int, read: Callable[[int], int], canonical: Callable[[int], bool]) -> bool:
    """Whether #GP(0), raised by the 64-bit instruction that ``code`` begins with at ``address``, has to be #SS(0).

    ``read`` gives the general register of a number of Unicorn's.
    """
    from emu.cpu import sites  # Capstone is slow to import, and most guests raise no #GP

    words = set(sites.describe_instruction(code, address).split()[:2])  # there may be a prefix
    pops = bool(words & _POPS)
    implicit = None
    if words & _PUSHES:
        implicit = read(r.GENERAL["rsp"]) - _WORD & U64_MAX
    elif pops or "leave" in words:
        implicit = read(r.GENERAL["rsp" if pops else "rbp"])
    stack_is_wrong = implicit is not None and not _fits(implicit, _WORD, canonical)
    operand = sites.memory_operand(code, address, 64)
    if operand is None or operand.segment or (pops and stack_is_wrong):  # POP reads the stack first, others last
        return stack_is_wrong
    if _fits(_effective(operand, read), operand.size, canonical):
        return stack_is_wrong
    return operand.base in _STACK_BASES


def _effective(operand: Site, read: Callable[[int], int]) -> int:
    index = read(operand.index) * operand.scale if operand.index else 0
    base = read(operand.base) if operand.base else 0
    return base + index + operand.displacement & operand.address_mask


def _fits(address: int, size: int, canonical: Callable[[int], bool]) -> bool:
    return canonical(address) and canonical(address + max(size, 1) - 1 & U64_MAX)
