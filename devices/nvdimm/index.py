"""The two namespace index blocks at the start of a label area: geometry, validation, choice of the current one.

Source: UEFI 2.10, section 13.19.2 and 13.19.3; sizes as Linux and ndctl compute them. The layout is
``[index 0][index 1][slot 0][slot 1]...``; an index says which slots hold a label, and the one with the newer sequence
number counts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from emu.devices.nvdimm.fletcher import fletcher64
from emu.devices.nvdimm.label_layouts import INDEX_SIGNATURE, IndexHeader, LabelV11, LabelV12
from emu.errors import UsageError
from emu.units import align_up

INDEX_ALIGNMENT = 256
_CHECKSUM = slice(IndexHeader.offset_of("checksum"), IndexHeader.offset_of("checksum") + 8)


class LabelError(UsageError):
    """A label area or a wish about it that is not valid; ``what`` says which rule is broken."""


class Version(enum.Enum):
    """Versions of labels: ``1.1`` (Linux before UEFI) and ``1.2`` (UEFI 2.7 and later)."""

    V1_1 = "1.1"
    V1_2 = "1.2"

    @property
    def label_size(self) -> int:
        return LabelV11.SIZE if self is Version.V1_1 else LabelV12.SIZE

    @property
    def minor(self) -> int:
        return 1 if self is Version.V1_1 else 2


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things are in a label area of ``area_size`` bytes with labels of ``version``."""

    version: Version
    area_size: int
    index_size: int
    slots: int

    @property
    def label_offset(self) -> int:
        return 2 * self.index_size

    def slot_offset(self, slot: int) -> int:
        return self.label_offset + slot * self.version.label_size


def geometry(version: Version, area_size: int) -> Geometry:
    """The geometry of an area of ``area_size`` bytes; LabelError when two labels do not fit."""
    label_size = version.label_size
    index_size = _index_size(area_size // label_size)
    slots = (area_size - 2 * index_size) // label_size
    if slots < 2:
        raise LabelError(
            f"a label area of {area_size} bytes has no room for two index blocks and two labels",
            "give a label size of at least 128K",
        )
    return Geometry(version, area_size, _index_size(slots), slots)


def _index_size(slots: int) -> int:
    return align_up(IndexHeader.SIZE + -(-slots // 8), INDEX_ALIGNMENT)


@dataclass(frozen=True, slots=True)
class Index:
    """One index block. ``free`` is its bitmap as a number: bit n is set when slot n is free.

    Bits from ``header.slots`` on mean nothing; they are kept as read, because writers differ in them.
    """

    header: IndexHeader
    free: int

    def used_slots(self) -> Iterator[int]:
        """The slots that hold a label, in rising order."""
        used = ~self.free & (1 << self.header.slots) - 1
        while used:
            lowest = used & -used
            yield lowest.bit_length() - 1
            used ^= lowest

    def free_slot(self) -> int | None:
        """The lowest free slot."""
        free = self.free & (1 << self.header.slots) - 1
        return (free & -free).bit_length() - 1 if free else None

    def free_slots(self) -> int:
        """How many slots are free."""
        return (self.free & (1 << self.header.slots) - 1).bit_count()


def initial_index(number: int, where: Geometry, *, set_tail: bool) -> Index:
    """Index block ``number`` (0 or 1) of an area without labels; block 0 is the current one.

    ``set_tail`` sets the bitmap's bits beyond the last slot up to a multiple of 64, as ndctl does; Linux clears them.
    """
    header = IndexHeader(
        flags=bytes(3),
        label_size_code=where.version.minor - 1,
        sequence=3 - number,
        my_offset=number * where.index_size,
        my_size=where.index_size,
        other_offset=(1 - number) * where.index_size,
        label_offset=where.label_offset,
        slots=where.slots,
        minor=where.version.minor,
    )
    return Index(header, (1 << (align_up(where.slots, 64) if set_tail else where.slots)) - 1)


def next_index(current: Index, current_number: int, where: Geometry, free: int) -> Index:
    """The block that replaces the other one: the next sequence number, and ``free`` as its bitmap."""
    number = 1 - current_number
    header = current.header.replace(
        sequence=next_sequence(current.header.sequence),
        my_offset=number * where.index_size,
        other_offset=current_number * where.index_size,
    )
    return Index(header, free)


def pack_index(index: Index, where: Geometry) -> bytes:
    """The block's bytes, ``where.index_size`` of them, sealed with their checksum."""
    bitmap = index.free.to_bytes(where.index_size - IndexHeader.SIZE, "little")
    checksum = fletcher64(index.header.replace(checksum=0).pack() + bitmap)
    return index.header.replace(checksum=checksum).pack() + bitmap


def read_index(data: bytes, number: int, where: Geometry) -> Index:
    """Block ``number`` from its ``where.index_size`` bytes ``data``; LabelError names the first broken rule."""
    header = IndexHeader.unpack_from(data)
    size = where.index_size

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise LabelError(f"index {number}: {what}")

    require(header.signature == INDEX_SIGNATURE, "signature is not NAMESPACE_INDEX")
    label_size = 128 << header.label_size_code if header.major == 1 and header.minor >= 2 else LabelV11.SIZE
    require(header.major == 1, f"version {header.major}.{header.minor} is not supported")
    require(label_size == where.version.label_size, f"label size is {label_size}, expected {where.version.label_size}")
    blank = bytearray(data)
    blank[_CHECKSUM] = bytes(8)
    checksum = fletcher64(bytes(blank))
    require(header.checksum == checksum, f"checksum is {header.checksum:#018x}, expected {checksum:#018x}")
    require(header.sequence & 3 != 0, f"sequence number {header.sequence} is invalid")
    for name, value, expected in (
        ("own offset", header.my_offset, number * size),
        ("other offset", header.other_offset, (1 - number) * size),
        ("label offset", header.label_offset, where.label_offset),
    ):
        require(value == expected, f"{name} is {value:#x}, expected {expected:#x}")
    require(IndexHeader.SIZE <= header.my_size <= size, f"size is {header.my_size}, expected up to {size}")
    require(header.slots <= where.slots, f"{header.slots} label slots do not fit, there is room for {where.slots}")
    return Index(header, int.from_bytes(data[IndexHeader.SIZE :], "little"))


def next_sequence(sequence: int) -> int:
    """The sequence number after ``sequence``: 1, 2, 3, 1, ...; 0 is never used."""
    return (0, 2, 3, 1)[sequence & 3]


def choose(first: Index | None, second: Index | None) -> int | None:
    """Which block counts (0 or 1), given the valid ones; None when there is none. Of equal ones the second counts."""
    if first is None or second is None:
        return 0 if first is not None else 1 if second is not None else None
    a, b = first.header.sequence & 3, second.header.sequence & 3
    return 1 if a == b or next_sequence(a) == b else 0
