"""Stops that lose nothing.

Unicorn runs no callback while its stop request is set, yet goes on with the block (``whole_blocks``) or with half of it
(without): SYSCALL does nothing, RDTSC shows the host's clock, a flush is not seen. So that request is set only where no
guest code follows. One such place is behind the loop that executes blocks, where Unicorn calls functions out of the
CPU's class, a table in the CPU object: ``cpu_exec_enter`` and ``cpu_exec_exit``, side by side. Our own are put there by
``hooks``, which leaves the loop with Unicorn's ``cpu_exit``: it ends a chain of blocks and no callback. All three are
found by their names in the library, and what they do by running a program.
"""

from __future__ import annotations

import mmap
import struct

from emu.cpu.engine import hooks, library
from emu.cpu.registers import GENERAL, RIP
from emu.errors import HostError

_EXEC_ENTER, _EXEC_EXIT, _CPU_EXIT = "x86_cpu_exec_enter_x86_64", "x86_cpu_exec_exit_x86_64", "cpu_exit"
_SEARCH, _CLASS = 1 << 16, 1 << 10

# out 80h, al; rdtsc; mov [rbx], al; out 80h, al; syscall. The stop asked for in OUT must be taken behind SYSCALL.
_PROGRAM = b"\xe6\x80\x0f\x31\x88\x03\xe6\x80\x0f\x05"
_START, _DATA = 0x1000, 0x800
_TIME = 0x55


def _refusal(what: str) -> HostError:
    return HostError(
        f"this build of Unicorn cannot be stopped without losing what the guest does ({what})",
        "install the release of unicorn that emu pins",
    )


def _pair() -> bytes:
    return struct.pack("<QQ", library.function(_EXEC_ENTER), library.function(_EXEC_EXIT))


def find(cpu: int, state: int) -> int:
    """Offset of the two pointers in the CPU object at host address ``cpu``, whose architectural state is at ``state``.

    HostError unless they are there, in the class that the object's head points to.
    """
    # Behind the object may lie what was left of another one; inside, nothing is from before.
    slots = hooks.peek(cpu, _SEARCH).find(_pair())
    if slots < 0:
        raise _refusal("its functions are not found")
    classes = [
        word for (word,) in struct.iter_unpack("<Q", hooks.peek(cpu, state & -8)) if 0 < cpu + slots - word < _CLASS
    ]
    if len(classes) != 1:
        raise _refusal(f"{len(classes)} classes fit")
    return slots


def take_over(engine: hooks.Engine, cpu: int, slots: int) -> None:
    """Let ``engine``, opened just now, call our functions; ``slots`` comes from ``find`` on another engine."""
    if hooks.peek(cpu + slots, 16) != _pair():
        raise _refusal("its functions are not where they were measured")
    engine.take_over(cpu, cpu + slots, library.function(_CPU_EXIT))


def check(engine: hooks.Engine, memory: mmap.mmap) -> None:
    """See on the scratch ``engine``, whose OUT asks for a stop, that each callback behind a stop request is called.

    ``memory`` is mapped at guest-physical 0, and blocks are whole. HostError if one was not.
    """
    memory[_START : _START + len(_PROGRAM)] = _PROGRAM
    memory[_DATA] = 0
    engine.flush()
    engine.write(GENERAL["rbx"], _DATA)
    engine.set_time(_TIME)
    engine.run(_START)
    stopped = engine.take_stop()
    seen = engine.reason & hooks.SYSCALL, engine.read(GENERAL["rax"]), memory[_DATA], engine.read(RIP)
    if not stopped or seen != (hooks.SYSCALL, _TIME + 1, _TIME + 1, _START + len(_PROGRAM)):
        raise _refusal("a callback behind a stop request was not called")
