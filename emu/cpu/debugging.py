"""Stops for whoever debugs the guest: breakpoints, steps, and accesses to watched memory.

Each instruction becomes a basic block of its own, which the CPU announces before it begins. So a place in the run has a
number, the same on every run: how many instructions have begun. An instruction that raises a fault has begun, and
begins again when the handler returns to it; REP begins once for each turn, as under the trap flag. A breakpoint at one
of them is met once all the same.

An interrupt or a deadline that is due comes before a breakpoint at the instruction where it is due, and after the
instruction that accessed what is watched. Memory of the guest is not changed, nor can it see any of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from emu.cpu.cpu import Cpu
from emu.cpu.engine import hooks, system
from emu.cpu.stop import Stop, StopKind

READ, WRITE = system.READ, system.WRITE


class Watch(NamedTuple):
    """``size`` bytes from linear ``address``; ``access`` is READ, WRITE or both."""

    address: int
    size: int
    access: int


class Debugging:
    """Debugs ``cpu`` from now on, until it is closed, with pauses from ``rest`` to ``attend``. Only while the guest
    stands still.
    """

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._engine = cpu._engine
        self._system = cpu._state.system
        self._until = hooks.NEVER
        self._attends = False
        self._engine.watch_blocks()
        self._engine.debug(0, self._until)
        cpu._delivery.on_push = lambda address, size: self._system.accessed(address, size, WRITE)
        self.attend()

    def attend(self) -> None:
        """Look at each instruction, if that is not so already."""
        if not self._attends:
            self._attends = True
            self._system.debug(*self._engine.debug_functions)
            self._cpu.invalidate(0, 1)

    def rest(self) -> None:
        """Let the guest run at its full speed, a block at a time: ``instructions`` counts blocks meanwhile, which is
        how exact ``stop_at`` is. There must be no breakpoints and no watches.
        """
        if self._attends:
            self._attends = False
            self._system.debug_no_more()
            self._cpu.invalidate(0, 1)

    @property
    def instructions(self) -> int:
        """How many have begun."""
        return self._engine.instructions

    @instructions.setter
    def instructions(self, value: int) -> None:
        """Count on from another moment, to which the caller has taken CPU and memory."""
        self._engine.forget_interrupted()
        self._engine.debug(value, self._until)

    def stop_at(self, instructions: int | None) -> None:
        """``run`` returns STEP when so many instructions have begun, in all, or when more have; None for never."""
        self._until = hooks.NEVER if instructions is None else instructions
        self._engine.debug(self.instructions, self._until)

    def set_breakpoints(self, addresses: Iterable[int]) -> None:
        """``run`` returns BREAKPOINT before the instructions at these linear addresses, and no others."""
        self._engine.set_breakpoints(addresses)

    def set_watches(self, watches: Sequence[Watch]) -> None:
        """``run`` returns WATCH behind each instruction that accesses one of these. UsageError for too many."""
        self._system.set_watches(watches)

    def pass_by(self, passing: bool) -> None:
        """Begin, or end, to run past breakpoints and watches; ``stop_at`` still stops."""
        self._engine.pass_by(passing)

    @property
    def passed(self) -> tuple[int, StopKind] | None:
        """The last of them that was run past since it began: how many instructions had begun before the one that was at
        a breakpoint, or made the access; None when there was none.
        """
        instructions, reason = self._engine.passed
        if not reason:
            return None
        return instructions, StopKind.WATCH if reason == hooks.WATCH else StopKind.BREAKPOINT

    @property
    def watch_met(self) -> tuple[int, int]:
        """The linear address that led to the last WATCH, and whether by READ or WRITE."""
        return self._system.met

    def go_on(self, stop: Stop) -> None:
        """The next ``run`` goes on from ``stop``: an instruction that the guest stopped before begins.

        Unless the guest was put elsewhere since.
        """
        self._engine.hold(stop.rip == self._cpu.rip and stop.kind in (StopKind.BREAKPOINT, StopKind.STEP))
