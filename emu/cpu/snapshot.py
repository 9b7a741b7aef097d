"""Going back to an earlier moment of the same CPU, fast: Unicorn's own context, and translated code stays.

``Cpu.save`` is for other processes and other releases; this is for one process that runs from the same moment many
times. The caller puts guest memory back, too.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from emu.cpu.cpu import Cpu
from emu.cpu.engine import library
from emu.errors import HostError

# uc_ctl: UC_CTL_TLB_FLUSH as a write without arguments (unicorn/unicorn.h).
_FLUSH_TLB = 11 | 1 << 30


@cache
def _function(name: str, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(library.function(name))


def _check(error: int, doing: str) -> None:
    if error:
        raise HostError(f"Unicorn cannot {doing}: {library.describe(error)}", "see that unicorn 2.1 is installed whole")


class Snapshot:
    """A moment of a stopped CPU. ``close`` it before the CPU."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._uc = ctypes.c_void_p(cpu.engine)
        self._context = ctypes.c_void_p()
        allocate = _function("uc_context_alloc", ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
        _check(allocate(self._uc, ctypes.byref(self._context)), "make a context")
        save = _function("uc_context_save", ctypes.c_void_p, ctypes.c_void_p)
        _check(save(self._uc, self._context), "save a context")
        self._rip = cpu._state.rip
        self._clock = cpu._engine.clock
        self._halted = cpu._halted
        self._random = cpu._state.system.random
        self._rest = cpu._state.outside_context()
        self._rest_then = bytes(self._rest)
        self._flush_tlb = _function("uc_ctl", ctypes.c_void_p, ctypes.c_int)
        self._restore = _function("uc_context_restore", ctypes.c_void_p, ctypes.c_void_p)

    def rewind(self) -> None:
        """Go back. Translated code stays: whoever puts back memory must see to code that differs from what it was."""
        cpu = self._cpu
        cpu._state.system.breakpoints_off()
        _check(self._restore(self._uc, self._context), "restore a context")
        cpu._state.system.breakpoints_on()
        cpu._state.system.random = self._random
        self._rest[:] = self._rest_then
        _check(self._flush_tlb(self._uc, _FLUSH_TLB), "drop translated addresses")
        cpu._state.rip = self._rip
        cpu._engine.clock = self._clock
        cpu._engine.take_stop()
        cpu._halted = self._halted
        cpu._dead = None
        cpu.last_exception = None

    def close(self) -> None:
        _function("uc_context_free", ctypes.c_void_p)(self._context)
