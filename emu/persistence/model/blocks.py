"""Block writes: 4 KiB that one copy of a kernel stores, non-temporally and from beginning to end.

A file system writes its metadata so, and checks a block's checksum when it reads it: all that matters of such a write
is whether it is there, or torn. Looked at exactly it is 512 stores that persist independently. Looked at as a *block*,
it is there, or not, or torn at one of a few places, which are drawn with a seed: fewer memories than are possible, so a
search among them is never complete.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from emu.persistence.model.events import UNIT, Event, Fence, Store, WriteBack, page_of
from emu.units import PAGE


@dataclass(frozen=True, slots=True)
class Tears:
    """How a block write can be torn: at ``places`` of them, drawn with ``seed``."""

    places: int
    seed: int


@dataclass(frozen=True)
class Blocks:
    """The block writes of a trace. ``pages`` are those that nothing else stores to; of a store to one, ``pieces`` has
    the event with which the piece begins that it persists with.
    """

    pages: frozenset[int]
    pieces: Mapping[int, int]


def find_blocks(events: Sequence[Event], kernel_code: int, tears: Tears) -> Blocks:
    """The block writes by code at ``kernel_code`` and above."""
    writes = list(_writes(events, kernel_code))
    covered = {number for write in writes for number in write}
    others = {
        page
        for number, event in enumerate(events)
        if isinstance(event, Store) and number not in covered
        for page in range(page_of(event.address), event.address + len(event.data), PAGE)
    }
    rng = random.Random(tears.seed)
    pages, pieces = set[int](), dict[int, int]()
    for write in writes:
        first = events[write[0]]
        assert isinstance(first, Store)
        if first.address in others:
            continue
        places = sorted(rng.sample(range(1, len(write)), min(tears.places, len(write) - 1)))
        pages.add(first.address)
        for begin, end in zip((0, *places), (*places, len(write)), strict=True):
            pieces.update(dict.fromkeys(write[begin:end], write[begin]))
    return Blocks(frozenset(pages), pieces)


def _writes(events: Sequence[Event], kernel_code: int) -> Iterator[list[int]]:
    """The numbers of the stores of each block write: one page, each store where the one before it ended."""
    numbers: list[int] = []
    end = -1
    for number, event in enumerate(events):
        if isinstance(event, Fence | WriteBack):
            numbers, end = [], -1
        if not isinstance(event, Store) or not event.nt or event.pc < kernel_code or event.address % UNIT:
            continue
        if event.address != end:
            numbers = []
            if event.address % PAGE:
                end = -1
                continue
        numbers.append(number)
        end = event.address + len(event.data)
        if end % PAGE == 0:
            yield numbers
            numbers, end = [], -1
