"""Finds the instructions that decide what survives a power failure: flushes, fences, locked and non-temporal ones.

Also those whose one store reaches Unicorn's callbacks in several pieces (more than 8 bytes, REP), so that the pieces
can be told from several stores. What an instruction means is in ``instructions``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from emu.cpu import instructions
from emu.cpu import registers as r
from emu.units import U64_MAX


class SiteKind(enum.IntFlag):
    """What an instruction does. WIDE alone: a plain store in several pieces. SPECIAL: see ``SPECIALS``."""

    WIDE = 0
    FLUSH = 1
    FENCE = 2
    LOCKED = 4
    NON_TEMPORAL = 8
    REP = 16
    CAS = 32
    CAS_PAIR = 64
    SPECIAL = 128


UNKNOWN = "unknown"
"""The mnemonic of what Capstone cannot decode, though the engine may execute it."""

PAGING = "paging"
"""The mnemonic of what can change which page tables are in use."""

SPECIALS = (*instructions.WRITE_BACKS, *instructions.DISCARDS, UNKNOWN, PAGING)
"""Instructions that concern the whole cache, those that are not understood, and those that concern all of memory."""


@dataclass(frozen=True, slots=True)
class Site:
    """One such instruction. The effective address of its memory operand (of ``size`` bytes) is that of
    ``base + index * scale + displacement``, cut to ``address_mask``, plus the base of ``segment``, cut to
    ``linear_mask``; registers by Unicorn's numbers, segments by their own (``registers.ES`` ...) plus 1, 0 for none.
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
    linear_mask: int = U64_MAX

    @property
    def detail(self) -> int:
        """Which flush, fence or special instruction it is, from 0; 2 for a locked one."""
        return 2 if self.kind & SiteKind.LOCKED else _DETAILS.get(self.mnemonic, 0)


_DETAILS = {name: number for names in (instructions.LINE_FLUSHES, instructions.FENCES, SPECIALS)
            for number, name in enumerate(names)}  # fmt: skip
_PLAIN = {
    **dict.fromkeys(instructions.LINE_FLUSHES, SiteKind.FLUSH),
    **dict.fromkeys(instructions.FENCES, SiteKind.FENCE),
    **dict.fromkeys(instructions.NON_TEMPORAL, SiteKind.NON_TEMPORAL),
    **dict.fromkeys(SPECIALS, SiteKind.SPECIAL),
}
# Instructions that store in pieces, and those at which Unicorn does not bring the program counter up to date, so that
# their store would count as one of the instruction before. Among them those that mark a descriptor as accessed or a
# task as busy: all that load segment registers.
_IN_PIECES = frozenset(
    ("cmpxchg8b", "cmpxchg16b", "enter", "pushal", "pushaw", "sgdt", "sidt", "insb", "insw", "insd",
     "fxsave", "fxsave64", "xsave", "xsave64", "xsaveopt", "xsaveopt64", "fnsave", "fnstenv", "fnstcw", "fnstsw",
     "fst", "fstp", "fist", "fistp", "fisttp", "fbstp", "movbe", "pextrb", "pextrw", "pextrd", "pextrq", "extractps",
     "bndmov", "bndstx", "lcall", "ljmp", "retf", "retfq", "iret", "iretd", "iretq", "ltr",
     "lds", "les", "lss", "lfs", "lgs")
)  # fmt: skip
_LOADS_OF_SEGMENTS = frozenset(("mov", "pop"))
_MEMORY = 3  # Capstone's number of the memory operand type
_STRING_STORES = ("movs", "stos", "ins")
_WIDE_OPERANDS = ("xmmword ptr", "ymmword ptr", "zmmword ptr", "xword ptr")


@cache
def _decoder(bits: int, detail: bool) -> Any:
    import capstone

    modes = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}
    decoder = capstone.Cs(capstone.CS_ARCH_X86, modes[bits])
    decoder.detail = detail
    return decoder


def find_sites(code: bytes, address: int, bits: int = 64) -> list[Site]:
    """The instructions that matter in ``code``, which executes at linear ``address`` with ``bits``-wide code.

    Where Capstone can decode nothing there is a site of the mnemonic ``UNKNOWN``, and the search goes on behind it.
    """
    return [
        Site(address + offset, length, SiteKind.SPECIAL, name)
        if name in (UNKNOWN, PAGING)
        else _locate(code[offset : offset + length], address + offset, bits, kind, name)
        for offset, length, name, operands in _decode(code, address, bits)
        if (kind := _kind(name, operands)) is not None
    ]


LONGEST = 15
"""Bytes of an instruction, at most."""


