"""Going back to an earlier moment of the same CPU, fast: Unicorn's own context, and translated code stays.

``Cpu.save`` is for other processes and other releases; this is for one process that runs from the same moment many
times. The caller puts guest memory back, too.
"""

from __future__ import annotations

from emu.cpu.cpu import Cpu
from emu.cpu.engine.context import Context


class Snapshot:
    """A moment of a stopped CPU. ``close`` it before the CPU."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._context = Context(cpu.engine)
        self._rip = cpu._state.rip
        self._clock = cpu._engine.clock
        self._halted = cpu._halted
        self._random = cpu._state.system.random
        self._rest = cpu._state.outside_context()
        self._rest_then = bytes(self._rest)

    def rewind(self) -> None:
        """Go back. Translated code stays: whoever puts back memory must see to code that differs from what it was."""
        cpu = self._cpu
        cpu._state.system.breakpoints_off()
        self._context.restore()
        cpu._state.system.breakpoints_on()
        cpu._state.system.random = self._random
        self._rest[:] = self._rest_then
        cpu._state.rip = self._rip
        cpu._engine.clock = self._clock
        cpu._engine.take_stop()
        cpu._halted = self._halted
        cpu._dead = None
        cpu._debug_stop = None
        cpu._engine.hold(False)
        cpu.last_exception = None

    def close(self) -> None:
        self._context.close()
