"""Stops a machine where it first accesses an NVDIMM: what comes before is the same in every recovery."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.cpu.engine import trace
from emu.machine import Exit, Machine

if TYPE_CHECKING:
    from emu.cpu.engine.trace import Tracer

Drive = Callable[[list[int]], "Exit | None"]
"""Runs the machine to its end, or until something is in the list; how it ended."""


def find(machine: Machine, tracer: Tracer, drive: Drive, budget: int) -> tuple[int, Exit | None]:
    """Boot ``machine``, for at most ``budget`` basic blocks, up to its first access. The number of that basic block, 0
    where there is none; and how the machine has ended, if it did not stop there.
    """
    accessed: list[int] = []
    default = tracer.on_stop

    def stop(why: int) -> None:
        if why == trace.ACCESS:
            accessed.append(tracer.first_access)
            machine.cpu.request_stop()
        else:
            default(why)

    tracer.on_stop = stop
    tracer.set_budget(budget)
    machine.boot()
    ended = drive(accessed)
    # The block that reads first may also be the one that ends the run.
    return tracer.first_access, None if accessed else ended


def stand_before(machine: Machine, tracer: Tracer, drive: Drive, block: int) -> None:
    """Boot ``machine`` and stop it before basic block ``block``."""
    reached: list[int] = []
    default = tracer.on_stop

    def stop(why: int) -> None:
        if why == trace.BLOCK:
            reached.append(why)
            machine.cpu.stop_before_block()

    tracer.on_stop = stop
    tracer.stop_at_block(block)
    machine.boot()
    drive(reached)
    tracer.stop_at_block(0)
    tracer.on_stop = default
