"""Stops between basic blocks only.

Unicorn's translated code looks for a stop request at the start of each block, which is right, and once more after every
memory access inside a block, which is not: it leaves there with the registers of the middle and RIP of the start, so
that going on executes half a block twice. A stop from another thread, or from an I/O callback that is followed by a
memory access in the same block, meets that second check sooner or later. (Unicorn 2.1.3 and 2.1.4, x86;
``check_exit_request`` in its generator of memory accesses.)

The generator itself has a flag that leaves the second check out, made for Arm's IT blocks. This module finds the flag's
place in the engine structure by experiment, as ``layout`` does for the CPU state. Less code per memory access is a
welcome side effect.
"""

from __future__ import annotations

import mmap

from emu.cpu.engine import hooks
from emu.cpu.registers import GENERAL, RIP
from emu.errors import HostError

# out 80h, al; mov al, [rbx]; inc ecx; jmp +0; hlt. The stop asked for in OUT must be taken at HLT, with RCX = 1.
_PROGRAM = b"\xe6\x80\x8a\x03\xff\xc1\xeb\x00\xf4"
_START = 0x1000
_CANDIDATES = (b"\0\0\0\1\0\0\0\0", b"\0\1\0\1\0\0\0\0")
_END = _START + len(_PROGRAM) - 1


def find(engine: hooks.Engine, memory: mmap.mmap) -> int:
    """Offset of the flag in the engine structure of the scratch ``engine``, whose OUT asks for a stop.

    ``memory`` is mapped at guest-physical 0. HostError unless exactly one place behaves as the flag.
    """
    memory[_START : _START + len(_PROGRAM)] = _PROGRAM
    found = [place for place in _candidates(engine.own_memory()) if _is_flag(engine, place)]
    if len(found) != 1:
        raise HostError(
            f"this build of Unicorn cannot be told to stop between blocks only ({len(found)} places fit)",
            "install the release of unicorn that emu pins",
        )
    return found[0]


def _candidates(structure: bytes) -> list[int]:
    """Third of four booleans in an aligned word: two that are off or on, the flag, off, and "initialised", on."""
    words = (structure[at : at + 8] for at in range(0, len(structure) - 7, 8))
    return [8 * number + 2 for number, word in enumerate(words) if word in _CANDIDATES]


def _is_flag(engine: hooks.Engine, place: int) -> bool:
    flag = hooks.view(engine.handle + place, 1)
    flag[0] = 1
    engine.flush()
    engine.write(GENERAL["rcx"], 0)
    engine.write(GENERAL["rbx"], 0)
    engine.run(_START)
    engine.take_stop()
    flag[0] = 0
    return engine.read(RIP) == _END and engine.read(GENERAL["rcx"]) == 1
