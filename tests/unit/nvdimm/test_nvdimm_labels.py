"""Label areas: vectors of Linux and ndctl, validation, choice of the index, updates, and power cuts at every byte."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from uuid import UUID

import pytest

from emu.devices.nvdimm import labels
from emu.devices.nvdimm.fletcher import fletcher64
from emu.devices.nvdimm.index import (
    Index,
    LabelError,
    Version,
    choose,
    geometry,
    initial_index,
    next_sequence,
    pack_index,
)
from emu.devices.nvdimm.label_layouts import Guids, IndexHeader, LabelFlags, LabelV12
from emu.devices.nvdimm.labels import BytesLabels, LabelArea, initialise
from emu.devices.nvdimm.namespace import Mode, Namespace, make_label, mode_of, name_of, seal, set_cookie
from emu.units import KIB, MIB
from tests.fuzzing import times
from tests.unit.nvdimm.nvdimm_doubles import LABEL_SIZE, PowerCut, ShuffledLabels, TornLabels

IDENTITY = UUID("00112233-4455-6677-8899-aabbccddeeff")
OTHER = UUID("ffeeddcc-bbaa-9988-7766-554433221100")
DIMM = Namespace(IDENTITY, 0, 0x1000000)


def blank(size: int = LABEL_SIZE) -> BytesLabels:
    return BytesLabels(bytearray(size))


def area_with(*namespaces: Namespace, version: Version = Version.V1_2, size: int = LABEL_SIZE) -> BytesLabels:
    storage = blank(size)
    area = initialise(storage, version)
    for namespace in namespaces:
        area.create(namespace, 0)
    return storage


# What others compute


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (bytes(256), 0),
        (bytes(range(256)), 0x9D754A80601FDF80),
        (b"\xff" * 8, 0xFFFFFFFDFFFFFFFE),
        (b"\x01\0\0\0", 0x100000001),
        (b"NAMESPACE_INDEX\0", 0x7BE3F9FFD730362A),
    ],
)
def test_fletcher64(data: bytes, checksum: int) -> None:
    assert fletcher64(data) == checksum


@pytest.mark.parametrize(
    ("size", "version", "slots", "index_size"),
    [
        (128 * KIB, Version.V1_1, 1020, 256),
        (128 * KIB, Version.V1_2, 510, 256),
        (256 * KIB, Version.V1_1, 2040, 512),
        (256 * KIB, Version.V1_2, 1022, 256),
        (MIB, Version.V1_1, 8172, 1280),
        (MIB, Version.V1_2, 4090, 768),
        (2 * MIB, Version.V1_1, 16348, 2304),
        (2 * MIB, Version.V1_2, 8182, 1280),
    ],
)
def test_geometry(size: int, version: Version, slots: int, index_size: int) -> None:
    where = geometry(version, size)
    assert (where.slots, where.index_size, where.label_offset) == (slots, index_size, 2 * index_size)


@pytest.mark.parametrize("size", [0, 512, 767])
def test_too_small_for_labels(size: int) -> None:
    with pytest.raises(LabelError, match="no room"):
        geometry(Version.V1_1, size)
    with pytest.raises(LabelError, match="no room"):
        LabelArea(blank(size))
    assert not labels.check(blank(size)).valid


@pytest.mark.parametrize(
    ("slot", "first", "second"),
    [
        (0, 0x002468AC00123456, 0x00BA90120012B4DC),
        (1, 0x002468AE00123457, 0x00BA901C0012B4DD),
        (2, 0x002468B000123458, 0x00BA90260012B4DE),
    ],
)
def test_set_cookies(slot: int, first: int, second: int) -> None:
    assert (set_cookie(Version.V1_1, slot), set_cookie(Version.V1_2, slot)) == (first, second)


def test_label_vectors() -> None:
    label = make_label(Version.V1_2, replace(DIMM, mode=Mode.FSDAX), 0, set_cookie(Version.V1_2, 0), 0)
    assert isinstance(label, LabelV12)
    assert label.checksum == 0x4E18EAB8403422DD
    assert (
        hashlib.sha256(label.pack()).hexdigest() == "9470c456867c015057acba6f1865299a7599a10f34c3b4458c2cb45435f8d757"
    )
    old = make_label(Version.V1_1, DIMM, 0, set_cookie(Version.V1_1, 0), 0)
    assert hashlib.sha256(old.pack()).hexdigest() == "3812ce58906ab10067654bb938cc0e967f1f549a93bdab10459d5b647cccfffe"


@pytest.mark.parametrize(
    ("version", "tail", "first", "second", "place", "byte"),
    [
        (Version.V1_1, False, 0xDB634621E7313E0A, 0xDB6349E6E7313E09, 199, 0x0F),
        (Version.V1_2, False, 0xE793E3ED18323C1C, 0xE793E7B218323C1B, 135, 0x3F),
        (Version.V1_1, True, 0xEB634621D7313E0A, 0xEB6349E6D7313E09, 199, 0xFF),
        (Version.V1_2, True, 0x2793E3EDD8323C1C, 0x2793E7B2D8323C1B, 135, 0xFF),
    ],
)
def test_initial_index_of_linux_and_ndctl(
    version: Version, tail: bool, first: int, second: int, place: int, byte: int
) -> None:
    where = geometry(version, LABEL_SIZE)
    for number, checksum in ((0, first), (1, second)):
        data = pack_index(initial_index(number, where, set_tail=tail), where)
        assert struct.unpack_from("<Q", data, 64) == (checksum,)
        assert data[place] == byte
    storage = blank()
    area = initialise(storage, version, linux=not tail)
    assert area.number == 0
    assert struct.unpack_from("<Q", storage.content, 64) == (first,)
    assert not any(storage.content[512:])


# Validation and choice


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [(3, 2, 0), (2, 3, 1), (3, 1, 1), (1, 3, 0), (1, 2, 1), (2, 1, 0), (2, 2, 1), (1, None, 0), (None, 1, 1)],
)
def test_choice(first: int | None, second: int | None, chosen: int) -> None:
    def index(sequence: int | None) -> Index | None:
        if sequence is None:
            return None
        block = initial_index(0, geometry(Version.V1_2, LABEL_SIZE), set_tail=False)
        return replace(block, header=block.header.replace(sequence=sequence))

    assert choose(index(first), index(second)) == chosen
    assert choose(None, None) is None


def test_sequence() -> None:
    assert [next_sequence(number) for number in range(8)] == [0, 2, 3, 1, 0, 2, 3, 1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"signature": bytes(16)}, "signature"),
        ({"major": 2, "minor": 1}, "version 2.1 is not supported"),
        ({"label_size_code": 2}, "label size is 512, expected 256"),
        ({"sequence": 4}, "sequence number 4"),
        ({"my_offset": 256}, "own offset"),
        ({"other_offset": 0}, "other offset"),
        ({"label_offset": 256}, "label offset"),
        ({"my_size": 71}, "size is 71"),
        ({"my_size": 257}, "size is 257"),
        ({"slots": 511}, "511 label slots do not fit"),
    ],
)
def test_broken_rules_are_named(change: dict[str, int], why: str) -> None:
    storage = area_with(DIMM)
    where = geometry(Version.V1_2, LABEL_SIZE)
    area = LabelArea(storage)
    assert area.number == 0
    storage.write(0, pack_index(replace(area.index, header=area.index.header.replace(**change)), where))
    assert any(why in flaw for flaw in LabelArea(storage).flaws)
    assert any(why in warning for warning in labels.check(storage).warnings)
    storage.write(256, bytes(256))
    report = labels.check(storage)
    assert not report.valid
    assert "no valid namespace index" in report.errors[0]


def test_broken_checksum() -> None:
    storage = area_with()
    storage.content[100] ^= 1
    assert "index 0: checksum is 0x" in LabelArea(storage).flaws[0]


def test_an_older_kernels_area_of_fewer_slots_is_valid() -> None:
    where = geometry(Version.V1_1, LABEL_SIZE)
    storage = blank()
    for number in (0, 1):
        index = initial_index(number, where, set_tail=False)
        header = index.header.replace(slots=1016)
        storage.write(number * 256, pack_index(Index(header, (1 << 1016) - 1), where))
    area = LabelArea(storage)
    assert area.index.header.slots == 1016
    area.create(DIMM, 0)
    assert [label.slot for label in LabelArea(storage).labels()] == [1]


def test_label_flaws_are_named() -> None:
    storage = area_with(DIMM, Namespace(OTHER, 0x1000000, 0x1000000))
    where = geometry(Version.V1_2, LABEL_SIZE)
    first, second = LabelArea(storage).labels()
    storage.write(where.slot_offset(first.slot) + 16, b"x")
    assert labels.check(storage).warnings[0].startswith("slot 1: checksum is 0x")
    storage.write(where.slot_offset(first.slot), seal(first.replace(slot=9)).pack())
    assert labels.check(storage).warnings == ("slot 1: the label says it belongs to slot 9",)
    storage.write(where.slot_offset(first.slot), seal(first.replace(dpa=0x1FFF000)).pack())
    assert labels.check(storage).warnings == (f"slots {second.slot} and 1: their namespaces overlap",)
    storage.write(where.slot_offset(first.slot), seal(first.replace(flags=LabelFlags.UPDATING)).pack())
    assert labels.check(storage).warnings == (f"slot 1: an update of namespace {IDENTITY} did not finish",)
    assert labels.check(storage).valid


# Changes


@pytest.mark.parametrize("version", Version)
def test_create_and_delete(version: Version) -> None:
    storage = blank()
    area = initialise(storage, version)
    mode = Mode.FSDAX if version is Version.V1_2 else Mode.RAW
    made = area.create(replace(DIMM, name="data \u00e4", mode=mode), 0)
    assert (made.slot, made.flags) == (1, 0)
    assert made.set_cookie == set_cookie(version, 0)
    again = LabelArea(storage)
    assert again.labels() == (made,)
    assert (again.number, again.index.header.sequence) == (0, 2)
    assert name_of(made) == "data \u00e4"
    assert mode_of(made) == (mode if version is Version.V1_2 else None)
    more = again.create(Namespace(OTHER, 0x1000000, 0x2000), 0)
    assert more.slot == 2
    assert again.free_extents(0x1004000) == [(0x1002000, 0x1004000)]
    again.delete(IDENTITY)
    assert LabelArea(storage).labels() == (more,)
    assert again.free_extents(0x1004000) == [(0, 0x1000000), (0x1002000, 0x1004000)]
    with pytest.raises(LabelError, match="no namespace"):
        again.delete(IDENTITY)


def test_labels_in_use_are_never_written_in_place() -> None:
    storage = area_with()
    area = LabelArea(storage)

    class Watched(BytesLabels):
        def write(self, offset: int, data: bytes) -> None:
            now = LabelArea(BytesLabels(bytearray(self.content)))
            used = [(now.number * 256, now.number * 256 + 256)]
            used += [
                (now.where.slot_offset(slot), now.where.slot_offset(slot) + 256) for slot in now.index.used_slots()
            ]
            assert all(offset + len(data) <= start or end <= offset for start, end in used)
            super().write(offset, data)

    area = LabelArea(Watched(storage.content))
    for number in range(20):
        area.create(Namespace(UUID(int=number + 1), number * 0x1000, 0x1000), 0)
    area.delete(UUID(int=3))
    area.create(Namespace(UUID(int=99), 2 * 0x1000, 0x1000), 0)
    assert len(area.labels()) == 20


@pytest.mark.parametrize(
    ("namespace", "why"),
    [
        (Namespace(OTHER, 0xFFF000, 0x2000), "would overlap"),
        (replace(DIMM, dpa=0x2000000), "is already used"),
        (Namespace(OTHER, 0x1000000, 0), "not made of pages"),
        (Namespace(OTHER, 0x1000001, 0x1000), "not made of pages"),
        (Namespace(OTHER, 0x1000000, 0x1000, name="x" * 64), "too long"),
        (Namespace(OTHER, 0x1000000, 0x1000, name="a\0b"), "too long"),
    ],
)
def test_create_refuses(namespace: Namespace, why: str) -> None:
    storage = area_with(DIMM)
    before = bytes(storage.content)
    with pytest.raises(LabelError, match=why):
        LabelArea(storage).create(namespace, 0)
    assert bytes(storage.content) == before


def test_version_1_1_says_no_mode() -> None:
    with pytest.raises(LabelError, match="cannot say the mode 'fsdax'"):
        area_with(replace(DIMM, mode=Mode.FSDAX), version=Version.V1_1)


def test_full_area() -> None:
    storage = blank(1024)
    area = initialise(storage, Version.V1_2)
    assert area.where.slots == 2
    area.create(DIMM, 0)
    with pytest.raises(LabelError, match="no two label slots"):
        area.create(Namespace(OTHER, 0x1000000, 0x1000), 0)


def test_init_needs_force_on_a_valid_area() -> None:
    storage = area_with(DIMM)
    with pytest.raises(LabelError, match=r"already initialised \(version 1.2, 1 label\)"):
        initialise(storage, Version.V1_1)
    assert initialise(storage, Version.V1_1, force=True).version is Version.V1_1
    assert LabelArea(storage).labels() == ()


def test_blank() -> None:
    assert labels.is_blank(blank())
    assert not labels.is_blank(area_with())


# Power cuts

SMALL = 4 * KIB
FIRST = Namespace(IDENTITY, 0, 0x10000, name="first", mode=Mode.DEVDAX)
SECOND = Namespace(OTHER, 0x10000, 0x10000, name="second")
Outcome = tuple[tuple[UUID, int], ...] | None


def outcome(content: bytes | bytearray) -> Outcome:
    """The namespaces and their flags, None for an area that does not validate."""
    try:
        area = LabelArea(BytesLabels(bytearray(content)))
    except LabelError:
        return None
    assert len(area.labels()) == len(list(area.index.used_slots())), "a label in use is damaged"
    return tuple((label.uuid, label.flags) for label in area.labels())


def cut_everywhere(before: bytes, change: Callable[[TornLabels], object]) -> list[Outcome]:
    """The distinct outcomes, in order, of ``change`` when the power fails after any number of bytes."""
    seen: list[Outcome] = []
    budget = 0
    while True:
        storage = TornLabels(before, budget)
        try:
            change(storage)
        except PowerCut:
            finished = False
        else:
            finished = True
        found = outcome(storage.content)
        if not seen or seen[-1] != found:
            seen.append(found)
        if finished:
            return seen
        budget += 1


def test_a_power_cut_while_creating() -> None:
    before = bytes(area_with(FIRST, size=SMALL).content)
    seen = cut_everywhere(before, lambda storage: LabelArea(storage).create(SECOND, 0))
    old = ((IDENTITY, 0),)
    assert seen[0] == old
    assert sorted(seen[1] or ()) == sorted((*old, (OTHER, LabelFlags.UPDATING)))
    assert sorted(seen[-1] or ()) == sorted((*old, (OTHER, 0)))
    assert len(seen) == 3


def test_a_power_cut_while_creating_in_version_1_1() -> None:
    before = bytes(area_with(replace(FIRST, mode=Mode.RAW), version=Version.V1_1, size=SMALL).content)
    assert len(cut_everywhere(before, lambda storage: LabelArea(storage).create(SECOND, 0))) == 3


def test_a_power_cut_while_deleting() -> None:
    before = bytes(area_with(FIRST, SECOND, size=SMALL).content)
    seen = cut_everywhere(before, lambda storage: LabelArea(storage).delete(IDENTITY))
    assert seen == [((IDENTITY, 0), (OTHER, 0)), ((OTHER, 0),)]


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("target", Version)
@pytest.mark.parametrize("deleted", [False, True])
def test_a_power_cut_while_initialising(version: Version, target: Version, deleted: bool) -> None:
    storage = area_with(replace(FIRST, mode=Mode.RAW), SECOND, version=version, size=SMALL)
    if deleted:  # now the other index block counts
        LabelArea(storage).delete(IDENTITY)
    old = outcome(storage.content)
    seen = cut_everywhere(bytes(storage.content), lambda torn: initialise(torn, target, force=True))
    assert seen == [old, ()]


def test_a_power_cut_while_initialising_a_blank_area() -> None:
    seen = cut_everywhere(bytes(SMALL), lambda torn: initialise(torn, Version.V1_2))
    assert seen == [None, ()]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_power_cut_while_zeroing(deleted: bool) -> None:
    storage = area_with(FIRST, SECOND, size=SMALL)
    if deleted:
        LabelArea(storage).delete(IDENTITY)
    old = outcome(storage.content)
    seen = cut_everywhere(bytes(storage.content), lambda torn: labels.zero(torn, 0, SMALL))
    assert seen == [old, None]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_power_cut_while_replacing(deleted: bool) -> None:
    old, new = (
        area_with(FIRST, version=Version.V1_2, size=SMALL),
        area_with(SECOND, replace(FIRST, dpa=0x20000), size=SMALL),
    )
    if deleted:
        LabelArea(new).delete(OTHER)
    seen = cut_everywhere(bytes(old.content), lambda torn: labels.replace_content(torn, bytes(new.content)))
    assert seen == [outcome(old.content), None, outcome(new.content)]


@pytest.mark.fuzz
@pytest.mark.parametrize("version", Version)
def test_a_power_cut_that_keeps_any_of_the_eight_byte_words(version: Version) -> None:
    """With a MAP_SYNC mapping the words of one write may reach the medium in any order."""
    before = bytes(area_with(replace(FIRST, mode=Mode.RAW), version=version, size=SMALL).content)
    old = outcome(before)
    allowed = [old, ((IDENTITY, 0), (OTHER, LabelFlags.UPDATING)), ((OTHER, 0), (IDENTITY, 0))]
    chance = random.Random(3)
    for cut in range(4):
        for _ in range(times(100)):
            storage = ShuffledLabels(before, cut, chance)
            with pytest.raises(PowerCut):
                LabelArea(storage).create(SECOND, 0)
            found = outcome(storage.content)
            assert sorted(found or ()) in [sorted(item or ()) for item in allowed]
            assert found is not None


# From 256 KiB on, index blocks of the two versions differ in size, so that those of one lie on labels of the other.
LARGE = (212 * KIB, 256 * KIB, 1 * MIB)
OTHER_VERSION = {Version.V1_1: Version.V1_2, Version.V1_2: Version.V1_1}


def cut_at_random(before: bytes, change: Callable[[ShuffledLabels], object], chance: random.Random) -> set[Outcome]:
    """The outcomes of ``change`` when the power fails in any of its writes, of which any words have arrived."""
    seen: set[Outcome] = set()
    for cut in count():
        for _ in range(times(6)):
            storage = ShuffledLabels(before, cut, chance)
            try:
                change(storage)
            except PowerCut:
                seen.add(outcome(storage.content))
            else:
                assert cut
                return seen
    raise AssertionError


@pytest.mark.fuzz
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("deleted", [False, True])
def test_a_power_cut_while_the_version_of_a_large_area_changes(version: Version, size: int, deleted: bool) -> None:
    storage = area_with(replace(FIRST, mode=Mode.RAW), SECOND, version=version, size=size)
    if deleted:
        LabelArea(storage).delete(IDENTITY)
    before, old = bytes(storage.content), outcome(storage.content)
    target = OTHER_VERSION[version]
    seen = cut_at_random(before, lambda torn: initialise(torn, target, force=True), random.Random(5))
    assert seen == {old, ()}
    assert initialise(storage, target, force=True).version is target
    # And nothing of the old version comes back later.
    labels.zero(storage, 0, 2 * geometry(target, size).index_size)
    assert outcome(storage.content) is None


@pytest.mark.fuzz
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("version", Version)
def test_a_power_cut_while_a_large_area_is_replaced_by_one_of_another_version(version: Version, size: int) -> None:
    old = area_with(FIRST if version is Version.V1_2 else replace(FIRST, mode=Mode.RAW), version=version, size=size)
    new = area_with(replace(SECOND, mode=Mode.RAW), version=OTHER_VERSION[version], size=size)
    wanted = bytes(new.content)
    seen = cut_at_random(bytes(old.content), lambda torn: labels.replace_content(torn, wanted), random.Random(6))
    assert seen <= {outcome(old.content), None, outcome(wanted)}
    assert None in seen


def test_replace_with_anything() -> None:
    storage = area_with(FIRST)
    content = bytes(range(256)) * 512
    labels.replace_content(storage, content)
    assert bytes(storage.content) == content
    with pytest.raises(LabelError, match="cannot take 1"):
        labels.replace_content(storage, b"x")


def test_zero_of_a_part_keeps_the_rest() -> None:
    storage = area_with(FIRST)
    content = bytes(storage.content)
    labels.zero(storage, 768, 256)
    assert bytes(storage.content) == content[:768] + bytes(256) + content[1024:]
    labels.zero(storage, 0, LABEL_SIZE)
    assert not any(storage.content)


def test_guids_of_modes() -> None:
    assert IndexHeader.SIZE == 72
    label = make_label(Version.V1_2, replace(DIMM, mode=Mode.SECTOR, sector_size=4096), 3, 0, 0)
    assert isinstance(label, LabelV12)
    assert (label.abstraction_guid, label.lba_size, label.slot) == (Guids.BTT, 4096, 3)
    assert mode_of(seal(label.replace(abstraction_guid=UUID(int=1)))) is None
