"""Two translations of the same code, side by side: of whole blocks, and of single instructions for a debugger.

The library looks code that it has translated up by a number of the CPU's, too, which is for machines whose CPUs differ
(``cluster_index``); emu's have one kind. The number lies before the word that HLT sets. What it does is seen by
experiment: with another number, code that was changed behind the library's back is translated anew, and with the first
one the old translation is still there.
"""

from __future__ import annotations

import mmap
import struct
from functools import cache

from emu.cpu.engine import hooks, library
from emu.cpu.engine.layout import layout
from emu.cpu.registers import GENERAL, ICELAKE_SERVER
from emu.cpu.state import CpuState

_UNASSIGNED = 0xFFFFFFFF
_CODE = 0x1000


class _NoPorts:
    def port_read(self, port: int, size: int) -> int:
        return 0

    def port_write(self, port: int, size: int, value: int) -> None:
        pass


@cache
def universe() -> int:
    """The number's offset in the CPU object; 0 in a library that does not use it so. Measured once per process."""
    place = layout().halted - 4
    engine = library.open_engine(ICELAKE_SERVER, _NoPorts())
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    try:
        engine.map(0, len(memory), hooks.address_of(memory))
        state = CpuState(engine, layout())
        number = hooks.words(state.places.cpu + place, "uint32_t")

        def run(value: int) -> int:
            memory[_CODE : _CODE + 6] = b"\xb8" + struct.pack("<I", value) + b"\xf4"  # mov eax, value; hlt
            engine.run(_CODE)
            return engine.read(GENERAL["rax"])

        try:
            if number[0] != _UNASSIGNED or run(1) != 1:
                return 0
            number[0] = 1
            other = run(2)
            number[0] = _UNASSIGNED
            return place if (other, run(3)) == (2, 1) else 0
        finally:
            state.system.detach()
    finally:
        engine.close()
        memory.close()
