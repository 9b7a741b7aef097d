"""Label areas of any size are found in files of any size, and nothing else is."""

from __future__ import annotations

import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.nvdimm.index import Version
from emu.devices.nvdimm.label_layouts import INDEX_SIGNATURE
from emu.devices.nvdimm.label_search import Found, find_areas
from emu.devices.nvdimm.labels import BytesLabels, LabelArea, initialise
from emu.devices.nvdimm.namespace import Mode, Namespace
from emu.units import KIB, MIB

SIZES = [128 * KIB, 128 * KIB + 1, 131_328, 200_001, 256 * KIB, 384 * KIB, 512 * KIB - 1, MIB, 2 * MIB, 3 * MIB + 4096]


def area(size: int, version: Version, *, linux: bool = False) -> bytearray:
    content = BytesLabels(bytearray(size))
    made: LabelArea = initialise(content, version, linux=linux)
    made.create(Namespace(uuid.UUID(int=7), 0, 16 * MIB, "n", Mode.RAW), 0)
    return content.content


def find(data: bytes) -> list[Found]:
    return find_areas(lambda offset, length: bytes(data[offset : offset + length]), len(data))


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("before", [0, 1, 4096, 3 * MIB + 4096])
def test_any_size_at_the_end_of_any_file(size: int, before: int, version: Version) -> None:
    data = bytes(before) + area(size, version, linux=size % 2 == 0)
    assert find(data) == [Found(before, size, True, version)]


@pytest.mark.parametrize("number", [0, 1])
def test_one_good_index_block_is_enough(number: int) -> None:
    data = area(256 * KIB, Version.V1_2)
    data[512 * number // 2 + 30] ^= 1  # index blocks of 256 KiB and version 1.2 have 256 bytes
    assert find(bytes(4096) + data) == [Found(4096, 256 * KIB, True, Version.V1_2)]
    data[512 * (1 - number) // 2 + 30] ^= 1
    assert find(bytes(4096) + data) == []


def test_an_area_that_does_not_end_with_the_file() -> None:
    """The file grew, or it is a disk image that holds a dump: then the area is where it is, and of what it uses."""
    data = bytes(4096) + area(128 * KIB, Version.V1_2) + bytes(4 * MIB)
    (found,) = find(data)
    assert (found.start, found.at_end) == (4096, False)
    assert 127 * KIB < found.size <= 128 * KIB


def test_an_area_in_the_second_half_of_another() -> None:
    outer = area(256 * KIB, Version.V1_2)
    outer[128 * KIB :] = area(128 * KIB, Version.V1_1)
    assert find(bytes(outer)) == [
        Found(0, 256 * KIB, True, Version.V1_2),
        Found(128 * KIB, 128 * KIB, True, Version.V1_1),
    ]


def test_a_file_made_of_signatures_takes_no_time() -> None:
    data = INDEX_SIGNATURE * (2 * MIB // 16)
    began = time.process_time()
    assert find(data) == []
    assert time.process_time() - began < 5


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_is_never_an_error(data: st.DataObject) -> None:
    content = bytes(4096) + area(128 * KIB, Version.V1_2)
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(4096, 4096 + 511))
        damaged[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.sampled_from([len(content), 4096 + 300, 4096 + 20]))
    for found in find(bytes(damaged[:end])):
        assert found.start + found.size <= end
        assert damaged[found.start : found.start + 256] == content[4096:4352] or (
            damaged[found.start + 256 : found.start + 512] == content[4352:4608]
        )
