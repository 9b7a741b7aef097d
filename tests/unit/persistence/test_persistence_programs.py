"""Random programs on the machine: instructions, CPU and log give the events that the oracle's programs mean."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.guest.litmus import Step, assemble
from emu.persistence.lab.workload import record
from emu.persistence.model.events import Event, Fence, Store, WriteBack
from emu.units import GIB, MIB
from tests.fuzzing import PROGRAMS
from tests.unit.persistence.persistence_oracle import Op
from tests.unit.persistence.test_persistence_oracle import random_program, to_events

BASE = 4 * GIB
CHUNKS = 4


def on_the_machine(rng: random.Random) -> list[Op]:
    """A program of what a flat guest can do: no label, and no non-temporal store of one byte."""
    return [
        ("st", *op[1:]) if op[0] == "nt" and len(op[2]) == 1 else op
        for op in random_program(rng, rng.randint(1, 6))
        if op[0] not in ("wb", "label")
    ]


def to_step(op: Op) -> Step:
    match op:
        case ("st" | "nt" | "rmw", address, data):
            return Step({"st": "store", "nt": "nt", "rmw": "X"}[op[0]], address, data)
        case ("fl", address):
            return Step("FL", address)
        case ("fo", address):
            return Step("CW" if address else "FO", address)
        case _:
            return Step(op[0].upper())


def moved(event: Event) -> Event:
    """An event of the oracle's as the guest makes it; nobody has said which instruction does."""
    return event if isinstance(event, Fence | WriteBack) else event._replace(address=event.address + BASE)


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.fuzz
def test_a_guest_does_what_its_program_means(chunk: int, tmp_path: Path) -> None:
    rng, image = random.Random(f"programs {chunk}"), tmp_path / "programs.bin"
    programs = [on_the_machine(rng) for _ in range(PROGRAMS // CHUNKS)]
    image.write_bytes(assemble(tuple(to_step(op) for program in programs for op in program), BASE))
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 * MIB)
    workload = record(MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),)))
    expected = [moved(event) for program in programs for event in to_events(program)]
    assert workload.ended.reason == "halt"
    assert sum(isinstance(event, Store) for event in expected) > len(programs)
    assert [event._replace(pc=0) for event in workload.events] == expected
