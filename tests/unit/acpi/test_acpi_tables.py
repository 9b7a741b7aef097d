"""The tables as a guest finds them: placement, pointers, checksums, and what each of them says."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.acpi import hardware as hw
from emu.acpi import parse, system_table
from emu.acpi.srat import MemoryAffinity
from emu.acpi.tables import Tables, TablesSpec, build
from emu.board import map as at
from emu.board.tables import tables_spec
from emu.errors import UsageError

AREA = range(0xE0000, 0x100000)


def table_of(size: int, signature: bytes = b"SSDT") -> bytes:
    return system_table(signature, bytes(size - 36))


def memory_with(tables: Tables) -> parse.Read:
    """Guest memory of 1 MiB that holds ``tables``."""
    memory = bytearray(1 << 20)
    for address, data in tables.segments:
        memory[address : address + len(data)] = data
    return lambda address, length: bytes(memory[address : address + length])


def layout_is_sound(tables: Tables) -> None:
    ordered = sorted((item.address, item.address + len(item.data)) for item in tables.placed)
    if tables.dsm_page is not None:
        assert tables.dsm_page % 4096 == 0
        ordered.append((tables.dsm_page, tables.dsm_page + 4096))
    assert all(end <= start for (_, end), (start, _) in pairwise(ordered)), "tables overlap"
    assert ordered[0][0] == tables.rsdp == 0xE0000
    assert ordered[-1][1] <= 0x100000
    for item in tables.placed:
        assert item.address % 16 == 0
        assert parse.decode(item.data).problems == ()


FULL = tables_spec(
    memory=(MemoryAffinity(0, 128 << 20), MemoryAffinity(1 << 32, 64 << 20, 1, non_volatile=True)),
    nvdimm_ssdt=lambda page: system_table(b"SSDT", struct.pack("<I", page), table_id=b"NVDIMM"),
    nfit=system_table(b"NFIT", bytes(4)),
)


def test_all_tables_are_found_by_scanning() -> None:
    tables = build(FULL)
    layout_is_sound(tables)
    found = {item.name: item for item in parse.walk(memory_with(tables))}
    assert set(found) == {"RSDP", "RSDT", "XSDT", "FACP", "FACS", "DSDT", "APIC", "SRAT", "SSDT", "NFIT"}
    for item in tables.placed:
        assert found[item.name].address == item.address
        assert found[item.name].data == item.data
        assert tables.get(item.name) == item.data
    assert tables.get("HPET") is None


def test_rsdt_and_xsdt_list_the_same_tables_and_not_dsdt_or_facs() -> None:
    tables = build(FULL)
    rsdt, xsdt = tables.get("RSDT"), tables.get("XSDT")
    assert rsdt is not None
    assert xsdt is not None
    short = struct.unpack(f"<{(len(rsdt) - 36) // 4}I", rsdt[36:])
    assert short == struct.unpack(f"<{(len(xsdt) - 36) // 8}Q", xsdt[36:])
    names = {item.address: item.name for item in tables.placed}
    assert [names[address] for address in short] == ["FACP", "APIC", "SRAT", "SSDT", "NFIT"]


def test_a_machine_without_nvdimm_slots_has_no_page_and_no_handler() -> None:
    tables = build(tables_spec())
    layout_is_sound(tables)
    assert tables.dsm_page is None
    assert [tables.get(name) for name in ("SRAT", "SSDT", "NFIT")] == [None] * 3
    dsdt = tables.get("DSDT")
    assert dsdt is not None
    assert b"_E04" not in dsdt
    assert b"_S5_" in dsdt


def test_the_ssdt_learns_where_the_page_is_and_the_page_is_empty() -> None:
    tables = build(FULL)
    ssdt = tables.get("SSDT")
    assert ssdt is not None
    assert struct.unpack("<I", ssdt[36:]) == (tables.dsm_page,)
    assert tables.segments[-1] == (tables.dsm_page, bytes(4096))
    dsdt = tables.get("DSDT")
    assert dsdt is not None
    assert b"_E04" in dsdt
    assert b"NVDR" in dsdt


def test_fixed_hardware_is_where_the_board_puts_it() -> None:
    tables = build(FULL)
    fadt = tables.get("FACP")
    assert fadt is not None
    assert len(fadt) == 244
    fields = {value.name: value.value for structure in parse.decode(fadt).structures for value in structure.values}
    facs = next(item for item in tables.placed if item.name == "FACS")
    dsdt = next(item for item in tables.placed if item.name == "DSDT")
    assert facs.address % 64 == 0
    assert len(facs.data) == 64
    expected = {
        "FIRMWARE_CTRL": facs.address,
        "X_FIRMWARE_CTRL": 0,
        "DSDT": dsdt.address,
        "X_DSDT": dsdt.address,
        "SCI_INT": 9,
        "SMI_CMD": 0,
        "PM1a_EVT_BLK": 0x600,
        "X_PM1a_EVT_BLK": 0x600,
        "PM1_EVT_LEN": 4,
        "PM1a_CNT_BLK": 0x604,
        "X_PM1a_CNT_BLK": 0x604,
        "PM1_CNT_LEN": 2,
        "PM_TMR_BLK": 0x608,
        "X_PM_TMR_BLK": 0x608,
        "PM_TMR_LEN": 4,
        "GPE0_BLK": 0x620,
        "X_GPE0_BLK": 0x620,
        "GPE0_BLK_LEN": 16,
        "RESET_REG": 0xCF9,
        "RESET_VALUE": hw.RESET_VALUE,
        "CENTURY": 0x32,
        "IAPC_BOOT_ARCH": 0x0D,
    }
    assert {name: fields[name] for name in expected} == expected
    assert fields["Flags"] == 0x465


def test_madt_has_one_processor_and_the_8259s() -> None:
    madt = build(tables_spec()).get("APIC")
    assert madt is not None
    assert madt[36:] == struct.pack("<II", 0xFEE0_0000, 1) + bytes((0, 8, 0, 0, 1, 0, 0, 0))


def test_srat_entries_byte_for_byte() -> None:
    srat = build(FULL).get("SRAT")
    assert srat is not None
    assert srat[36:48] == struct.pack("<IQ", 1, 0)
    assert srat[48:64] == bytes((0, 16, 0, 0, 1)) + bytes(11)
    assert srat[64:104] == struct.pack("<BBIHQQIIQ", 1, 40, 0, 0, 0, 128 << 20, 0, 1, 0)
    assert srat[104:] == struct.pack("<BBIHQQIIQ", 1, 40, 1, 0, 1 << 32, 64 << 20, 0, 5, 0)


def test_identities_are_those_of_qemus_tables() -> None:
    for item in build(FULL).placed:
        if item.name not in ("RSDP", "FACS"):
            assert item.data[10:16] == b"BOCHS "
            assert item.data[28:32] == b"BXPC"


def test_256_slots_fit_and_what_the_bios_area_has_no_room_for_lies_in_ram() -> None:
    from emu.devices.nvdimm.ssdt import ssdt

    def spec(slots: int, plugged: int) -> TablesSpec:
        affinities = tuple(MemoryAffinity(n << 30, 1 << 30) for n in range(plugged))
        nfit = system_table(b"NFIT", bytes(4) + plugged * struct.pack("<HH180x", 8, 184))
        return tables_spec(memory=affinities, nvdimm_ssdt=lambda page: ssdt(slots, page, at.DSM), nfit=nfit)

    layout_is_sound(build(spec(256, 16)))
    layout_is_sound(build(spec(128, 128)))
    more = range(0x7FC0000, 0x8000000)
    tables = build(spec(256, 256), more)
    assert {item.name for item in tables.placed if item.address in more} == {"NFIT"}
    assert [item.address for item in tables.placed] == sorted(item.address for item in tables.placed)
    with pytest.raises(UsageError, match="need more than the 126976 bytes") as caught:
        build(spec(256, 256))
    assert "fewer memory slots" in caught.value.remedy


@given(
    memory=st.lists(
        st.builds(
            MemoryAffinity,
            st.integers(0, (1 << 64) - 1),
            st.integers(0, (1 << 64) - 1),
            st.integers(0, (1 << 32) - 1),
            st.booleans(),
            st.booleans(),
        ),
        max_size=40,
    ),
    ssdt_size=st.one_of(st.none(), st.integers(36, 140_000)),
    nfit_size=st.one_of(st.none(), st.integers(40, 50_000)),
)
def test_any_sizes_are_placed_soundly_or_refused(
    memory: list[MemoryAffinity], ssdt_size: int | None, nfit_size: int | None
) -> None:
    spec = tables_spec(
        memory=tuple(memory),
        nvdimm_ssdt=None if ssdt_size is None else lambda _: table_of(ssdt_size),
        nfit=None if nfit_size is None else table_of(nfit_size, b"NFIT"),
    )
    try:
        tables = build(spec)
    except UsageError as error:
        assert (ssdt_size or 0) + (nfit_size or 0) > 110_000
        assert error.remedy
        return
    for item in tables.placed:
        assert item.address in AREA
        assert item.address % 16 == 0
    spans = [(address, address + len(data)) for address, data in tables.segments]
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    found = {item.name: item.data for item in parse.walk(memory_with(tables))}
    assert found.get("NFIT") == spec.nfit
    assert len(found.get("SSDT", b"")) == (ssdt_size or 0)
