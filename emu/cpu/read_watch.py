"""Whether reads of unknown bytes can be watched by pages with the Unicorn that is installed: found out by trying.

It depends on Unicorn's asking for data breakpoints whenever it caches where a page is (``engine/watched.h``). So a
small guest that loads in all the ways there are is run once on a scratch CPU; what it reads is known.
"""

from __future__ import annotations

import mmap
import struct
from functools import cache
from typing import TYPE_CHECKING

from emu.cpu.cpu import Cpu
from emu.cpu.engine.hooks import address_of
from emu.cpu.engine.trace import Tracer
from emu.entry import Long64
from emu.memory import GuestMemory, Region

if TYPE_CHECKING:
    from types import TracebackType

_SIZE = 0x10000
_TABLES, _CODE, _WATCHED, _WATCHED_SIZE = 0x1000, 0x6000, 0x8000, 0x2000
# Mapped as they are, but 0xA000 and 0xB000 are the watched pages again, in the other order.
_ALIASES = {0xA: 0x9000, 0xB: 0x8000}
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
    "f4"
)
_WHOLE = (1 << 64) - 1


def _bytes(first: int, count: int) -> int:
    return ((1 << 8 * count) - 1) << 8 * first


_READS = {
    0x8000: _bytes(1, 4), 0x8010: _bytes(3, 4), 0x8FF8: _bytes(5, 3), 0x9000: _bytes(0, 5), 0x9FF8: _bytes(5, 3),
    0x8040: _bytes(0, 4),
    0x8050: _bytes(4, 4), 0x8058: _WHOLE, 0x8060: _bytes(0, 4), 0x8070: _WHOLE, 0x8080: _WHOLE, 0x8190: _WHOLE,
    0x8200: _WHOLE, 0x8208: _WHOLE, 0x83F8: _bytes(6, 2), 0x8400: _bytes(0, 1),
}  # fmt: skip
"""What the program reads: that of 0x2FFD goes on in the first page, whose first byte it has stored."""


@cache
def is_available() -> bool:
    """In a few milliseconds, once per process."""
    with _Scratch() as scratch:
        return scratch.reads() == _READS


class _Scratch:
    """A CPU about to run the program, and what is told to its tracer."""

    readonly = False

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self.address, self.size, self.view = address_of(self._memory), _SIZE, memoryview(self._memory)
        for level in range(3):
            struct.pack_into("<Q", self._memory, _TABLES + 0x1000 * level, _TABLES + 0x1000 * (level + 1) | 3)
        pages = [_ALIASES.get(page, page << 12) | 3 for page in range(_SIZE >> 12)]
        struct.pack_into(f"<{len(pages)}Q", self._memory, _TABLES + 0x3000, *pages)
        self._memory[_CODE : _CODE + len(_PROGRAM)] = _PROGRAM
        regions = GuestMemory()
        self.cpu = Cpu(regions)
        regions.add(Region(0, _SIZE, self, name="scratch"))
        self.tracer = tracer = Tracer(self.cpu.engine, self.cpu.places)
        tracer.add_region(_WATCHED, _WATCHED_SIZE, self.address + _WATCHED, logged=True)
        tracer.add_region(0, _WATCHED, self.address, logged=False)
        tracer.cover(_WATCHED, _WATCHED_SIZE)

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cpu.close()
        self.tracer.close()
        self.view.release()

    def reads(self) -> dict[int, int] | None:
        """Which bytes of which units the program reads, as masks; None where somebody else watches."""
        if not self.tracer.watch_pages():
            return None
        self.tracer.set_unknown(range(_WATCHED, _WATCHED + _WATCHED_SIZE, 8))
        self.tracer.restore_unknown()
        self.cpu.enter(Long64(_CODE, 0x7800, 0, _TABLES))
        self.cpu.run()
        reads: dict[int, int] = {}
        for unit, mask, _ in struct.iter_unpack("<QQQ", self.tracer.reads()):
            reads[unit] = reads.get(unit, 0) | mask
        return reads
