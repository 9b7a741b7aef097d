"""What a machine saves and takes back: every component by its name, of its own kind, all of them or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emu import board
from emu.config import MachineConfig
from emu.devices.contract import ExitRequest
from emu.errors import StateError
from emu.machine import Machine
from emu.state import SavedState

MIB = 1 << 20
COUNT_AND_SEND = bytes.fromhex("b05566baff03ee48ffc366baf803ebf7")  # scratch := 0x55; again: inc rbx; mov dx; jmp again


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """One that has run for a while, and one like it that has not."""
    image = tmp_path / "guest.bin"
    image.write_bytes(COUNT_AND_SEND)
    config = MachineConfig(image=str(image), ram_size=16 * MIB)
    with board.build(config, board.Outputs()) as used, board.build(config, board.Outputs()) as fresh:
        used.boot()
        used.cpu.set_deadline(10_000)
        used.cpu.run()
        yield used, fresh


def test_every_kind_travels_beside_its_name(machines: tuple[Machine, Machine]) -> None:
    used, fresh = machines
    states = used.save()
    assert (states["com1"].kind, states["exit0"].kind) == ("uart16550", "debugexit")
    assert states["cpu"].fields["general"] != fresh.save()["cpu"].fields["general"]
    fresh.restore(states)
    assert fresh.save() == states


def test_states_that_are_swapped_are_refused(machines: tuple[Machine, Machine]) -> None:
    used, fresh = machines
    states = used.save()
    states["debugcon"], states["exit0"] = states["exit0"], states["debugcon"]  # neither has a field
    with pytest.raises(StateError, match="component 'debugcon': saved state is of 'debugexit', expected 'debugcon'"):
        fresh.restore(states)


def test_a_refusal_of_any_component_leaves_every_other_as_it_was(machines: tuple[Machine, Machine]) -> None:
    used, fresh = machines
    states, before = used.save(), fresh.save()
    assert states["com1"] != before["com1"]
    for name, state in states.items():
        with pytest.raises(StateError, match=f"component '{name}': .*more"):
            fresh.restore({**states, name: replace(state, fields={**state.fields, "more": 1})})
        assert fresh.save() == before
    fresh.boot()  # it has not been taken for a machine that came from elsewhere
    assert fresh.cpu.registers()["rip"] != 0


def test_rewinding_puts_back_the_devices_that_are_named_or_none(machines: tuple[Machine, Machine]) -> None:
    used, fresh = machines
    before, com1 = fresh.save(), used.save()["com1"]
    fresh.end(ExitRequest("quit", 0))
    ended = fresh.exit
    assert ended is not None
    with pytest.raises(StateError, match="com9"):
        fresh.rewind({"com1": com1, "com9": com1})
    assert (fresh.exit, fresh.save()) == (ended, before)
    fresh.rewind({"com1": com1})
    assert fresh.exit is None
    assert fresh.save() == {**before, "com1": com1}


def test_components_that_are_missing_or_unknown_are_named(machines: tuple[Machine, Machine]) -> None:
    used, fresh = machines
    states, before = used.save(), fresh.save()
    del states["rtc"]
    with pytest.raises(StateError, match="components: com9, rtc"):
        fresh.restore({**states, "com9": SavedState("uart16550", 1, {})})
    assert fresh.save() == before
