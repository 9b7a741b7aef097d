"""A boot of Linux is the same every time, and whoever delivers its exceptions and system calls."""

from __future__ import annotations

import hashlib
import importlib
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from emu import board
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig, RunOptions
from emu.cpu import Cpu
from emu.linux.prepare import Request, prepare
from emu.linux.protocol import Message, Role
from emu.machine import Machine
from emu.persistence.lab.booted import keep
from emu.persistence.lab.linux import Talk, with_contents
from emu.units import MIB
from tests.linux_kernel import needs_kernel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    needs_kernel,
]


def boot() -> dict[str, object]:
    """What a machine is where init has loaded its modules: time, registers, console, digest of the memory."""
    dimm = NvdimmConfig(backend=BackendConfig(id="m", kind=BackendKind.RAM, size=32 * MIB))
    config = MachineConfig(ram_size=256 * MIB, slots=1, max_memory=1024 * MIB, nvdimms=(dimm,))
    printed = bytearray()
    talk = Talk(printed.extend, Role.EXEC)
    with ExitStack() as scratch:
        prepared = prepare(Request(None, None, (), {Role.EXEC: "/bin/true"}), config, scratch)
        with board.build(prepared.config, talk.outputs) as machine:
            talk.machine = machine
            machine.boot()
            reached = talk.await_message(Message.SNAPSHOT, Role.EXEC)
            while not reached:
                assert machine.step() is None, printed.decode(errors="replace")[-500:]
            return {**state(machine), "printed": bytes(printed)}


def state(machine: Machine) -> dict[str, object]:
    memory = hashlib.sha256()
    for region in machine.memory.regions:
        if region.kind == "ram":
            assert region.mapping is not None
            memory.update(region.mapping.view)
    return {"time": machine.cpu.now(), "registers": machine.cpu.registers(), "memory": memory.hexdigest()}


def test_machine_from_a_kept_boot_goes_on_as_the_one_that_has_booted(tmp_path: Path) -> None:
    """To where the command begins, over the mount: kernel, disk and system calls."""
    dimm = NvdimmConfig(backend=BackendConfig(id="m", kind=BackendKind.RAM, size=32 * MIB))
    config = MachineConfig(ram_size=256 * MIB, slots=1, max_memory=1024 * MIB, nvdimms=(dimm,))

    def go_on(machine: Machine, talk: Talk) -> dict[str, object]:
        talk.machine, reached = machine, talk.await_message(Message.BEGIN, Role.WORKLOAD)
        while not reached:
            assert machine.step() is None
        return state(machine)

    with ExitStack() as scratch:
        talk = Talk(lambda data: None, Role.WORKLOAD)
        made = prepare(Request(None, None, (), {Role.EXEC: "/bin/true"}), config, scratch)
        with board.build(made.config, talk.outputs) as machine:
            talk.machine = machine
            machine.boot()
            made.format(machine)
            reached = talk.await_message(Message.SNAPSHOT, Role.WORKLOAD)
            while not reached:
                assert machine.step() is None
            before, began = keep(machine, tmp_path), with_contents(machine, tmp_path, "nvdimm")
            expected = go_on(machine, talk)
        with before.machine(began, talk.outputs, RunOptions()) as machine:
            assert go_on(machine, talk) == expected


def test_two_boots_and_one_with_delivery_in_python_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = boot(), boot()
    assert first == second
    monkeypatch.setattr(importlib.import_module("emu.board.build"), "Cpu", partial(Cpu, native_delivery=False))
    assert boot() == first
