"""Delivery without leaving the engine (``delivery.h``): told where things are, and tried, on a scratch engine.

The rules are in C; what they rest on, is seen here: that the descriptor table registers lie behind the task register,
and that Unicorn goes on with what the callback of an exception left. Where that is not so, nothing is lost but time:
every exception is left to ``emu.cpu.delivery``.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping

from emu.cpu.engine import hooks
from emu.cpu.registers import GDTR, GENERAL, IDTR, RIP

_TABLES = ((GDTR, 0x7AB1_1000, 0x5A11), (IDTR, 0x7AB2_2000, 0x5A22))
# In the two pages of the scratch engine: descriptor table, gates, stack; the program at the start of the second.
_GDT, _IDT, _STACK, _HANDLER, _CODE = 0x100, 0x200, 0x800, 0x900, 0x1000
_UD, _SELECTOR = 6, 8
_CODE64 = 0x00AF_9B00_0000_FFFF
_PROGRAM = b"\x0f\x0b"  # ud2
_AFTER = b"\xb0\x5a\xf4"  # mov al, 5Ah; hlt


def _structure(base: int, limit: int) -> bytes:
    return struct.pack("<H6xQII", 0, base, limit, 0)


def _tables_are_there(engine: hooks.Engine, observe: Callable[[], bytes], segments: int, size: int) -> bool:
    """GDTR and IDTR are the two behind the eight segment registers, which have ``size`` bytes each."""
    for register, base, limit in _TABLES:
        engine.write_bytes(register, _structure(base, limit))
    state = observe()
    return all(
        struct.unpack_from("<QI", state, segments + size * (8 + number) + 8) == (base, limit)
        for number, (_, base, limit) in enumerate(_TABLES)
    )


def _goes_on(engine: hooks.Engine, memory: mmap.mmap, latch: int) -> bool:
    """UD2 is followed by its handler, and the engine comes out at the handler's end only."""
    memory[_GDT : _GDT + 16] = struct.pack("<QQ", 0, _CODE64)
    gate = struct.pack("<HHBBHII", _HANDLER, _SELECTOR, 0, 0x8E, 0, 0, 0)
    memory[_IDT + 16 * _UD : _IDT + 16 * _UD + 16] = gate
    memory[_HANDLER : _HANDLER + len(_AFTER)] = _AFTER
    memory[_CODE : _CODE + len(_PROGRAM)] = _PROGRAM
    engine.write_bytes(GDTR, _structure(_GDT, 15))
    engine.write_bytes(IDTR, _structure(_IDT, 16 * (_UD + 1) - 1))
    engine.write(GENERAL["rsp"], _STACK)
    engine.write(GENERAL["rax"], 0)
    engine.add_ram(0, len(memory), hooks.address_of(memory))
    engine.flush()
    engine.run(_CODE)
    frame = struct.unpack("<Q", memory[_STACK - 40 : _STACK - 32])
    seen = engine.reason, engine.read(GENERAL["rax"]), engine.read(RIP), engine.read(GENERAL["rsp"])
    return seen == (0, 0x5A, _HANDLER + len(_AFTER), _STACK - 40) and frame == (_CODE,)


def examine(
    engine: hooks.Engine,
    memory: mmap.mmap,
    observe: Callable[[], bytes],
    places: Mapping[str, int],
    segment_size: int,
) -> None:
    """Use it if it works. ``places`` in the CPU state, ``observe`` shows that; ``memory`` is mapped at 0."""
    hooks.know_delivery(places, works=True)
    works = _tables_are_there(engine, observe, places["segments"], segment_size)
    works = works and _goes_on(engine, memory, places["latch"])
    hooks.know_delivery(places, works=works)
