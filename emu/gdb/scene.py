"""Where a debugger is put at the start: in the recovery after a power failure, or before an event of the workload."""

from __future__ import annotations

from emu.cpu.debugging import BLOCK
from emu.errors import UsageError
from emu.gdb.server import Server
from emu.machine import Machine
from emu.persistence.lab.powerfail import Memory
from emu.persistence.model.events import UNIT

_STRIDE = 250_000 * BLOCK
"""Places between two looks at how many events there were."""


def put_memory(machine: Machine, memory: Memory) -> None:
    """Let the NVDIMMs of ``machine``, which has not run, hold what the power failure left."""
    for number, (dimm, plugged) in enumerate(zip(memory.workload.dimms, machine.nvdimms, strict=True)):
        mapping = plugged.backend.mapping
        for start, offset, size in dimm.parts(number, mapping.size):
            for unit, value in memory.chosen.items():
                if 0 <= (at := unit - start) < size:
                    mapping.view[offset + at : offset + at + UNIT] = value.to_bytes(UNIT, "little")


def stand_before(server: Server, machine: Machine, event: int) -> None:
    """Run ``machine``, which nobody else runs, to just before the instruction that makes ``event``.

    UsageError when the run ends before.
    """
    travel, power, debugging = server.travel, server.power, machine.debug()
    if power is None:
        raise UsageError("there is no NVDIMM, so there are no events", "give one: --nvdimm file=PATH,size=64M")
    travel.begin()
    before = debugging.place
    while True:
        travel.go(_STRIDE)
        _until_it_stands(machine)
        if power.events > event:
            break
        if machine.exit is not None:
            raise UsageError(
                f"the run ended ({machine.exit.reason}) after {power.events} events", f"give one below {power.events}"
            )
        before = debugging.place
    behind = debugging.place
    while behind - before > 1:
        middle = (before + behind) // 2
        travel.go_to(middle)
        _until_it_stands(machine)
        if power.events > event:
            behind = middle
        else:
            before = debugging.place
    travel.go_to(before)
    _until_it_stands(machine)


def _until_it_stands(machine: Machine) -> None:
    while not machine.paused and machine.exit is None:
        machine.step()
