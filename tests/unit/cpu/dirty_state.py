"""A guest program that changes every register it can, and one that shows them all."""

from __future__ import annotations

import struct

from emu.cpu import registers as r
from emu.cpu.saved import MSR_LISTS, MSRS
from tests.unit.cpu.cpu_harness import LTR, USER_DATA

SCRATCH, DUMP, OTHER_TABLES = 0x120000, 0x140000, 0x20000
_U64 = (1 << 64) - 1
_CR4 = r.CR4_PSE | r.CR4_PAE | r.CR4_OSFXSR | r.CR4_OSXMMEXCPT | r.CR4_PKE | 0x400C8  # OSXSAVE, PGE, MCE, DE
_ALL_MSRS = (r.MSR_FS_BASE, r.MSR_GS_BASE, *MSRS.values(), *(n for numbers in MSR_LISTS.values() for n in numbers))


def load(register: int, value: int) -> bytes:
    """MOV of a 64-bit value into a general register, by its number."""
    return bytes([0x48 | register >> 3, 0xB8 | register & 7]) + struct.pack("<Q", value)


def write_msr(number: int, value: int) -> bytes:
    return b"\xb9%b\xb8%b\xba%b\x0f\x30" % tuple(
        struct.pack("<I", word) for word in (number, value & 0xFFFFFFFF, value >> 32)
    )


def _write_every_msr() -> bytes:
    """All that the CPU is known to have, each another value, and whatever answers among the low numbers."""
    known = {number: 0x1_0000_0001 + 0x1000 * place for place, number in enumerate(_ALL_MSRS)}
    known |= dict.fromkeys(r.MACHINE_CHECK_BANKS[::4], _U64) | {r.MSR_MCG_CTL: 0}  # these take all ones and zero only
    others = (number for number in range(0x800) if number not in known)
    return b"".join(
        [*(write_msr(number, 0x7777_7777_8888_8888) for number in others)]
        + [write_msr(number, value) for number, value in known.items()]
    )


def _xmm(number: int) -> bytes:
    """The same quadword in both halves of an XMM register: MOVQ, PUNPCKLQDQ."""
    low = number & 7
    move = bytes([0x66, 0x4C if number > 7 else 0x48, 0x0F, 0x6E, 0xC0 | low << 3])
    double = bytes([0x66, 0x45 if number > 7 else 0x40, 0x0F, 0x6C, 0xC0 | low << 3 | low])
    return load(0, 0x0123_4567_89AB_CDEF + number) + move + double


def change_everything() -> bytes:
    """Needs the harness's tables; page tables are copied to ``OTHER_TABLES`` first, to change CR3 as well."""
    code = load(6, 0x8000) + load(7, OTHER_TABLES) + b"\xb9\x00\x02\x00\x00\xf3\x48\xa5" + load(0, OTHER_TABLES)
    code += b"\x0f\x22\xd8"  # mov cr3, rax
    code += load(0, _CR4) + b"\x0f\x22\xe0" + load(0, 0x130000) + b"\x0f\x22\xd0"  # CR4, CR2
    code += load(0, r.CR0_PG | r.CR0_NE | r.CR0_ET | r.CR0_MP | r.CR0_PE | 0x40000) + b"\x0f\x22\xc0"  # CR0: AM, no WP
    code += b"\x31\xc9\x31\xd2\xb8\x03\x02\x00\x00\x0f\x01\xd1"  # XCR0
    code += b"\x31\xc9\x31\xd2\xb8\x54\x55\x00\x00\x0f\x01\xef"  # PKRU
    code += b"\xb8\x0a\x00\x00\x00\x44\x0f\x22\xc0"  # CR8
    for n in range(4):
        code += load(0, 0x123400 + 16 * n) + bytes([0x0F, 0x23, 0xC0 | n << 3])  # DR0 to DR3
    code += load(0, 0xFFFF0FF3) + b"\x0f\x23\xf0" + load(0, 0x400) + b"\x0f\x23\xf8"  # DR6, DR7
    # fninit; fldpi; fld1; fld m64; fstp m64; fldz; fldcw; ldmxcsr
    code += load(3, SCRATCH) + b"\xdb\xe3\xd9\xeb\xd9\xe8\xdd\x43\x08\xdd\x1b\xd9\xee"
    code += b"\xc7\x03\x7f\x0a\x00\x00\xd9\x2b\xc7\x03\x80\x3f\x00\x00\x0f\xae\x13"
    code += b"".join(_xmm(n) for n in range(16)) + LTR
    code += b"\x66\xb8" + struct.pack("<H", USER_DATA) + b"\x8e\xd8\x8e\xc0\x8e\xe0\x8e\xe8\x31\xc0\x0f\x00\xd0"
    code += _write_every_msr() + b"\x0f\x01\xf8"  # swapgs
    code += b"".join(load(n, 0x0123_4567_89AB_CDEF * (n + 3) & _U64) for n in range(16) if n != 4)
    return code + b"\xf9\xfd"  # stc; std


def show_everything() -> bytes:
    """Stores all registers at ``DUMP``; general registers and flags first, before it uses any."""
    code = b"\x48\x89\x04\x25" + struct.pack("<I", DUMP)  # mov [DUMP], rax
    code += b"\x9c\x58\x48\x89\x04\x25" + struct.pack("<I", DUMP + 8)  # pushfq; pop rax
    for n in range(1, 16):
        code += bytes([0x48 | n >> 3 << 2, 0x89, 0x04 | (n & 7) << 3, 0x25]) + struct.pack("<I", DUMP + 8 + 8 * n)
    code += b"\xfc" + load(7, DUMP + 0x100)  # cld; mov rdi
    code += b"\x48\x0f\xae\x07\xd9\xb7\x00\x02\x00\x00" + load(7, DUMP + 0x400)  # fxsave64; fnstenv [rdi + 200h]
    for read in (b"\x0f\x20\xc0", b"\x0f\x20\xd0", b"\x0f\x20\xd8", b"\x0f\x20\xe0", b"\x44\x0f\x20\xc0"):
        code += read + b"\x48\xab"  # mov rax, crN; stosq
    for n in (0, 1, 2, 3, 6, 7):
        code += bytes([0x0F, 0x21, 0xC0 | n << 3]) + b"\x48\xab"
    for read in (b"\x31\xc9\x0f\x01\xd0", b"\x31\xc9\x0f\x01\xee"):  # xgetbv; rdpkru
        code += read + b"\xab\x89\xd0\xab"
    for sreg in range(6):
        code += bytes([0x8C, 0xC0 | sreg << 3]) + b"\x48\xab"
    for store in (b"\x0f\x01\x07", b"\x0f\x01\x0f", b"\x0f\x00\x07", b"\x0f\x00\x0f"):  # sgdt, sidt, sldt, str
        code += store + b"\x48\x83\xc7\x10"
    for number in (r.MSR_EFER, *_ALL_MSRS):
        code += b"\xb9" + struct.pack("<I", number) + b"\x0f\x32\xab\x89\xd0\xab"
    return code
