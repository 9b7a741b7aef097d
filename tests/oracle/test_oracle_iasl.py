"""Intel's ACPI compiler judges our tables: it must read each without a complaint and compile what it read again."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from emu.acpi import parse
from emu.acpi.srat import MemoryAffinity
from emu.acpi.tables import Tables, build
from emu.board import map as at
from emu.board.tables import tables_spec
from emu.config import MachineConfig
from emu.devices.nvdimm.ssdt import ssdt
from tests.oracle.requirements import require

_COMPLAINT = re.compile(r"error|warning|remark|invalid|incorrect", re.IGNORECASE)
# The summary line counts what was not found.
_NOTHING = re.compile(r"\b0 (errors|warnings|remarks)\b", re.IGNORECASE)
# The NVDIMM's SSDT is QEMU's byte for byte, with a method that names a buffer field like a field of a region.
_QEMUS_OWN = "Type mismatch on ODAT (RegionField), searching for (Buffer)"
# iasl puts itself in as the creator, which changes the checksum as well.
_STAMP = ((9, 10), (28, 36))


@pytest.fixture(scope="module", autouse=True)
def _iasl() -> None:
    require("iasl", "acpica-tools")


def with_slots(slots: int) -> Tables:
    nvdimm = MemoryAffinity(1 << 32, 64 << 20, non_volatile=True)
    memory = (MemoryAffinity(0, 128 << 20), *((nvdimm,) if slots else ()))
    return build(tables_spec(memory=memory, nvdimm_ssdt=(lambda page: ssdt(slots, page, at.DSM)) if slots else None))


def iasl(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["iasl", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    output = result.stdout + result.stderr
    lines = [line for line in output.splitlines() if _COMPLAINT.search(_NOTHING.sub("", line))]
    assert not [line for line in lines if _QEMUS_OWN not in line], output
    assert result.returncode == 0, output
    return output


def disassemble(folder: Path, name: str, data: bytes, *others: str) -> str:
    (folder / f"{name}.dat").write_bytes(data)
    externals = [word for other in others for word in ("-e", f"{other}.dat")]
    iasl(folder, *externals, "-d", f"{name}.dat")
    text = (folder / f"{name}.dsl").read_text()
    # A DSDT of revision 1 means 32-bit integers, as in QEMU's, and the NVDIMM's AML is written for that.
    notes = [line for line in text.splitlines() if "****" in line and "32-bit table (V1)" not in line]
    assert not notes, "iasl found data it cannot place"
    assert "Invalid" not in text
    return text


def without_stamp(table: bytes) -> bytes:
    blank = bytearray(table)
    for start, end in _STAMP:
        blank[start:end] = bytes(end - start)
    return bytes(blank)


@pytest.mark.parametrize("slots", [0, 1, 3])
def test_every_table_is_read_without_complaint(tmp_path: Path, slots: int) -> None:
    tables = with_slots(slots)
    assert len(tables.placed) == (9 if slots else 8)
    for item in tables.placed[1:]:
        disassemble(tmp_path, item.name, item.data)


def test_iasl_compiles_the_same_root_pointer(tmp_path: Path) -> None:
    """iasl cannot disassemble a root pointer, not even its own, but it makes one and sets both checksums."""
    data = with_slots(1).get("RSDP")
    assert data is not None
    value = {item.name: item.value for item in parse.decode(data).structures[0].values}
    source = f"""
[0008]                          Signature : "RSD PTR "
[0001]                           Checksum : 00
[0006]                             Oem ID : "{value["OEM ID"]}"
[0001]                           Revision : {value["Revision"]:02X}
[0004]                       RSDT Address : {value["RSDT Address"]:08X}
[0004]                             Length : {value["Length"]:08X}
[0008]                       XSDT Address : {value["XSDT Address"]:016X}
[0001]                  Extended Checksum : 00
[0003]                           Reserved : 000000
"""
    (tmp_path / "rsdp.asl").write_text(source)
    iasl(tmp_path, "rsdp.asl")
    assert (tmp_path / "rsdp.aml").read_bytes() == data


def test_data_tables_compile_to_the_same_bytes_again(tmp_path: Path) -> None:
    for item in with_slots(1).placed:
        if item.name in ("RSDP", "DSDT", "SSDT"):
            continue
        disassemble(tmp_path, item.name, item.data)
        iasl(tmp_path, "-p", "again", f"{item.name}.dsl")
        again = (tmp_path / "again.aml").read_bytes()
        if item.name == "FACS":
            assert again == item.data
        else:
            assert without_stamp(again) == without_stamp(item.data), item.name


def test_dsdt_and_ssdt_know_each_other(tmp_path: Path) -> None:
    tables = with_slots(2)
    dsdt, ssdt_ = tables.get("DSDT"), tables.get("SSDT")
    assert dsdt is not None
    assert ssdt_ is not None
    (tmp_path / "SSDT.dat").write_bytes(ssdt_)
    text = disassemble(tmp_path, "DSDT", dsdt, "SSDT")
    for words in (
        "Name (\\_S5, Package (0x04)",
        'Name (_HID, EisaId ("PNP0501")',
        'Name (_HID, "ACPI0007"',
        "Method (_E04, 0, NotSerialized)",
        "Notify (\\_SB.NVDR, 0x80)",
    ):
        assert words in text
    iasl(tmp_path, "-p", "again", "DSDT.dsl")


def test_iasl_and_our_reader_see_the_same_fields(tmp_path: Path) -> None:
    """Every number that we show of FADT, MADT and SRAT stands at the same offset in iasl's reading."""
    for name in ("FACP", "APIC", "SRAT"):
        data = with_slots(1).get(name)
        assert data is not None
        text = disassemble(tmp_path, name, data)
        lines = re.findall(r"^\[([0-9A-F]+)h [0-9A-F ]+ [0-9A-F]+h?\] +(.+?) : (.*)$", text, re.M)
        assert lines, text[:2000]
        by_offset = {int(offset, 16): value.strip() for offset, _, value in lines}
        from emu.acpi.structures import BODIES, TABLES
        from emu.structure import REGISTER

        compared = 0
        for structure in parse.decode(data).structures[1:]:
            kind = TABLES[name] if structure.type is None else BODIES[name].structures[structure.type]
            for field, value in zip(kind.shown(), structure.values, strict=True):
                if field.show == REGISTER or field.title == "Proximity Domain [7:0]":
                    continue
                shown = by_offset[structure.offset + field.offset]
                assert int(shown.split()[0], 16) == value.value, (name, field.title, shown)
                compared += 1
        assert compared >= 5


def test_the_default_machine_passes_too(tmp_path: Path) -> None:
    from emu import board

    with board.build(MachineConfig(), board.Outputs()) as machine:
        assert {"RSDP", "XSDT", "FACP", "DSDT"} <= set(machine.tables)
        for name, data in machine.tables.items():
            if name != "RSDP":
                disassemble(tmp_path, name, data)
