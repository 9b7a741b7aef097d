"""Random programs of every kind of instruction that stores to memory, as flat 64-bit images.

Encodings are written out (Intel SDM volume 2), so that no assembler is needed and no encoding is left to its taste.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from emu.units import GIB, MIB, PAGE

BASE = 4 * GIB
SIZE = 2 << 20
TABLES = SIZE
"""Offset of the page tables in an NVDIMM that has some, behind what random programs store to."""
PRESENT, LARGE = 3, 0x80
# rdi and r13: the NVDIMM; rsi: data in RAM; rsp: whatever the program does with it. XSAVE must be switched on.
_START = (
    b"\x48\xbf" + struct.pack("<Q", BASE)
    + b"\x49\xbd" + struct.pack("<Q", BASE)
    + b"\x48\xbe" + struct.pack("<Q", 0x200000)
    + b"\x0f\x20\xe0\x0d\x00\x06\x04\x00\x0f\x22\xe0"  # cr4 |= OSFXSR, OSXMMEXCPT, OSXSAVE
    + b"\x31\xc9\x31\xd2\xb8\x03\x00\x00\x00\x0f\x01\xd1"  # xsetbv: x87 and SSE
    + b"\xdb\xe3\xd9\xeb\xd9\xe8"  # fninit; fldpi; fld1
)  # fmt: skip
_HALT = b"\xf4"


def _plain(
    prefix: str, opcode: str, reg: int | None = None, imm: int = 0, align: int = 1
) -> tuple[bytes, bytes, int | None, int, int]:
    return bytes.fromhex(prefix), bytes.fromhex(opcode), reg, imm, align


# Prefixes before REX, opcode behind it, the register field (None: any of rax to rdi but rsp, rsi and rdi), bytes of
# immediate, alignment that the operand must have.
_WITH_OPERAND = [
    *(_plain(p, o, r, i) for p, o, r, i in (
        ("", "88", None, 0), ("66", "89", None, 0), ("", "89", None, 0), ("", "c6", 0, 1), ("66", "c7", 0, 2),
        ("", "c7", 0, 4), ("", "00", None, 0), ("", "01", None, 0), ("66", "29", None, 0), ("", "11", None, 0),
        ("", "80", 6, 1), ("", "83", 1, 1), ("", "fe", 0, 0), ("", "ff", 1, 0), ("", "f7", 2, 0), ("", "f6", 3, 0),
        ("", "c1", 0, 1), ("", "d1", 5, 0), ("", "d3", 4, 0), ("", "0fa4", None, 1), ("", "0fad", None, 0),
        ("", "0f94", 0, 0), ("", "0f38f1", None, 0), ("66", "0f38f1", None, 0), ("", "86", None, 0),
        ("", "87", None, 0), ("66", "87", None, 0), ("", "0fc0", None, 0), ("", "0fc1", None, 0),
        ("", "0fb0", None, 0), ("", "0fb1", None, 0), ("66", "0fb1", None, 0), ("", "0fba", 5, 1), ("", "0fba", 6, 1),
        ("", "0fba", 7, 1), ("", "0fc3", None, 0), ("", "8c", 3, 0), ("", "8f", 0, 0), ("66", "8f", 0, 0),
        ("", "0f11", None, 0), ("66", "0f11", None, 0), ("f2", "0f11", None, 0), ("f3", "0f11", None, 0),
        ("", "0f13", None, 0), ("66", "0f13", None, 0), ("", "0f17", None, 0), ("66", "0f17", None, 0),
        ("f3", "0f7f", None, 0), ("66", "0fd6", None, 0), ("66", "0f7e", None, 0), ("66", "0f3a14", None, 1),
        ("66", "0f3a15", None, 1), ("66", "0f3a16", None, 1), ("66", "0f3a17", None, 1),
        ("", "0fae", 3, 0), ("", "d9", 2, 0), ("", "dd", 2, 0), ("", "d9", 7, 0), ("", "dd", 7, 0),
        ("", "d9", 6, 0), ("66", "d9", 6, 0), ("", "dd", 6, 0), ("66", "dd", 6, 0), ("", "0f01", 0, 0),
        ("", "0f01", 1, 0), ("", "0f01", 4, 0), ("", "0f00", 0, 0), ("", "0f00", 1, 0), ("", "0fc7", 1, 0),
        ("", "0fae", 7, 0), ("66", "0fae", 7, 0), ("66", "0fae", 6, 0),
    )),
    *(_plain("f0", o, r, i) for o, r, i in (
        ("00", None, 0), ("01", None, 0), ("80", 4, 1), ("83", 0, 1), ("ff", 0, 0), ("fe", 1, 0), ("f7", 3, 0),
        ("0fc0", None, 0), ("0fc1", None, 0), ("0fb0", None, 0), ("0fb1", None, 0), ("0fba", 5, 1), ("0fba", 6, 1),
        ("0fba", 7, 1), ("86", None, 0), ("87", None, 0), ("0fc7", 1, 0),
    )),
    *(_plain("66f0", o, r, i) for o, r, i in (("01", None, 0), ("0fc1", None, 0), ("0fb1", None, 0), ("87", None, 0))),
    *(_plain(p, o, r, 0, a) for p, o, r, a in (
        ("", "0f29", None, 16), ("66", "0f29", None, 16), ("66", "0f7f", None, 16), ("", "0f2b", None, 16),
        ("66", "0f2b", None, 16), ("66", "0fe7", None, 16), ("", "0fae", 0, 16), ("", "0fae", 4, 64),
        ("", "0fae", 6, 64),
    )),
]  # fmt: skip
_X87_STORES = [  # after a value was pushed, which they pop
    (0xDB, 7), (0xD9, 3), (0xDD, 3), (0xDB, 3), (0xDF, 3), (0xDF, 7), (0xDF, 6), (0xDB, 1), (0xDD, 1),
]  # fmt: skip
_MMX_STORES = [b"\x0f\x7f", b"\x0f\xe7", b"\x0f\x7e"]
_FREE = (0, 1, 2, 3, 5)


class Programs:
    """Random programs by seed; every one is the same on every run."""

    def __init__(self, seed: int, *, pushes_flags: bool = True) -> None:
        self._dice = random.Random(seed)
        self._pushes_flags = pushes_flags

    def program(self, length: int, *, cr3: int | None = None) -> bytes:
        """``length`` random steps and HLT; with ``cr3`` under these page tables."""
        load = b"" if cr3 is None else b"\x48\xb8" + struct.pack("<Q", cr3) + b"\x0f\x22\xd8"
        return load + _START + b"".join(self._step() for _ in range(length)) + _HALT

    def _step(self) -> bytes:
        kinds: list[Callable[[], bytes]] = [self._store] * 12 + [
            self._values, self._x87, self._mmx, self._string, self._string, self._stack, self._masked, self._other,
        ]  # fmt: skip
        return self._dice.choice(kinds)()

    def _offset(self, align: int = 1) -> int:
        """Near the border of a unit, a line or a page, or anywhere."""
        dice = self._dice
        near = dice.choice((0, 8, 64, 4096, 4096)) * dice.randrange(1, 8) + dice.randrange(-17, 17)
        return (near if dice.random() < 0.8 else dice.randrange(SIZE - 8192)) // align * align

    def _store(self) -> bytes:
        dice = self._dice
        prefix, opcode, reg, imm, align = dice.choice(_WITH_OPERAND)
        if reg is None:
            reg = dice.choice(_FREE)
        rex = bytes([0x48 if dice.random() < 0.4 and imm != 2 else 0x40])  # wide operands have no 2-byte immediate
        if opcode == b"\x0f\xc7" and rex == b"\x48":
            align = 16  # cmpxchg16b
        modrm = bytes([0x87 | reg << 3]) + struct.pack("<i", self._offset(align))
        return prefix + rex + opcode + modrm + dice.randbytes(imm)

    def _values(self) -> bytes:
        """New random values in a general and an XMM register."""
        dice = self._dice
        number = dice.choice(_FREE)
        load = bytes([0x48, 0xB8 | number]) + dice.randbytes(8)
        return load + bytes([0x66, 0x48, 0x0F, 0x6E, 0xC0 | dice.randrange(8) << 3 | number])

    def _x87(self) -> bytes:
        opcode, reg = self._dice.choice(_X87_STORES)
        return b"\xdb\xe3\xd9\xeb" + bytes([opcode, 0x87 | reg << 3]) + struct.pack("<i", self._offset())

    def _mmx(self) -> bytes:
        load = b"\x48\x0f\x6e\xc0"  # movq mm0, rax
        return load + self._dice.choice(_MMX_STORES) + b"\x87" + struct.pack("<i", self._offset()) + b"\x0f\x77"

    def _masked(self) -> bytes:
        """MASKMOVDQU and MASKMOVQ store through RDI."""
        code = self._dice.choice((b"\x66\x0f\xf7\xc1", b"\x48\x0f\x6e\xc8\x48\x0f\x6e\xc0\x0f\xf7\xc1\x0f\x77"))
        return self._at_rdi(code)

    def _at_rdi(self, code: bytes) -> bytes:
        there = b"\x49\x8d\xbd" + struct.pack("<i", 4096 + self._offset())  # lea rdi, [r13 + offset]
        return there + code + b"\x4c\x89\xef" + b"\x48\xbe" + struct.pack("<Q", 0x200000)  # rdi and rsi as before

    def _string(self) -> bytes:
        dice = self._dice
        operation = dice.choice((b"\xaa", b"\xab", b"\x48\xab", b"\x66\xab", b"\xa4", b"\xa5", b"\x48\xa5", b"\x66\xa5",
                                 b"\x6c", b"\x6d", b"\x66\x6d"))  # fmt: skip
        repeat = b""
        if dice.random() < 0.7:
            repeat = b"\xb9" + struct.pack("<I", dice.randrange(0, 70))
            operation = dice.choice((b"\xf3", b"\xf3", b"\xf2")) + operation
        port = b"\x66\xba\x80\x00"  # mov dx, 80h: an unclaimed port reads all ones
        return self._at_rdi(port + repeat + (b"\xfd" if dice.random() < 0.4 else b"\xfc") + operation + b"\xfc")

    def _stack(self) -> bytes:
        dice = self._dice
        there = b"\x49\x8d\xad" + struct.pack("<i", 12288 + self._offset())  # lea rbp, [r13 + offset]
        there += b"\x49\x8d\xa5" + struct.pack("<i", 8192 + self._offset())  # lea rsp, [r13 + offset]
        pushes = (b"\x50", b"\x66\x50", b"\x68\x01\x02\x03\x04", b"\x6a\x80", b"\x9c", b"\x66\x9c", b"\x0f\xa0",
                  b"\xff\xb7\x40\x00\x00\x00", b"\xe8\x00\x00\x00\x00", b"\xc8\x20\x00\x00\xc9", b"\xc8\x10\x00\x03",
                  b"\xff\x37", b"\x66\xc8\x20\x00\x02")  # fmt: skip
        chosen = [dice.choice(pushes) for _ in range(dice.randrange(1, 4))]
        if not self._pushes_flags:  # FS in their place
            chosen = [b"\x0f\xa0" if push.endswith(b"\x9c") else push for push in chosen]
        return there + b"".join(chosen)

    def _other(self) -> bytes:
        """What stores nothing: fences, the whole cache, conditions."""
        return self._dice.choice((b"\x0f\xae\xf8", b"\x0f\xae\xf0", b"\x0f\xae\xe8", b"\x0f\x09", b"\xf3\x0f\x09",
                                  b"\x0f\xae\xfa", b"\x31\xc0", b"\x0f\x1c\x07", b"\xf9", b"\xeb\x00"))  # fmt: skip


def scattered(dice: random.Random) -> bytes:
    """An NVDIMM with page tables that map the linear addresses of its first half page by page to pages of it and of
    RAM in random order, and 0-1 GiB and the tables themselves as they are.
    """
    content = bytearray(2 * SIZE)
    places = [BASE + at for at in range(0, SIZE, PAGE)] + [8 * MIB + at for at in range(0, SIZE, PAGE)]
    dice.shuffle(places)

    def put(table: int, entries: dict[int, int]) -> None:
        for number, entry in entries.items():
            struct.pack_into("<Q", content, TABLES + table * PAGE + 8 * number, entry)

    def table(number: int) -> int:
        return BASE + TABLES + number * PAGE | PRESENT

    put(0, {0: table(1)})
    put(1, {0: table(2), 3: table(5), 4: table(3)})
    put(2, {number: number << 21 | PRESENT | LARGE for number in range(512)})
    put(3, {0: table(4), 1: BASE + (1 << 21) | PRESENT | LARGE})
    put(4, {number: places[number] | PRESENT for number in range(512)})
    put(5, {511: BASE | PRESENT | LARGE})  # programs that store just below the first page
    return bytes(content)
