"""Whether translated code can write the log of stores with the Unicorn that is installed: found out by trying.

The log depends on names and habits of Unicorn's code generator (``engine/store_log.h``). So a small guest that stores
in all the ways there are is run twice on a scratch CPU: its translated code writes the log, then Unicorn's hooks do.
"""

from __future__ import annotations

from functools import cache

from emu.cpu.crossing import next_page
from emu.cpu.engine.layout import layout
from emu.cpu.engine.trace import Entry
from emu.cpu.scratch import Scratch
from emu.cpu.sites import LONGEST, Site, find_site, find_sites

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
    with _Writer(_PROGRAM) as writer:
        if not writer.tracer.learn_code_generator():
            return False
        written = writer.log(by_hooks=False)
    with _Writer(_PROGRAM) as writer:
        return written is not None and written == writer.log(by_hooks=True)


class _Writer(Scratch):
    """Tells what the program stores."""

    def __init__(self, program: bytes) -> None:
        super().__init__(program)
        self.tracer.before_hooks = self.cpu.watch_blocks
        self.tracer.find_site = self._find_site
        self.tracer.on_new_block = self._look_at_code
        self.tracer.next_page = lambda pc, address: next_page(self.cpu, pc, address)

    def _find_site(self, pc: int) -> Site | None:
        return find_site(self.memory[pc : pc + LONGEST], pc, 64)

    def _look_at_code(self, address: int, size: int) -> None:
        self.tracer.set_sites(address, size, find_sites(self.memory[address : address + size], address, 64))

    def log(self, *, by_hooks: bool) -> list[Entry] | None:
        """What the program does; None where the log cannot be written so."""
        if self.tracer.record(by_hooks=by_hooks) == by_hooks:
            return None
        self.execute()
        failure = self.tracer.take_failure()
        if failure is not None:
            raise failure
        return list(self.tracer.entries())
