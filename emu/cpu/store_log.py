"""Whether translated code can write the log of stores with the Unicorn that is installed: found out by trying.

The log depends on names and habits of Unicorn's code generator (``engine/store_log.h``). So a small guest that stores
in all the ways there are is run twice on a scratch CPU: its translated code writes the log, then Unicorn's hooks do.
"""

from __future__ import annotations

import mmap
import struct
from functools import cache
from typing import TYPE_CHECKING

from emu.cpu.cpu import Cpu
from emu.cpu.crossing import next_page
from emu.cpu.engine.hooks import address_of
from emu.cpu.engine.layout import layout
from emu.cpu.engine.trace import Entry, Tracer
from emu.cpu.sites import LONGEST, Site, find_site, find_sites
from emu.entry import Long64
from emu.memory import GuestMemory, Region

if TYPE_CHECKING:
    from types import TracebackType

_SIZE = 0x10000
_TABLES, _CODE, _LOGGED, _LOGGED_SIZE = 0x1000, 0x6000, 0x8000, 0x2000
# Mapped as they are, but 0xA000 and 0xB000 are the logged pages again, in the other order.
_ALIASES = {0xA: 0x9000, 0xB: 0x8000}
_PROGRAM = bytes.fromhex(
    "bf00800000"  # mov edi, 0x8000
    "48b88877665544332211"  # mov rax, 0x1122334455667788
    "8807 66894702 894704 48894708"  # mov [rdi], al; mov [rdi+2], ax; mov [rdi+4], eax; mov [rdi+8], rax
    "488987fd0f0000 488987fd2f0000"  # mov [rdi+0xffd], rax; mov [rdi+0x2ffd], rax
    "0f38f14740"  # movbe [rdi+0x40], eax
    "66480f6ec0 f30f7f4750 f30f7f87fb0f0000"  # movq xmm0, rax; movdqu [rdi+0x50], xmm0; movdqu [rdi+0xffb], xmm0
    "480fc34770"  # movnti [rdi+0x70], rax
    "0fae8700020000"  # fxsave [rdi+0x200]
    "f0480fc18788000000 f0480fb18f90000000"  # lock xadd [rdi+0x88], rax; lock cmpxchg [rdi+0x90], rcx
    "660fae7740 0faebf00300000 0faef8"  # clwb [rdi+0x40]; clflush [rdi+0x3000]; sfence
    "488da790010000 50"  # lea rsp, [rdi+0x190]; push rax
    "b905000000 4881c700040000 f3aa"  # mov ecx, 5; add rdi, 0x400; rep stosb
    "488904250078000048890425fc7f0000"  # mov [0x7800], rax; mov [0x7ffc], rax
    "f4"
)


@cache
def is_available() -> bool:
    """In a few milliseconds, once per process."""
    layout()  # which opens an engine, and the scratch CPU's must be the last
    with _Scratch() as scratch:
        if not scratch.tracer.learn_code_generator():
            return False
        written = scratch.log(by_hooks=False)
    with _Scratch() as scratch:
        return written is not None and written == scratch.log(by_hooks=True)


class _Scratch:
    """A CPU about to run the program, and what is told to its tracer."""

    readonly = False

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self.address, self.size, self.view = address_of(self._memory), _SIZE, memoryview(self._memory)
        self._fill()
        regions = GuestMemory()
        self.cpu = Cpu(regions)
        regions.add(Region(0, _SIZE, self, name="scratch"))
        self.tracer = tracer = Tracer(self.cpu.engine, self.cpu.places)
        tracer.before_hooks = self.cpu.watch_blocks
        tracer.find_site = self._find_site
        tracer.on_new_block = self._look_at_code
        tracer.next_page = lambda pc, address: next_page(self.cpu, pc, address)
        tracer.add_region(_LOGGED, _LOGGED_SIZE, self.address + _LOGGED, logged=True)
        tracer.add_region(0, _LOGGED, self.address, logged=False)
        tracer.cover(_LOGGED, _LOGGED_SIZE)

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cpu.close()
        self.tracer.close()
        self.view.release()

    def _fill(self) -> None:
        for level in range(3):
            struct.pack_into("<Q", self._memory, _TABLES + 0x1000 * level, _TABLES + 0x1000 * (level + 1) | 3)
        pages = [_ALIASES.get(page, page << 12) | 3 for page in range(_SIZE >> 12)]
        struct.pack_into(f"<{len(pages)}Q", self._memory, _TABLES + 0x3000, *pages)
        self._memory[_CODE : _CODE + len(_PROGRAM)] = _PROGRAM

    def _find_site(self, pc: int) -> Site | None:
        return find_site(self._memory[pc : pc + LONGEST], pc, 64)

    def _look_at_code(self, address: int, size: int) -> None:
        self.tracer.set_sites(address, size, find_sites(self._memory[address : address + size], address, 64))

    def log(self, *, by_hooks: bool) -> list[Entry] | None:
        """What the program does; None where the log cannot be written so."""
        if self.tracer.record(by_hooks=by_hooks) == by_hooks:
            return None
        self.cpu.enter(Long64(_CODE, 0x7800, 0, _TABLES))
        self.cpu.run()
        failure = self.tracer.take_failure()
        if failure is not None:
            raise failure
        return list(self.tracer.entries())
