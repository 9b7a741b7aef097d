"""Stops for whoever debugs the guest: breakpoints, steps, and accesses to watched memory.

The guest runs in basic blocks as without a debugger; only those in which somebody wants to stand, and all while memory
is watched, are executed instruction by instruction. Time passes, and interrupts come, between blocks as ever, so the
guest cannot see any of this, and the run is the same with a debugger and without. An instruction's place in it is a
number: that of its block times ``BLOCK``, and its offset in the block. An instruction that raises a fault has begun,
and begins again when the handler returns to it; REP begins once for each turn. A breakpoint at one of them is met once
all the same.

An interrupt or a deadline that is due comes before a breakpoint at the block where it is due, and after the block that
accessed what is watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from emu.cpu.cpu import Cpu
from emu.cpu.engine import hooks, system
from emu.cpu.stop import Stop, StopKind
from emu.cpu.universe import universe

BLOCK = 1 << 16
"""Places between the begins of two blocks."""
READ, WRITE = system.READ, system.WRITE


class Watch(NamedTuple):
    """``size`` bytes from linear ``address``; ``access`` is READ, WRITE or both."""

    address: int
    size: int
    access: int


class Standing(NamedTuple):
    """Where the guest stands in the run: the ``place``, and the whole block around it (linear address and size)."""

    place: int
    block: tuple[int, int]


class Debugging:
    """Debugs ``cpu`` from now on, until it is closed. Only while the guest stands still."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu
        self._engine = cpu._engine
        self._system = cpu._state.system
        self._fine = hooks.NEVER
        self._watches = False
        self._engine.watch_blocks()
        self._engine.debug(self._system.instruction_blocks, universe())
        self._system.debug(*self._engine.debug_functions)
        cpu._delivery.on_push = lambda address, size: self._system.accessed(address, size, WRITE)

    @property
    def place(self) -> int:
        """Of the instruction that begins next, while the guest stands still."""
        return self._engine.place

    @property
    def place_announced(self) -> int:
        """While the guest runs: of the instruction that is executed or, where whole blocks are, of its block."""
        return self._engine.place_announced

    @property
    def place_before(self) -> int:
        """Of the instruction before the one announced last, if its block was executed instruction by instruction."""
        return self._engine.place_before

    @property
    def standing(self) -> Standing:
        return Standing(self._engine.place, self._engine.block)

    @standing.setter
    def standing(self, value: Standing) -> None:
        """The caller has taken CPU, clock and memory to another moment."""
        self._engine.stand(*value)

    def stop_at(self, place: int | None) -> None:
        """``run`` returns STEP at ``place`` or the first instruction behind it; None for never. From callbacks too."""
        self._engine.stop_at(hooks.NEVER if place is None else place)

    def look_at_each(self, place: int | None) -> None:
        """Execute all blocks instruction by instruction that begin at ``place`` or later, so that ``place_before`` is
        exact there; None for only those where that is needed for a stop.
        """
        self._fine = hooks.NEVER if place is None else place
        self._set_grain()

    def _set_grain(self) -> None:
        self._engine.be_fine(0 if self._watches else self._fine)

    def set_breakpoints(self, addresses: Iterable[int]) -> None:
        """``run`` returns BREAKPOINT before the instructions at these linear addresses, and no others."""
        self._engine.set_breakpoints(addresses)

    def set_watches(self, watches: Sequence[Watch]) -> None:
        """``run`` returns WATCH behind each instruction that accesses one of these. UsageError for too many."""
        self._system.set_watches(watches)
        self._watches = bool(watches)
        self._set_grain()

    def pass_by(self, passing: bool) -> None:
        """Begin, or end, to run past breakpoints and watches; ``stop_at`` still stops."""
        self._engine.pass_by(passing)

    @property
    def passed(self) -> tuple[int, StopKind] | None:
        """The last of them that was run past since it began: the place of the instruction that was at a breakpoint, or
        made the access; None when there was none.
        """
        place, reason = self._engine.passed
        if not reason:
            return None
        return place, StopKind.WATCH if reason == hooks.WATCH else StopKind.BREAKPOINT

    @property
    def watch_met(self) -> tuple[int, int]:
        """The linear address that led to the last WATCH, and whether by READ or WRITE."""
        return self._system.met

    def go_on(self, stop: Stop) -> None:
        """The next ``run`` goes on from ``stop``: an instruction that the guest stopped before begins.

        Unless the guest was put elsewhere since.
        """
        self._engine.hold(stop.rip == self._cpu.rip and stop.kind in (StopKind.BREAKPOINT, StopKind.STEP))
