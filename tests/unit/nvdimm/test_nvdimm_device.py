"""The NVDIMM device: where labels are, when it is armed, what its saved state refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emu.config import OnOffAuto
from emu.devices.nvdimm.device import NvdimmDevice
from emu.errors import StateError, UsageError
from emu.state import SavedState
from emu.units import GIB, MIB
from tests.unit.nvdimm.nvdimm_doubles import BACKEND, LABEL_SIZE, FakeBacking, device, dimm_config


def test_labels_are_the_end_of_the_backing() -> None:
    backing = FakeBacking(MIB, alignment=65536)
    dimm = device(backing, label_size=LABEL_SIZE + 1)
    assert dimm.size == (MIB - LABEL_SIZE - 1) // 65536 * 65536
    assert dimm.labels is not None
    dimm.labels.write(0, b"first")
    dimm.labels.write(LABEL_SIZE, b"!")
    start = MIB - LABEL_SIZE - 1
    assert backing.content[start : start + 5] == b"first"
    assert backing.content[-1:] == b"!"
    assert not any(backing.content[:start])
    assert backing.persisted == [(start, 5), (MIB - 1, 1)]
    assert dimm.labels.read(0, 6) == b"first\0"


def test_without_labels() -> None:
    dimm = device(label_size=0)
    assert (dimm.labels, dimm.label_size, dimm.size) == (None, 0, MIB)


@pytest.mark.parametrize(
    ("unarmed", "survives", "readonly", "expected"),
    [
        (OnOffAuto.OFF, False, False, False),
        (OnOffAuto.ON, True, False, True),
        (OnOffAuto.AUTO, True, False, False),
        (OnOffAuto.AUTO, False, False, True),
        (OnOffAuto.AUTO, True, True, True),
    ],
)
def test_unarmed(unarmed: OnOffAuto, survives: bool, readonly: bool, expected: bool) -> None:
    backing = FakeBacking(MIB, readonly=readonly, survives_power_loss=survives)
    dimm = device(backing, unarmed=unarmed, backend=replace(BACKEND, readonly=readonly))
    assert dimm.unarmed is expected
    assert dimm.nfit_entry.unarmed is expected


def test_rom_rules() -> None:
    rom = replace(BACKEND, readonly=True)
    with pytest.raises(UsageError, match="'unarmed' property must be 'on'"):
        device(FakeBacking(MIB, readonly=True), backend=rom)
    assert device(FakeBacking(MIB, readonly=True), backend=rom, unarmed=OnOffAuto.ON).drops_stores
    private = replace(BACKEND, readonly=True, rom=OnOffAuto.OFF, share=False)
    assert not device(FakeBacking(MIB), backend=private).drops_stores


def test_too_small_for_labels() -> None:
    with pytest.raises(UsageError, match="too small to contain nvdimm label"):
        device(FakeBacking(LABEL_SIZE))


def test_saved_state_is_the_identity() -> None:
    identity = "00112233-4455-6677-8899-aabbccddeeff"
    dimm = device(uuid=identity)
    dimm.reset()
    state = dimm.save()
    device(uuid=identity).parse(state)()
    assert dimm.inspect()["serial"] == 0x123456
    assert dimm.inspect()["uuid"] == identity
    others = [
        device(uuid=identity, slot=1),
        device(uuid=identity, label_size=2 * LABEL_SIZE),
        device(uuid=identity, unarmed=OnOffAuto.ON),
        device(),
        NvdimmDevice(dimm_config(uuid=identity), FakeBacking(MIB), gpa=8 * GIB, slot=0),
    ]
    for other in others:
        with pytest.raises(StateError, match="saved state is of another NVDIMM"):
            other.parse(state)()


@pytest.mark.parametrize(
    "change", [{"slot": -1}, {"slot": True}, {"unarmed": 0}, {"uuid": 7}, {"more": 1}, {"slot": None}]
)
def test_hostile_state(change: dict[str, object]) -> None:
    dimm = device()
    fields = {**dimm.save().fields, **change}
    with pytest.raises(StateError):
        dimm.parse(SavedState("nvdimm", 1, fields))()  # type: ignore[arg-type]  # what the test is about
    with pytest.raises(StateError):
        dimm.parse(SavedState("nvdimm", 2, dimm.save().fields))()
