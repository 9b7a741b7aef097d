"""Layouts: sizes and places from the specifications, packing both ways, and the rules that a declaration must keep."""

from __future__ import annotations

from uuid import UUID

import pytest

from devices.nvdimm import layouts
from devices.nvdimm.structure import LayoutError, Structure, octets, structure, u8, u16, u32


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
            layouts.IndexHeader,
            72,
            {"label_size_code": 19, "sequence": 20, "label_offset": 48, "slots": 56, "minor": 62},
        ),
        (layouts.LabelV11, 128, {"flags": 80, "set_cookie": 88, "dpa": 104, "slot": 120}),
        (layouts.LabelV12, 256, {"alignment": 124, "type_guid": 128, "abstraction_guid": 144, "checksum": 248}),
    ],
)
def test_size_and_places(kind: type[Structure], size: int, places: dict[str, int]) -> None:
    assert size == kind.SIZE
    assert {name: kind.offset_of(name) for name in places} == places
    data = bytes(range(256)) * 2
    assert kind.unpack_from(data, 7).pack() == data[7 : 7 + size]


def test_guid_and_uuid_byte_orders() -> None:
    text = UUID("66f0d379-b4f3-4074-ac43-0d3318b78cdb")
    label = layouts.LabelV12(uuid=text, name=bytes(64), flags=0, set_cookie=0, dpa=0, raw_size=0, slot=0).pack()
    assert label[:16].hex() == "66f0d379b4f34074ac430d3318b78cdb"
    assert label[128:144].hex() == "79d3f066f3b47440ac430d3318b78cdb"


@pytest.mark.parametrize(("length", "offset"), [(0, 0), (71, 0), (72, 1), (100, 200), (100, -1)])
def test_short_data_is_named(length: int, offset: int) -> None:
    with pytest.raises(LayoutError, match=r"IndexHeader at offset .* expected 72 bytes"):
        layouts.IndexHeader.unpack_from(bytes(length), offset)


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
    with pytest.raises(TypeError):
        Pair()  # type: ignore[call-arg]  # what the test is about