def find_site(code: bytes, address: int, bits: int) -> Site | None:
    """As ``find_sites``, of the instruction that ``code`` begins with alone."""
    _, length, name, operands = next(_decode(code, address, bits))
    if name in (UNKNOWN, PAGING):
        return Site(address, length, SiteKind.SPECIAL, name)
    kind = _kind(name, operands)
    return None if kind is None else _locate(code[:length], address, bits, kind, name)


def _decode(code: bytes, address: int, bits: int) -> Iterator[tuple[int, int, str, str]]:
    """Offset, length, mnemonic and operands of each instruction."""
    offset = 0
    while offset < len(code):
        for at, length, mnemonic, operands in _decoder(bits, False).disasm_lite(code[offset:], address + offset):
            offset = at - address + length
            if mnemonic == "wrmsr" or (mnemonic == "mov" and operands.startswith("cr")):
                mnemonic = PAGING
            yield at - address, length, mnemonic, operands
        if offset < len(code):
            name, length = instructions.group_15(code[offset:], bits) or (UNKNOWN, 1)
            yield offset, length, name, ""
            offset += length


def port_write(code: bytes, address: int, bits: int = 64) -> int | None:
    """The address of the first instruction in ``code`` that writes to a port."""
    return next((address + at for at, _, name, _ in _decode(code, address, bits) if name.startswith("out")), None)


def describe_instruction(code: bytes, address: int, bits: int = 64) -> str:
    """The text of the first instruction in ``code``; empty when it is none."""
    first = next(_decoder(bits, False).disasm_lite(code, address, 1), None)
    return f"{first[2]} {first[3]}".strip() if first else ""


def _kind(mnemonic: str, operands: str) -> SiteKind | None:
    *prefixes, name = mnemonic.split() or ("",)
    kind = _PLAIN.get(name)
    if "lock" in prefixes or (name == "xchg" and "[" in operands):
        kind = SiteKind.LOCKED
        if name == "cmpxchg":
            kind |= SiteKind.CAS
        elif name.startswith("cmpxchg"):
            kind |= SiteKind.CAS_PAIR
    elif kind is None and prefixes and name.startswith(_STRING_STORES) and operands.split(",")[0].endswith("di]"):
        kind = SiteKind.REP
    elif kind is None and (name in _IN_PIECES or operands.startswith(_WIDE_OPERANDS) or _loads_segment(name, operands)):
        kind = SiteKind.WIDE
    return kind


def _loads_segment(name: str, operands: str) -> bool:
    far_call = name in ("call", "jmp") and operands.startswith("ptr [")
    return far_call or (name in _LOADS_OF_SEGMENTS and operands.partition(",")[0] in r.SEGMENTS)


def memory_operand(code: bytes, address: int, bits: int) -> Site | None:
    """The first instruction in ``code``, whatever it is, if it has an explicit memory operand."""
    first = next(_decoder(bits, True).disasm(code, address, 1), None)
    if first is None or not any(operand.type == _MEMORY for operand in first.operands):
        return None
    return _locate(code[: first.size], address, bits, SiteKind.WIDE, first.mnemonic)


def _locate(code: bytes, address: int, bits: int, kind: SiteKind, mnemonic: str) -> Site:
    """Decode one instruction fully, for its memory operand."""
    instruction = next(_decoder(bits, True).disasm(code, address), None)
    linear_mask = U64_MAX if bits == 64 else 0xFFFFFFFF
    name = mnemonic.split()[-1]
    if instruction is None:  # a fence that Capstone does not know
        return Site(address, len(code), kind, name, linear_mask=linear_mask)
    mask = (1 << 8 * instruction.addr_size) - 1
    operand = next((operand for operand in instruction.operands if operand.type == _MEMORY), None)
    if operand is None:
        return Site(address, len(code), kind, name, address_mask=mask, linear_mask=linear_mask)
    memory = operand.mem
    displacement = memory.disp & U64_MAX
    base = memory.base
    base_name = instruction.reg_name(base) if base else ""
    if base_name in ("rip", "eip"):
        displacement, base = address + len(code) + memory.disp & U64_MAX, 0
    segment = instruction.reg_name(memory.segment) if memory.segment else ""
    number = _segment(segment, base_name, bits)
    return Site(
        address, len(code), kind, name, operand.size, base, memory.index, memory.scale, displacement, number, mask,
        linear_mask,
    )  # fmt: skip


def _segment(override: str, base: str, bits: int) -> int:
    """The number of the segment of a memory operand, plus 1; in 64-bit code only FS and GS have a base."""
    if bits == 64:
        return list(r.SEGMENTS).index(override) + 1 if override in ("fs", "gs") else 0
    default = "ss" if base in ("ebp", "esp", "bp") else "ds"
    return list(r.SEGMENTS).index(override or default) + 1
