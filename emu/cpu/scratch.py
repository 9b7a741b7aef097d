"""A small 64-bit machine without devices, on which habits of the Unicorn that is installed are found out by trying."""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING

from emu.cpu.cpu import Cpu
from emu.cpu.engine.hooks import address_of
from emu.cpu.engine.trace import Tracer
from emu.entry import Long64
from emu.memory import GuestMemory, Region

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_SIZE = 0x10000
_TABLES, CODE, _STACK = 0x1000, 0x6000, 0x7800
TRACED, TRACED_SIZE = 0x8000, 0x2000
"""The memory that the tracer logs."""
# Mapped as they are, but 0xA000 and 0xB000 are the traced pages again, in the other order.
_ALIASES = {0xA: 0x9000, 0xB: 0x8000}


class Scratch:
    """A CPU about to run ``program``, and its ``tracer``. A context manager."""

    readonly = False

    def __init__(self, program: bytes) -> None:
        self.memory = mmap.mmap(-1, _SIZE)
        self.address, self.size, self.view = address_of(self.memory), _SIZE, memoryview(self.memory)
        for level in range(3):
            struct.pack_into("<Q", self.memory, _TABLES + 0x1000 * level, _TABLES + 0x1000 * (level + 1) | 3)
        pages = [_ALIASES.get(page, page << 12) | 3 for page in range(_SIZE >> 12)]
        struct.pack_into(f"<{len(pages)}Q", self.memory, _TABLES + 0x3000, *pages)
        self.memory[CODE : CODE + len(program)] = program
        regions = GuestMemory()
        self.cpu = Cpu(regions)
        regions.add(Region(0, _SIZE, self, name="scratch"))
        self.tracer = Tracer(self.cpu.engine, self.cpu.places)
        self.tracer.add_region(TRACED, TRACED_SIZE, self.address + TRACED, logged=True)
        self.tracer.add_region(0, TRACED, self.address, logged=False)
        self.tracer.cover(TRACED, TRACED_SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cpu.close()
        self.tracer.close()
        self.view.release()

    def execute(self) -> None:
        """Run the program, which ends with HLT."""
        self.cpu.enter(Long64(CODE, _STACK, 0, _TABLES))
        self.cpu.run()
