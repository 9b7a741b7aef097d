"""Where the board puts things: memory regions, tables, NVDIMMs, ports; what a reset clears; hot plugging."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emu import board
from emu.acpi import hardware
from emu.board import map as at
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig, OnOffAuto
from emu.cpu import Cpu
from emu.devices.debugcon import DebugConsole
from emu.devices.power import Power
from emu.errors import HostError, UsageError
from emu.machine import Machine

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "guest.bin"
    path.write_bytes(b"\xf4")
    return str(path)


def nvdimm(name: str, size: int = 2 * MIB, **changes: Any) -> NvdimmConfig:
    return NvdimmConfig(backend=BackendConfig(id=name, kind=BackendKind.RAM, size=size), id=f"{name}-device", **changes)


@pytest.fixture
def machine(image: str) -> Iterator[Machine]:
    config = MachineConfig(image=image, slots=3, max_memory=8 * GIB, nvdimms=(nvdimm("a"), nvdimm("b", 4 * MIB)))
    with board.build(config, board.Outputs()) as built:
        yield built


@pytest.mark.parametrize(
    ("ram", "expected", "window"),
    [
        (128 * MIB, [(0, 128 * MIB)], 4 * GIB),
        (0xB000_0000 - MIB, [(0, 0xB000_0000 - MIB)], 4 * GIB),
        (0xB000_0000, [(0, 2 * GIB), (4 * GIB, 0x3000_0000)], 5 * GIB),
        (64 * GIB, [(0, 2 * GIB), (4 * GIB, 62 * GIB)], 66 * GIB),
    ],
)
def test_ram_is_split_as_on_a_q35(image: str, ram: int, expected: list[tuple[int, int]], window: int) -> None:
    config = MachineConfig(image=image, ram_size=ram, slots=1, nvdimms=(nvdimm("a"),))
    with board.build(config, board.Outputs()) as machine:
        regions = [(region.gpa, region.size) for region in machine.memory.regions if region.kind == "ram"]
        assert regions == expected
        assert machine.nvdimms[0].device.gpa == window


@pytest.mark.parametrize(("slots", "kept"), [(128, 0), (129, 256 << 10)])
def test_many_slots_keep_ram_for_their_tables(image: str, slots: int, kept: int) -> None:
    """The guest's memory map (the flat guest's PVH start info, in RDI) says that it is not its own."""
    config = MachineConfig(image=image, ram_size=16 * MIB, slots=slots, max_memory=8 * GIB)
    with board.build(config, board.Outputs()) as machine:
        machine.boot()
        info = machine.cpu.registers()["rdi"]
        entries, count = struct.unpack("<QI", machine.memory.read(info + 40, 12))
        ranges = [struct.unpack("<QQI", machine.memory.read(entries + 24 * n, 20)) for n in range(count)]
    assert ranges[2] == (MIB, 15 * MIB - kept, 1)
    assert ranges[3:] == ([(16 * MIB - kept, kept, 3)] if kept else [])


def test_nvdimms_lie_behind_each_other_in_plug_order(machine: Machine) -> None:
    placed = [(item.device.slot, item.device.gpa, item.device.size) for item in machine.nvdimms]
    assert placed == [(0, 4 * GIB, 2 * MIB), (1, 4 * GIB + 2 * MIB, 4 * MIB)]
    assert [region.gpa for region in machine.memory.regions if region.kind == "nvdimm"] == [4 * GIB, 4 * GIB + 2 * MIB]


def test_the_tables_are_there_and_in_memory_after_the_start(machine: Machine) -> None:
    assert {"RSDP", "XSDT", "RSDT", "FACP", "FACS", "APIC", "DSDT", "SSDT", "SRAT", "NFIT"} <= machine.tables.keys()
    assert bytes(machine.memory.read(hardware.TABLES_START, 0x20000)).find(b"NFIT") == -1
    machine.boot()
    area = bytes(machine.memory.read(hardware.TABLES_START, hardware.TABLES_END - hardware.TABLES_START))
    assert area.count(machine.tables["NFIT"]) == 1
    assert area.count(b"RSD PTR ") == 1


def test_a_machine_without_nvdimms_has_no_nfit(image: str) -> None:
    with board.build(MachineConfig(image=image), board.Outputs()) as machine:
        assert "NFIT" not in machine.tables


def test_the_start_clears_ram_and_leaves_nvdimms_alone(machine: Machine) -> None:
    assert machine.firmware.bootable
    machine.boot()
    machine.memory.write(0x300000, b"ram")
    machine.memory.write(4 * GIB, b"pmem")
    machine.firmware.start()
    assert bytes(machine.memory.read(0x300000, 3)) == bytes(3)
    assert bytes(machine.memory.read(4 * GIB, 4)) == b"pmem"


def test_hot_plugging_tells_the_guest(machine: Machine, tmp_path: Path) -> None:
    power = machine.devices["power"]
    assert isinstance(power, Power)
    assert isinstance(machine.slots, board.Slots)
    bit = 1 << at.NVDIMM_GPE
    assert not machine.bus.read(at.GPE0.start, 1) & bit
    backend = BackendConfig(id="c", path=str(tmp_path / "c"), size=2 * MIB, share=True)
    plugged = machine.slots.plug(NvdimmConfig(backend=backend, id="late"), hot=True)
    assert (plugged.hotplugged, plugged.device.slot, plugged.device.gpa) == (True, 2, 4 * GIB + 6 * MIB)
    assert machine.bus.read(at.GPE0.start, 1) & bit
    machine.memory.write(plugged.device.gpa, b"here")
    assert (tmp_path / "c").read_bytes()[:4] == b"here"
    with pytest.raises(UsageError):
        machine.slots.plug(nvdimm("d"), hot=True)
    assert len(machine.nvdimms) == 3


def test_a_plug_that_fails_leaves_the_file_free(machine: Machine, tmp_path: Path) -> None:
    assert isinstance(machine.slots, board.Slots)
    path = tmp_path / "taken"
    backend = BackendConfig(id="c", path=str(path), size=2 * MIB, share=True)
    with pytest.raises(UsageError):
        machine.slots.plug(NvdimmConfig(backend=backend, slot=0))
    machine.slots.plug(NvdimmConfig(backend=backend, slot=2))
    with pytest.raises(HostError):
        machine.slots.plug(NvdimmConfig(backend=backend))


def test_the_ports_that_the_dsdt_names_are_the_devices(machine: Machine) -> None:
    """The I/O port descriptors of ACPI 6.4, section 6.4.2.5: 47h, decoding, first, last base, alignment, length."""
    found = [struct.unpack("<HHBB", item) for item in re.findall(rb"\x47\x01(.{6})", machine.tables["DSDT"], re.S)]
    windows = {(first, length) for first, _, _, length in found}
    assert windows == {(window.start, len(window)) for window in (*at.PIC, *at.PIT, at.RTC, at.COM1)} | {(0x600, 0x30)}
    for first, length in windows:
        for port in (first, first + length - 1):
            with pytest.raises(ValueError, match="already taken"):
                machine.bus.add(port, 1, DebugConsole(lambda _: None))


@pytest.mark.parametrize("first", [0x20, 0x40, 0x3F8, 0x600, 0xA18, 0xCF9, 0xFFFE])
def test_exit_ports_do_not_take_another_devices(image: str, first: int) -> None:
    with pytest.raises(UsageError, match="exit0"):
        board.build(MachineConfig(image=image, exit_ports=((first, 4),)), board.Outputs())


def test_a_read_only_nvdimm_needs_unarmed(image: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(2 * MIB))
    backend = BackendConfig(id="a", path=str(tmp_path / "f"), share=True, readonly=True)
    for unarmed, fits in ((OnOffAuto.OFF, False), (OnOffAuto.ON, True), (OnOffAuto.AUTO, True)):
        config = MachineConfig(image=image, slots=1, nvdimms=(NvdimmConfig(backend=backend, unarmed=unarmed),))
        if fits:
            with board.build(config, board.Outputs()) as machine:
                assert machine.memory.find(4 * GIB).readonly  # type: ignore[union-attr]
        else:
            with pytest.raises(UsageError, match="unarmed"):
                board.build(config, board.Outputs())


def test_what_was_opened_is_closed_when_building_fails(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Cpu] = []
    close = Cpu.close

    def noting(cpu: Cpu) -> None:
        closed.append(cpu)
        close(cpu)

    monkeypatch.setattr(Cpu, "close", noting)
    with pytest.raises(UsageError):
        board.build(MachineConfig(image=image, slots=1, nvdimms=(nvdimm("a"), nvdimm("b"))), board.Outputs())
    assert len(closed) == 1


def test_virtual_time_starts_at_the_same_date_on_every_run(image: str) -> None:
    with board.build(MachineConfig(image=image), board.Outputs()) as machine:
        machine.bus.write(0x70, 1, 0x09)
        assert machine.bus.read(0x71, 1) == 0x00  # the year 2000, in BCD


def test_tables_follow_what_is_plugged_at_the_next_reset(image: str) -> None:
    config = MachineConfig(image=image, slots=2, max_memory=GIB)
    with board.build(config, board.Outputs()) as machine:
        assert "NFIT" not in machine.tables
        assert isinstance(machine.slots, board.Slots)
        machine.slots.plug(nvdimm("hot"), hot=True)
        machine.firmware.start()
        assert "NFIT" in machine.tables


def test_a_failed_plug_gives_slot_and_address_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(machine.slots, board.Slots)
    before, regions = machine.slots.window.placed, machine.memory.regions

    def refuse(*_: object, **__: object) -> None:
        raise HostError("no more memory")

    monkeypatch.setattr(machine.cpu, "region_added", refuse)
    with pytest.raises(HostError):
        machine.slots.plug(nvdimm("c"), hot=True)
    assert machine.slots.window.placed == before
    assert machine.memory.regions == regions
    monkeypatch.undo()
    assert machine.slots.plug(nvdimm("c"), hot=True).device.slot == 2


def test_code_that_a_device_overwrites_is_forgotten(tmp_path: Path) -> None:
    """mov eax, 1; out 80h, al; hlt: run once, changed through the devices' memory, run again."""
    image = tmp_path / "guest.bin"
    image.write_bytes(b"\xb8\x01\x00\x00\x00\xe6\x80\xf4")
    with board.build(MachineConfig(image=str(image)), board.Outputs()) as machine:
        seen: list[int] = []
        machine.boot()
        machine.cpu.on_port_write = lambda port, size, value: seen.append(value)
        start = machine.cpu.registers()["rip"]
        for value in (1, 2):
            machine.memory.write(start + 1, bytes([value]))
            machine.cpu.set_register("rip", start)
            machine.cpu.run()
        assert seen == [1, 2]
