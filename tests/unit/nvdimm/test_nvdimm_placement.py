"""Slots, addresses and the checks at plug time: QEMU 7.2's answers to the same options."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import MachineConfig, OnOffAuto
from emu.devices.nvdimm.options import pmem_size
from emu.devices.nvdimm.placement import DeviceMemory, split_ram
from emu.errors import UsageError
from emu.units import GIB, KIB, MIB
from tests.unit.nvdimm.nvdimm_doubles import BACKEND, MACHINE, dimm_config

PAGE = 4096


@pytest.mark.parametrize(
    ("size", "label_size", "alignment", "seen"),
    [
        (16 * MIB, 0, PAGE, 0x1000000),
        (16 * MIB, 128 * KIB, PAGE, 0xFE0000),
        (16 * MIB, 131073, PAGE, 0xFDF000),
        (16 * MIB, 128 * KIB, 2 * MIB, 0xE00000),
        (16 * MIB, 2 * MIB, 2 * MIB, 0xE00000),
    ],
)
def test_size_that_the_guest_sees(size: int, label_size: int, alignment: int, seen: int) -> None:
    assert pmem_size(dimm_config(label_size=label_size), size, alignment) == seen


@pytest.mark.parametrize(
    ("ram", "slots", "maximum", "base", "size"),
    [
        (64 * MIB, 2, GIB, 0x100000000, 0xBC000000),
        (5 * GIB, 1, 8 * GIB, 0x1C0000000, 4 * GIB),
        (128 * MIB, 1, None, 0x100000000, (1 << 40) - 0x100000000),
    ],
)
def test_window(ram: int, slots: int, maximum: int | None, base: int, size: int) -> None:
    window = DeviceMemory(MachineConfig(ram_size=ram, slots=slots, max_memory=maximum))
    assert (window.base, window.size) == (base, size)


def test_ram_split() -> None:
    assert split_ram(0xAFFFF000) == (0xAFFFF000, 0)
    assert split_ram(0xB0000000) == (0x80000000, 0x30000000)


def test_first_fit_in_plug_order() -> None:
    window = DeviceMemory(MACHINE)
    first = window.plug(dimm_config(slot=2), 16 * MIB, PAGE)
    second = window.plug(dimm_config(), 16 * MIB, PAGE)
    third = window.plug(dimm_config(addr=0x1_4000_0000), 16 * MIB, PAGE)
    fourth = window.plug(dimm_config(), 16 * MIB, 2 * MIB)
    assert [(item.slot, item.gpa) for item in (first, second, third, fourth)] == [
        (2, 0x100000000), (0, 0x100FE0000), (1, 0x140000000), (3, 0x102000000),
    ]  # fmt: skip
    assert [item.gpa for item in window.placed] == [0x100000000, 0x100FE0000, 0x102000000, 0x140000000]


@pytest.mark.parametrize(
    ("changes", "machine", "message"),
    [
        ({"label_size": 4096}, {}, "label-size"),
        ({"label_size": 1 << 32}, {}, "label-size"),
        ({"id": "1a"}, {}, "expects an identifier"),
        ({}, {"nvdimm_enabled": False}, "missing 'nvdimm' in '-M'"),
        ({}, {"slots": 257}, "unsupported amount of memory slots"),
        ({"slot": 4}, {}, "invalid slot number 4, valid range is [0-3]"),
        ({"slot": 5}, {"slots": 0}, "invalid slot number 5"),
        ({}, {"slots": 0}, "please specify the 'slots' option"),
        ({"label_size": 16 * MIB}, {}, "too small to contain nvdimm label (0x1000000)"),
        (
            {"backend": replace(BACKEND, readonly=True)},
            {},
            "'unarmed' property must be 'on' since memdev m1 is read-only",
        ),
        ({}, {"max_memory": 130 * MIB}, "not enough space, currently 0x0 in use of total"),
        ({"addr": 0x100000100}, {}, "address must be aligned to 0x1000 bytes"),
        ({"addr": 0x1000}, {}, "can't add memory device [0x1000:0xfe0000], usable range"),
        ({"addr": 1 << 50}, {}, "can't add memory device"),
        ({"node": 1}, {}, "exceeds the number of numa nodes: 0"),
    ],
)
def test_refused(changes: dict[str, object], machine: dict[str, object], message: str) -> None:
    window = DeviceMemory(replace(MACHINE, **machine))  # type: ignore[arg-type]  # fields as the table has them
    with pytest.raises(UsageError) as caught:
        window.plug(dimm_config(**changes), 16 * MIB, PAGE)
    assert message in caught.value.what
    assert caught.value.remedy
    assert window.placed == ()


def test_refused_beside_others() -> None:
    window = DeviceMemory(replace(MACHINE, slots=1))
    window.plug(dimm_config(id="a"), 16 * MIB, PAGE)
    with pytest.raises(UsageError, match="no free slots available"):
        window.plug(dimm_config(), 16 * MIB, PAGE)
    with pytest.raises(UsageError, match="slot 0 is busy"):
        window.plug(dimm_config(slot=0), 16 * MIB, PAGE)
    with pytest.raises(UsageError, match="duplicate device ID 'a'"):
        window.plug(dimm_config(id="a"), 16 * MIB, PAGE)
    window = DeviceMemory(MACHINE)
    window.plug(dimm_config(id="a"), 16 * MIB, PAGE)
    with pytest.raises(UsageError, match="address range conflicts with memory device id='a'"):
        window.plug(dimm_config(addr=0x100FDF000), 16 * MIB, PAGE)


def test_fragmented_window() -> None:
    machine = MachineConfig(ram_size=128 * MIB, slots=2, max_memory=128 * MIB + 3 * GIB)
    window = DeviceMemory(machine)
    window.plug(dimm_config(addr=0x200000000, label_size=0), GIB // 2, PAGE)
    placement = window.plug(dimm_config(label_size=0), 2 * GIB + GIB // 2, PAGE)
    assert placement.gpa == 0x100000000
    window = DeviceMemory(replace(machine, max_memory=128 * MIB + 4 * GIB, slots=1 + 1))
    window.plug(dimm_config(addr=0x1C0000000, label_size=0), GIB // 2, PAGE)
    with pytest.raises(UsageError, match="could not find position"):
        window.plug(dimm_config(label_size=0), 3 * GIB + GIB // 2, PAGE)


def test_readonly_with_unarmed_or_rom_off_is_fine() -> None:
    window = DeviceMemory(MACHINE)
    window.plug(dimm_config(backend=replace(BACKEND, readonly=True), unarmed=OnOffAuto.ON), 16 * MIB, PAGE)
    window.plug(dimm_config(backend=replace(BACKEND, readonly=True), unarmed=OnOffAuto.AUTO), 16 * MIB, PAGE)
    window.plug(dimm_config(backend=replace(BACKEND, readonly=True, rom=OnOffAuto.OFF)), 16 * MIB, PAGE)
    assert len(window.placed) == 3


@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.sampled_from((PAGE, 2 * MIB)), st.none() | st.integers(0, 200)), max_size=6
    )
)
def test_placements_never_overlap(wishes: list[tuple[int, int, int | None]]) -> None:
    window = DeviceMemory(replace(MACHINE, slots=6))
    for size, alignment, page in wishes:
        addr = None if page is None else window.base + page * MIB
        try:
            window.plug(dimm_config(addr=addr, label_size=0), size * MIB, alignment)
        except UsageError:
            continue
    placed = window.placed
    assert all(first.end <= second.gpa for first, second in pairwise(placed))
    assert all(window.base <= item.gpa and item.end <= window.base + window.size for item in placed)
    assert len({item.slot for item in placed}) == len(placed)
