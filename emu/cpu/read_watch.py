"""Whether reads of unknown bytes can be watched by pages with the Unicorn that is installed: found out by trying.

It depends on Unicorn's asking for data breakpoints whenever it caches where a page is (``engine/watched.h``). So a
small guest that loads in all the ways there are, and at last has its page tables' root in watched memory, is run once
on a scratch CPU; what it reads is known.
"""

from __future__ import annotations

import struct
from functools import cache

from emu.cpu.scratch import TRACED, TRACED_SIZE, Scratch

_PROGRAM = bytes.fromhex(
    "bf00800000"  # mov edi, 0x8000
    "c60708 8a07 8b4713"  # mov byte [rdi], 8; mov al, [rdi]; mov eax, [rdi+0x13]
    "488b87fd0f0000 488b87fd2f0000"  # mov rax, [rdi+0xffd]; mov rax, [rdi+0x2ffd]
    "0f38f04740 f30f6f4754"  # movbe eax, [rdi+0x40]; movdqu xmm0, [rdi+0x54]
    "480fc78f00020000"  # cmpxchg16b [rdi+0x200]
    "f0480fc14770 f0480fb18f80000000"  # lock xadd [rdi+0x70], rax; lock cmpxchg [rdi+0x80], rcx
    "488da790010000 58"  # lea rsp, [rdi+0x190]; pop rax
    "b903000000 488db7fe030000 f3a4"  # mov ecx, 3; lea rsi, [rdi+0x3fe]; rep movsb
    "488b0425f8770000"  # mov rax, [0x77f8]
    "b800900000 0f22d8"  # mov eax, 0x9000; mov cr3, rax
    "f4"
)
_ROOT, _NEXT = 0x9000, 0x2003
"""An entry of page tables, and what is in it: where the scratch machine has those of the next level."""
_WHOLE = (1 << 64) - 1


def _bytes(first: int, count: int) -> int:
    return ((1 << 8 * count) - 1) << 8 * first


_READS = {
    0x8000: _bytes(1, 4), 0x8010: _bytes(3, 4), 0x8FF8: _bytes(5, 3), _ROOT: _WHOLE, 0x9FF8: _bytes(5, 3),
    0x8040: _bytes(0, 4),
    0x8050: _bytes(4, 4), 0x8058: _WHOLE, 0x8060: _bytes(0, 4), 0x8070: _WHOLE, 0x8080: _WHOLE, 0x8190: _WHOLE,
    0x8200: _WHOLE, 0x8208: _WHOLE, 0x83F8: _bytes(6, 2), 0x8400: _bytes(0, 1),
}  # fmt: skip
"""What the program reads: that of 0x2FFD goes on in the first page, whose first byte it has stored."""


@cache
def is_available() -> bool:
    """In a few milliseconds, once per process."""
    with _Reader(_PROGRAM) as reader:
        return reader.reads() == _READS


class _Reader(Scratch):
    """Tells what the program reads."""

    def reads(self) -> dict[int, int]:
        """Which bytes of which units the program reads, as masks."""
        self.tracer.watch_pages()
        self.memory[_ROOT : _ROOT + 8] = _NEXT.to_bytes(8, "little")
        self.tracer.set_unknown(range(TRACED, TRACED + TRACED_SIZE, 8))
        self.tracer.restore_unknown()
        self.execute()
        reads: dict[int, int] = {}
        for unit, mask, _ in struct.iter_unpack("<QQQ", self.tracer.reads()):
            reads[unit] = reads.get(unit, 0) | mask
        return reads
