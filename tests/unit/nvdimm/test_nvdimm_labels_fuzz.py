"""Hostile label areas: at least ten thousand of them, of random bytes and of valid areas with damage."""

from __future__ import annotations

import random
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.nvdimm.index import Index, LabelError, Version, geometry, initial_index, pack_index
from emu.devices.nvdimm.labels import BytesLabels, LabelArea, check, initialise, is_blank
from emu.devices.nvdimm.namespace import Namespace, make_label, mode_of, name_of
from tests.unit.nvdimm.nvdimm_doubles import LABEL_SIZE

SIZE = 4096
SMALL = 1280
CASES = 20


def valid_area(version: Version, count: int) -> bytes:
    storage = BytesLabels(bytearray(SIZE))
    area = initialise(storage, version)
    for number in range(count):
        area.create(Namespace(UUID(int=number + 1), number * 0x1000, 0x1000, name=f"n{number}"), 0)
    return bytes(storage.content)


AREAS = [valid_area(version, count) for version in Version for count in (0, 1, 4)]


def use(content: bytearray) -> None:
    """Everything that reads an area; only LabelError may come out, and what is accepted must be consistent."""
    storage = BytesLabels(content)
    before = bytes(content)
    report = check(storage)
    try:
        is_blank(storage)
        area = LabelArea(storage)
    except LabelError as error:
        assert not report.valid
        assert error.what.isprintable()
    else:
        assert report.valid
        assert report.version is area.version
        for label in area.labels():
            name_of(label)
            mode_of(label)
            assert area.where.slot_offset(label.slot) + area.version.label_size <= storage.size
        assert all(start < end for start, end in area.free_extents(1 << 40))
    assert bytes(storage.content) == before, "reading changed the area"


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=CASES, max_size=CASES), st.integers(0, (1 << 64) - 1))
def test_random_areas(shapes: bytes, seed: int) -> None:
    chance = random.Random(seed)
    for shape in shapes:
        if shape < 32:
            use(bytearray(chance.randbytes(shape * 40)))
            continue
        content = bytearray(AREAS[shape % len(AREAS)])
        for _ in range(shape % 5):
            place = chance.randrange(512) if shape & 64 else chance.randrange(SIZE)
            content[place] = chance.getrandbits(8)
        if shape & 128:
            del content[chance.randrange(SIZE) :]
        use(content)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=8 * CASES, max_size=8 * CASES))
def test_sealed_lies(raw: bytes) -> None:
    """Index blocks with a right checksum and any numbers: the checksum is not what protects us."""
    for place in range(0, len(raw), 8):
        chance = random.Random(raw[place : place + 8])
        version = chance.choice(list(Version))
        where = geometry(version, SMALL)
        storage = BytesLabels(bytearray(SMALL))
        for number in (0, 1):
            header = initial_index(number, where, set_tail=False).header
            changes = {"sequence": chance.randrange(5)}
            if chance.random() < 0.5:
                changes[chance.choice(("slots", "my_size", "minor", "label_size_code"))] = chance.choice(
                    (0, 1, 2, where.slots, where.slots + 1, 255)
                )
            header = type(header)(**{**vars(header), **changes})
            free = chance.getrandbits(8 * (where.index_size - 72))
            storage.write(number * where.index_size, pack_index(Index(header, free), where))
        for slot in range(where.slots):
            lie = Namespace(UUID(int=chance.randrange(4)), chance.getrandbits(64), chance.getrandbits(64))
            label = make_label(version, lie, chance.choice((slot, slot, 0)), 0, chance.getrandbits(4))
            storage.write(where.slot_offset(slot), label.pack())
        use(storage.content)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, (1 << 64) - 1))
def test_random_histories_stay_valid(seed: int) -> None:
    """Creations and deletions in any order: the area says what a plain dictionary says."""
    chance = random.Random(seed)
    storage = BytesLabels(bytearray(LABEL_SIZE))
    area = initialise(storage, chance.choice(list(Version)))
    expected: dict[UUID, int] = {}
    for number in range(20):
        if expected and chance.random() < 0.4:
            gone = chance.choice(list(expected))
            area.delete(gone)
            del expected[gone]
        else:
            made = Namespace(UUID(int=number + 1), number * 0x1000, 0x1000)
            area.create(made, chance.randrange(4))
            expected[made.uuid] = made.dpa
        if chance.random() < 0.5:
            area = LabelArea(storage)
        assert {label.uuid: label.dpa for label in area.labels()} == expected
        assert check(storage).warnings == ()
