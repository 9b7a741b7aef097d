"""Where in a backing file label areas are: a valid namespace index block says where its area begins and how long it is.

The file does not say what label-size its NVDIMM has, and whoever guesses wrong destroys labels or data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from emu.devices.nvdimm.index import LabelError, Version, geometry, read_index
from emu.devices.nvdimm.label_layouts import INDEX_SIGNATURE, IndexHeader
from emu.units import MIB

# Label areas are at the end of a file, and small (128 KiB as a rule). A dump is an area from its first byte on.
_SEARCHED = 64 * MIB
_CHUNK = MIB
_MOST_SIGNATURES = 4096  # in a file made of them


class Found(NamedTuple):
    """A label area that begins at ``start`` in the file: ``size`` is its label size if it ends where the file ends,
    else (``at_end`` is False) what its index blocks and label slots take."""

    start: int
    size: int
    at_end: bool
    version: Version


def find_areas(read: Callable[[int, int], bytes], size: int) -> list[Found]:
    """The valid label areas in the last 64 MiB of a file of ``size`` bytes and at its beginning, by place.

    ``read(offset, length)`` gives its bytes. An area is valid when one of its two index blocks is.
    """
    places = islice(_signatures(read, size), _MOST_SIGNATURES)
    found = {area for place in places if (area := _area(read, size, place)) is not None}
    return sorted(found, key=lambda area: area.start)


def _signatures(read: Callable[[int, int], bytes], size: int) -> Iterator[int]:
    yield 0
    for start in range(max(size - _SEARCHED, 0), size, _CHUNK):
        chunk = read(start, min(_CHUNK + len(INDEX_SIGNATURE) - 1, size - start))
        at = chunk.find(INDEX_SIGNATURE)
        while at >= 0:
            yield start + at
            at = chunk.find(INDEX_SIGNATURE, at + 1)


def _area(read: Callable[[int, int], bytes], size: int, place: int) -> Found | None:
    """The area of the index block at ``place``, None when there is no valid one."""
    head = read(place, min(IndexHeader.SIZE, size - place))
    if len(head) < IndexHeader.SIZE:
        return None
    header = IndexHeader.unpack_from(head)
    for version in Version:
        start = place - header.my_offset
        extent = header.label_offset + header.slots * version.label_size
        if start < 0 or start + extent > size:
            continue
        for length in (size - start, extent):
            try:
                where = geometry(version, length)
                if where.slots != header.slots:
                    continue
                read_index(read(place, where.index_size), 0 if place == start else 1, where)
            except LabelError:
                continue
            return Found(start, length, length == size - start, version)
    return None
