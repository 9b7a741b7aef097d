"""The events of a long run in columns: 26 bytes each; as an object, made when it is asked for, one takes two hundred.

What does not fit (a store of other than 1 to 8 bytes, a write to labels, what was told) is kept as it is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from operator import eq
from typing import overload

from emu.persistence.model.events import (
    UNIT,
    Event,
    Fence,
    FenceKind,
    Flush,
    FlushKind,
    Store,
    byte_mask,
    new_tuple,
)

# What a byte of the column of kinds means: an event that is kept as it is; a store, with bits for non-temporal and
# locked ones; a flush or a fence, the number of its kind added.
OTHER, STORE, FLUSH, FENCE = 0, 4, 8, 16
NON_TEMPORAL, LOCKED = 1, 2
_FLUSHES = {FLUSH + number: kind for number, kind in enumerate(FlushKind)}
_FENCES = {FENCE + number: kind for number, kind in enumerate(FenceKind)}
_MASKS = [[byte_mask(first, size) for size in range(UNIT - first + 1)] for first in range(UNIT)]

Part = tuple[int, int, int, bool]
"""A store to one unit: the unit, the mask and the value of its bytes there, and whether it is non-temporal."""


class Events(Sequence[Event]):
    """Columns of kinds and sizes (in bytes), of addresses, values and instructions; ``others`` by their numbers."""

    __slots__ = ("_addresses", "_kinds", "_others", "_pcs", "_sizes", "_values")
    __hash__ = None  # type: ignore[assignment] # as any sequence that is compared by what is in it

    def __init__(
        self,
        kinds: bytes | bytearray,
        sizes: bytes | bytearray,
        addresses: array[int],
        values: array[int],
        pcs: array[int],
        others: dict[int, Event],
    ) -> None:
        self._kinds, self._sizes = kinds, sizes
        self._addresses, self._values, self._pcs = addresses, values, pcs
        self._others = others

    def __len__(self) -> int:
        return len(self._kinds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Events: ...
    def __getitem__(self, index: int | slice) -> Event | Events:
        if isinstance(index, slice):
            numbers = range(len(self))[index]
            others = {
                place: self._others[number] for place, number in enumerate(numbers) if self._kinds[number] == OTHER
            }
            return Events(
                self._kinds[index], self._sizes[index], self._addresses[index], self._values[index], self._pcs[index],
                others,
            )  # fmt: skip
        number = range(len(self))[index]
        return self._event(
            number, self._kinds[number], self._sizes[number], self._addresses[number], self._values[number],
            self._pcs[number],
        )  # fmt: skip

    def __iter__(self) -> Iterator[Event]:
        return map(self._event, range(len(self)), self._kinds, self._sizes, self._addresses, self._values, self._pcs)

    def _event(self, number: int, kind: int, size: int, address: int, value: int, pc: int) -> Event:
        if kind == OTHER:
            return self._others[number]
        if kind < FLUSH:
            data = value.to_bytes(size, "little")
            return new_tuple(Store, (address, data, kind & NON_TEMPORAL != 0, kind & LOCKED != 0, pc))
        return Flush(address, _FLUSHES[kind], pc) if kind < FENCE else Fence(_FENCES[kind], False, pc)

    def parts(self) -> Iterator[Part | None]:
        """For each event that is a store to one unit, by an instruction that is not locked, its ``Part``."""
        for kind, size, address, value in zip(self._kinds, self._sizes, self._addresses, self._values, strict=True):
            first = address & UNIT - 1
            if (kind == STORE or kind == STORE | NON_TEMPORAL) and first + size <= UNIT:
                yield address - first, _MASKS[first][size], value << 8 * first, kind != STORE
            else:
                yield None


class Writer:
    """Puts events into columns."""

    def __init__(self) -> None:
        self._kinds, self._sizes = bytearray(), bytearray()
        self._addresses, self._values, self._pcs = array("Q"), array("Q"), array("Q")
        self._others: dict[int, Event] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def extend(
        self,
        kinds: bytes | memoryview,
        sizes: bytes | memoryview,
        addresses: array[int],
        values: array[int],
        pcs: array[int],
    ) -> None:
        """Columns of events of which none is another: stores of 1 to 8 bytes, flushes and fences that did not fail."""
        self._kinds += kinds
        self._sizes += sizes
        self._addresses += addresses
        self._values += values
        self._pcs += pcs

    def append(self, event: Event) -> None:
        """An event as it is."""
        self._others[len(self)] = event
        self.extend(b"\0", b"\0", _ZERO, _ZERO, _ZERO)

    def events(self) -> Events:
        """All of them."""
        return Events(
            bytes(self._kinds), bytes(self._sizes), self._addresses, self._values, self._pcs, dict(self._others)
        )


_ZERO = array("Q", [0])
