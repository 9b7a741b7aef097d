"""The pictures of structures are drawn from the declarations, and show the bytes that are really there."""

from __future__ import annotations

import runpy
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.config import PersistenceDomain
from emu.devices.nvdimm import nfit
from emu.devices.nvdimm.index import Version
from emu.devices.nvdimm.label_layouts import IndexHeader, LabelV12
from emu.devices.nvdimm.labels import BytesLabels, initialise

DOCS = Path(__file__).parents[3] / "docs"
DRAWN = runpy.run_path(str(DOCS / "pictures.py"))
SVG = "{http://www.w3.org/2000/svg}"


def boxes(picture: str) -> dict[str, list[tuple[int, int, str]]]:
    """(offset, width, field) of the boxes in each group of a picture that is in the docs."""
    root = ET.parse(DRAWN["FIGURES"] / f"{picture}.svg").getroot()
    return {
        group.attrib["data-structure"]: [
            (int(box.attrib["data-offset"]), int(box.attrib["data-width"]), box.attrib.get("data-field", ""))
            for box in group.iter(f"{SVG}rect")
        ]
        for group in root.iter(f"{SVG}g")
    }


def texts(picture: str) -> Iterator[str]:
    root = ET.parse(DRAWN["FIGURES"] / f"{picture}.svg").getroot()
    return (str(text.text) for text in root.iter(f"{SVG}text"))


@pytest.mark.parametrize("name", DRAWN["PICTURES"])
def test_picture_is_up_to_date(name: str) -> None:
    drawn = DRAWN["PICTURES"][name]()
    assert (DRAWN["FIGURES"] / f"{name}.svg").read_text("utf-8") == drawn, "run: python docs/pictures.py"


@pytest.mark.parametrize("name", ["nfit", "label-area"])
def test_boxes_leave_no_gap(name: str) -> None:
    for structure, found in boxes(name).items():
        end = 0
        for offset, width, field in found:
            assert offset == end, (structure, field)
            end = offset + width


def test_the_nfit_is_drawn_to_its_last_byte() -> None:
    table = nfit.nfit_table([DRAWN["EXAMPLE"]], PersistenceDomain.ADR)
    drawn = boxes("nfit")
    assert sum(width for found in drawn.values() for _, width, _ in found) == len(table)
    assert f"{DRAWN['EXAMPLE'].gpa:#x}" in texts("nfit")
    assert len(drawn) == 1 + len(nfit.parse(table[nfit.HEADER_SIZE :]))


def test_the_label_area_is_where_a_fresh_one_has_its_parts() -> None:
    storage = BytesLabels(bytearray(DRAWN["AREA"]))
    initialise(storage, Version.V1_2)
    drawn = boxes("label-area")
    (first, second, slot, *_, last) = drawn["ranges"]
    for offset, length, _ in (first, second):
        header = IndexHeader.unpack_from(storage.read(offset, length))
        assert (header.my_offset, header.my_size, header.label_offset) == (offset, length, slot[0])
        assert last[0] == slot[0] + (header.slots - 1) * slot[1]
        assert DRAWN["AREA"] - last[1] <= last[0] + last[1] <= DRAWN["AREA"]
    for kind in (IndexHeader, LabelV12):
        found = drawn[kind.__name__]
        assert {field: kind.offset_of(field) for _, _, field in found} == {
            field: min(at for at, _, other in found if other == field) for _, _, field in found
        }
        assert found[-1][0] + found[-1][1] == kind.SIZE
    assert slot[1] == LabelV12.SIZE
