"""What a CPU does to persistent memory: stores, flushes and fences, in program order; and label writes by a device.

An event's number is its position in the trace. "Crash at N" means: power fails just before event N. Where it counts
what the program has told somebody (``--feed-printed``), that is an event too.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from emu.units import CACHE_LINE, PAGE

UNIT = 8
"""Bytes that persist together: an aligned 8-byte unit is the largest that x86 keeps whole across a power failure."""


class FlushKind(enum.StrEnum):
    CLFLUSH = "clflush"
    CLFLUSHOPT = "clflushopt"
    CLWB = "clwb"


class FenceKind(enum.StrEnum):
    SFENCE = "sfence"
    MFENCE = "mfence"
    LOCKED = "locked"


class WriteBackKind(enum.StrEnum):
    WBINVD = "wbinvd"
    WBNOINVD = "wbnoinvd"


new_tuple = tuple.__new__
"""A named tuple's own constructor takes twice as long: for what is made of each store of a long run."""


class Store(NamedTuple):
    """``data`` written at guest-physical ``address`` by one instruction at ``pc``; ``nt`` bypasses the caches.

    A REP string instruction is one store: the order of its parts is not architectural. ``locked`` marks the store of
    a locked read-modify-write, whose ``Fence`` is the event before it.
    """

    address: int
    data: bytes
    nt: bool = False
    locked: bool = False
    pc: int = 0


class Flush(NamedTuple):
    """A flush of the cache line that holds ``address``."""

    address: int
    kind: FlushKind
    pc: int = 0

    @property
    def line(self) -> int:
        return self.address & -CACHE_LINE


class Fence(NamedTuple):
    """SFENCE, MFENCE or the barrier of a locked instruction; ``failed`` marks a compare-and-swap that failed."""

    kind: FenceKind
    failed: bool = False
    pc: int = 0


class WriteBack(NamedTuple):
    """WBINVD or WBNOINVD: all cache lines are written back, all buffered stores too, before anything that follows."""

    kind: WriteBackKind
    pc: int = 0


class LabelWrite(NamedTuple):
    """``data`` written to the label storage area at ``address`` (see ``label_address``) by the device, which the
    instruction at ``pc`` told to. It is durable when the device answers, which is before the next event.
    """

    address: int
    data: bytes
    pc: int = 0


class Told(NamedTuple):
    """The program has told somebody outside: it printed ``text``, or passed a boundary of its operations. That cannot
    be taken back, so it is as a write to ``address`` (``printed_address`` or ``BOUNDARIES``) that is durable at once
    and orders nothing.
    """

    address: int
    data: bytes
    text: bytes
    pc: int = 0

    @property
    def printed(self) -> bool:
        """Whether it was printed, not marked; a boundary is, too, where lines are operations."""
        return self.address != BOUNDARIES or self.text.endswith(b"\n")


Written = Store | LabelWrite | Told
"""The events that change content: they have an ``address`` and ``data``."""
Event = Written | Flush | Fence | WriteBack

_LABELS = 1 << 60
_LABELS_OF_ONE = 1 << 40
_TOLD = 1 << 61
BOUNDARIES = 1 << 62
"""The unit among the addresses of the model that says how many boundaries of operations were passed."""


def label_address(dimm: int, offset: int) -> int:
    """Where byte ``offset`` of the label storage area of NVDIMM number ``dimm`` lies among the addresses of the model.

    The guest has no address for it; these lie above every guest-physical one.
    """
    return _LABELS + dimm * _LABELS_OF_ONE + offset


def printed_address(piece: int) -> int:
    """Where 1 stands among the addresses of the model when piece number ``piece`` of what was printed is out."""
    return _TOLD + UNIT * piece


def is_told(unit: int) -> bool:
    """Whether ``unit`` is no memory, but says what the program has told."""
    return unit >= _TOLD


def byte_mask(first: int, count: int) -> int:
    """The 64-bit mask that covers ``count`` bytes of a unit from byte ``first`` (byte 0 is the lowest)."""
    return ((1 << 8 * count) - 1) << 8 * first


# By offset in a unit and number of bytes.
_MASKS = [[byte_mask(first, count) for count in range(UNIT - first + 1)] for first in range(UNIT)]


def split(address: int, data: bytes) -> Iterable[tuple[int, int, int]]:
    """``(unit, mask, value)`` of each aligned 8-byte unit that ``data`` at ``address`` touches, lowest first."""
    first = address & UNIT - 1
    if data and first + len(data) <= UNIT:  # most stores
        return ((address - first, _MASKS[first][len(data)], int.from_bytes(data, "little") << 8 * first),)
    return _split(address, data)


def _split(address: int, data: bytes) -> Iterator[tuple[int, int, int]]:
    at, end = address, address + len(data)
    while at < end:
        unit = at & -UNIT
        upto = min(end, unit + UNIT)
        shift = 8 * (at - unit)
        value = int.from_bytes(data[at - address : upto - address], "little") << shift
        yield unit, byte_mask(at - unit, upto - at), value
        at = upto


def units_of(address: int, length: int) -> Iterator[tuple[int, int]]:
    """``(unit, mask)`` of each unit that ``length`` bytes at ``address`` touch, lowest first."""
    at, end = address, address + length
    while at < end:
        unit = at & -UNIT
        upto = min(end, unit + UNIT)
        yield unit, byte_mask(at - unit, upto - at)
        at = upto


def line_of(address: int) -> int:
    return address & -CACHE_LINE


def page_of(address: int) -> int:
    return address & -PAGE
