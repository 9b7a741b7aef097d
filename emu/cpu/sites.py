"""Finds the instructions that decide what survives a power failure: flushes, fences, locked and non-temporal ones.

Also those whose one store reaches Unicorn's callbacks in several pieces (more than 8 bytes, REP), so that the pieces
can be told from several stores. Instruction semantics: Intel SDM volume 2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cache
from typing import Any

from emu.cpu import registers as r
from emu.units import U64_MAX


class SiteKind(enum.IntFlag):
    """What an instruction does. WIDE alone: a plain store in several pieces."""

    WIDE = 0
    FLUSH = 1
    FENCE = 2
    LOCKED = 4
    NON_TEMPORAL = 8
    REP = 16
    CAS = 32
    CAS_PAIR = 64


@dataclass(frozen=True, slots=True)
class Site:
    """One such instruction. The effective address of its memory operand (of ``size`` bytes) is that of
    ``base + index * scale + displacement``, cut to ``address_mask``, plus the base of ``segment``; registers by
    Unicorn's numbers, 0 for none.
    """

    pc: int
    length: int
    kind: SiteKind
    mnemonic: str
    size: int = 0
    base: int = 0
    index: int = 0
    scale: int = 1
    displacement: int = 0
    segment: int = 0
    address_mask: int = U64_MAX

    @property
    def detail(self) -> int:
        """Which flush (clflush, clflushopt, clwb) or fence (sfence, mfence, locked) it is, from 0."""
        return _DETAILS.get(self.mnemonic, 2 if self.kind & SiteKind.LOCKED else 0)


_DETAILS = {"clflushopt": 1, "clwb": 2, "mfence": 1}
_PLAIN = {
    "clflush": SiteKind.FLUSH,
    "clflushopt": SiteKind.FLUSH,
    "clwb": SiteKind.FLUSH,
    "sfence": SiteKind.FENCE,
    "mfence": SiteKind.FENCE,
    "movnti": SiteKind.NON_TEMPORAL,
    "movntq": SiteKind.NON_TEMPORAL,
    "movntdq": SiteKind.NON_TEMPORAL,
    "movntps": SiteKind.NON_TEMPORAL,
    "movntpd": SiteKind.NON_TEMPORAL,
    "maskmovq": SiteKind.NON_TEMPORAL,
    "maskmovdqu": SiteKind.NON_TEMPORAL,
}
# Unicorn executes these in helper functions, which store in pieces and without telling where the program counter is.
_IN_PIECES = frozenset(
    ("cmpxchg8b", "cmpxchg16b", "enter", "fbstp", "fnsave", "fnstenv", "fstp", "fxsave", "fxsave64", "xsave")
) | frozenset(("xsave64", "xsaveopt", "xsaveopt64"))
_STRING_STORES = ("movs", "stos", "ins")
_WIDE_OPERANDS = ("xmmword ptr", "xword ptr")
_SEGMENTS = {"fs": r.FS_BASE, "gs": r.GS_BASE}


@cache
def _decoder(bits: int, detail: bool) -> Any:
    import capstone

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    decoder = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    decoder.detail = detail
    return decoder


def find_sites(code: bytes, address: int, bits: int = 64) -> list[Site]:
    """The instructions that matter in ``code``, which executes at linear ``address`` with ``bits``-wide code."""
    sites = []
    for at, length, mnemonic, operands in _decoder(bits, False).disasm_lite(code, address):
        kind = _kind(mnemonic, operands)
        if kind is not None:
            offset = at - address
            sites.append(_locate(code[offset : offset + length], at, bits, kind))
    return sites


def describe_instruction(code: bytes, address: int, bits: int = 64) -> str:
    """The text of the first instruction in ``code``; empty when it is none."""
    first = next(_decoder(bits, False).disasm_lite(code, address, 1), None)
    return f"{first[2]} {first[3]}".strip() if first else ""


def _kind(mnemonic: str, operands: str) -> SiteKind | None:
    *prefixes, name = mnemonic.split()
    kind = _PLAIN.get(name)
    if "lock" in prefixes or (name == "xchg" and "[" in operands):
        kind = SiteKind.LOCKED
        if name == "cmpxchg":
            kind |= SiteKind.CAS
        elif name.startswith("cmpxchg"):
            kind |= SiteKind.CAS_PAIR
    elif kind is None and prefixes and name.startswith(_STRING_STORES) and operands.split(",")[0].endswith("di]"):
        kind = SiteKind.REP
    elif kind is None and (name in _IN_PIECES or operands.startswith(_WIDE_OPERANDS)):
        kind = SiteKind.WIDE
    return kind


def _locate(code: bytes, address: int, bits: int, kind: SiteKind) -> Site:
    """Decode one instruction fully, for its memory operand."""
    instruction = next(_decoder(bits, True).disasm(code, address))
    mnemonic = instruction.mnemonic.split()[-1]
    mask = (1 << 8 * instruction.addr_size) - 1
    # 3 is Capstone's number of the memory operand type.
    operand = next((operand for operand in instruction.operands if operand.type == 3), None)
    if operand is None:
        return Site(address, len(code), kind, mnemonic, address_mask=mask)
    memory = operand.mem
    displacement = memory.disp & U64_MAX
    base = memory.base
    if base and instruction.reg_name(base) in ("rip", "eip"):
        displacement, base = address + len(code) + memory.disp & U64_MAX, 0
    segment = _SEGMENTS.get(instruction.reg_name(memory.segment) if memory.segment else "", 0)
    return Site(
        address, len(code), kind, mnemonic, operand.size, base, memory.index, memory.scale, displacement, segment, mask
    )
