"""Layouts: sizes and places from the specifications, packing both ways, and the rules that a declaration must keep."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from uuid import UUID

import pytest

from emu.acpi import structures as layouts
from emu.devices.nvdimm import dsm_layouts, label_layouts
from emu.structure import LayoutError, Structure, octets, structure, u8, u16, u32


@pytest.mark.parametrize(
    ("kind", "size", "places"),
    [
        (layouts.SpaRange, 56, {"proximity_domain": 12, "range_type": 16, "base": 32, "attributes": 48}),
        (
            layouts.MemoryMap,
            48,
            {"device_handle": 4, "spa_index": 12, "region_size": 16, "region_dpa": 32, "flags": 44},
        ),
        (layouts.ControlRegion, 80, {"vendor_id": 6, "serial_number": 24, "format_interface": 28, "flags": 72}),
        (layouts.BlockWindow, 40, {"capacity": 24}),
        (layouts.Interleave, 16, {"lines": 8}),
        (layouts.SmbiosInformation, 8, {"reserved": 4}),
        (layouts.FlushHints, 16, {"hints": 8}),
        (layouts.PlatformCapabilities, 16, {"highest_valid": 4, "capabilities": 8}),
        (
            label_layouts.IndexHeader,
            72,
            {"label_size_code": 19, "sequence": 20, "label_offset": 48, "slots": 56, "minor": 62},
        ),
        (label_layouts.LabelV11, 128, {"flags": 80, "set_cookie": 88, "dpa": 104, "slot": 120}),
        (label_layouts.LabelV12, 256, {"alignment": 124, "type_guid": 128, "abstraction_guid": 144, "checksum": 248}),
    ],
)
def test_size_and_places(kind: type[Structure], size: int, places: dict[str, int]) -> None:
    assert size == kind.SIZE
    assert {name: kind.offset_of(name) for name in places} == places
    data = bytes(range(256)) * 2
    assert kind.unpack_from(data, 7).pack() == data[7 : 7 + size]


C_FIELDS: dict[str, tuple[type[Structure], dict[str, str]]] = {
    "nfit_spa": (layouts.SpaRange, {"proximity": "proximity_domain", "guid": "range_type", "length": "size"}),
    "nfit_memdev": (layouts.MemoryMap, {"handle": "device_handle", "dcr_index": "control_index", "dpa": "region_dpa"}),
    "nfit_dcr": (layouts.ControlRegion, {"serial": "serial_number", "interface_code": "format_interface"}),
    "nfit_capabilities": (layouts.PlatformCapabilities, {"highest": "highest_valid", "reserved2": "reserved_end"}),
}


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (apt install gcc)")
def test_the_compiler_lays_out_the_guests_structures_alike(tmp_path: Path) -> None:
    lines = ['#include "acpi.h"', "#include <stddef.h>"]
    for c_name, (kind, names) in C_FIELDS.items():
        for c_field, name in {**names, "reserved": "reserved"}.items():
            offset = kind.offset_of(name)
            lines.append(f'_Static_assert(offsetof(struct {c_name}, {c_field}) == {offset}, "{c_name}.{c_field}");')
        if kind is not layouts.ControlRegion:  # the guests read only its first part
            lines.append(f'_Static_assert(sizeof(struct {c_name}) == {kind.SIZE}, "{c_name}");')
    (tmp_path / "check.c").write_text("\n".join(lines) + "\n")
    library = Path(__file__).parents[3] / "guest" / "lib"
    done = subprocess.run(
        ["cc", "-ffreestanding", "-fsyntax-only", "-I", str(library), str(tmp_path / "check.c")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_guid_and_uuid_byte_orders() -> None:
    text = UUID("66f0d379-b4f3-4074-ac43-0d3318b78cdb")
    label = label_layouts.LabelV12(uuid=text, name=bytes(64), flags=0, set_cookie=0, dpa=0, raw_size=0, slot=0).pack()
    assert label[:16].hex() == "66f0d379b4f34074ac430d3318b78cdb"
    assert label[128:144].hex() == "79d3f066f3b47440ac430d3318b78cdb"


@pytest.mark.parametrize(("length", "offset"), [(0, 0), (71, 0), (72, 1), (100, 200), (100, -1)])
def test_short_data_is_named(length: int, offset: int) -> None:
    with pytest.raises(LayoutError, match=r"IndexHeader at offset .* expected 72 bytes"):
        label_layouts.IndexHeader.unpack_from(bytes(length), offset)


def test_a_gap_in_a_declaration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Wrong\.second is declared at 4"):

        @structure
        class Wrong(Structure):
            first: int = u16(0)
            second: int = u32(4)


def test_fields_are_frozen_and_need_values() -> None:
    @structure
    class Pair(Structure):
        first: int = u8(0)
        rest: bytes = octets(1, 3, default=b"abc")

    pair = Pair(first=1)
    assert pair.pack() == b"\x01abc"
    with pytest.raises(AttributeError):
        pair.first = 2  # type: ignore[misc]  # what the test is about
    with pytest.raises(AttributeError):
        del pair.first
    assert pair.replace(first=2).pack() == b"\x02abc"
    with pytest.raises(TypeError, match="third"):
        pair.replace(third=3)
    with pytest.raises(TypeError):
        Pair()


def test_equality_is_by_type_and_fields() -> None:
    transfer = dsm_layouts.DsmTransfer(offset=1, length=2)
    assert transfer == dsm_layouts.DsmTransfer(offset=1, length=2) != transfer.replace(length=3)
    assert len({transfer, dsm_layouts.DsmTransfer(offset=1, length=2)}) == 1
    assert layouts.NfitHeader(type=1, length=2) != layouts.SmbiosInformation(type=1, length=2)
    assert repr(transfer) == "DsmTransfer(offset=1, length=2)"
