"""Every litmus test as a guest: instructions, Unicorn, log and model together give exactly the catalogue's memories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig, PersistenceDomain
from emu.guest.litmus import SIZE, Litmus, assemble, catalogue, digits
from emu.persistence.lab.workload import record
from emu.persistence.model.crashstate import FULL, CrashState, possible_values
from emu.persistence.model.events import Event
from emu.persistence.model.rules import FailedCas, Media, Order, Rules
from emu.persistence.model.timeline import build
from emu.units import GIB, MIB

MODES = {
    "adr": Rules(),
    "location": Rules(order=Order.LOCATION),
    "eadr": Rules(PersistenceDomain.EADR),
    "dax": Rules(media=Media.DAX),
    "page-cache": Rules(media=Media.PAGE_CACHE),
    "cas-load": Rules(failed_cas=FailedCas.LOAD),
}
BASE = 4 * GIB


def found(test: Litmus, rules: Rules, events: Sequence[Event]) -> set[str]:
    """What the observed places can hold over all crash points."""
    timeline = build(events, rules)
    units = sorted({unit for at, size in test.observed for unit in range((BASE + at) & -8, BASE + at + size, 8)})
    seen = set()
    for point in timeline.points:
        state = CrashState.at(timeline, point.number, lambda unit: 0)
        for values, _ in possible_values(state, [(unit, FULL) for unit in units]):
            memory = bytearray(SIZE)
            for unit, value in zip(units, values, strict=True):
                memory[unit - BASE : unit - BASE + 8] = value.to_bytes(8, "little")
            seen.add(digits(bytes(memory), test.observed))
    return seen


@pytest.mark.parametrize("test", catalogue(), ids=lambda test: test.name)
def test_guest_leaves_exactly_the_memories_of_the_catalogue(test: Litmus, tmp_path: Path) -> None:
    image = tmp_path / f"{test.name}.bin"
    image.write_bytes(assemble(test.steps, BASE))
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 * MIB)
    config = MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)
    workload = record(config)
    assert workload.ended.reason == "halt"
    assert workload.dimms[0].gpa == BASE
    for mode, rules in MODES.items():
        # Without an entry of its own a test stays as under adr, but for the media, which change most tests.
        expected = test.sets.get(mode, None if mode in ("dax", "page-cache") else test.sets["adr"])
        if expected is not None:
            assert found(test, rules, workload.events) == expected, mode
