"""Stores that are not yet durable, and every way in which they can have persisted when the power fails.

One ``Component`` holds the pending stores that are ordered with each other. Its regular stores form a chain: all
parts of a store persist before any part of the next one; the parts of one store (its aligned 8-byte units) are
independent. Non-temporal stores stand outside the chain. In one unit, all parts persist in program order, whatever
they are. So a memory is possible exactly when the set of persisted parts contains with each part everything that must
persist before it.

A possible set is described by its *cut* k, the number of stores of the chain that persisted completely, and by the
number of parts persisted in each unit. Given k the units are independent of each other: that is what makes counting
and reading cheap.

Lists only ever grow until a commit replaces them, so that a frozen view of a component shares them and costs its
units alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from emu.persistence.model.events import new_tuple


class Part(NamedTuple):
    """The piece of store number ``event`` inside one unit: ``value`` under ``mask``, both 64 bits wide."""

    event: int
    mask: int
    value: int
    nt: bool


Content = tuple[int, int]
"""``(mask, value)``: the bytes of a unit that are known, and what they are."""

NOTHING: Content = (0, 0)
_WHOLE = (1 << 64) - 1


def overlay(below: Content, above: Content) -> Content:
    return below[0] | above[0], (below[1] & ~above[0]) | (above[1] & above[0])


class FrozenUnit(NamedTuple):
    """The pending parts of one unit: the first ``length`` of ``parts``; ``contents[m]`` is what its first m parts
    leave.
    """

    parts: list[Part]
    contents: list[Content]
    length: int

    @property
    def has_regular(self) -> bool:
        """Whether a regular store is among them."""
        return any(not part.nt for part in self.parts[: self.length])

    def spans(self, chain: FrozenComponent) -> tuple[list[int], list[int]]:
        """For m = 0..length: the least and the greatest cut that allows m persisted parts. Both grow with m."""
        lows: list[int] = [0]
        highs: list[int] = []
        for part in self.parts[: self.length]:
            if part.nt:
                lows.append(lows[-1])
            else:
                rank = chain.rank(part.event)
                highs += [rank] * (len(lows) - len(highs))
                lows.append(rank + chain.whole)
        highs += [chain.length] * (len(lows) - len(highs))
        return lows, highs


class FrozenComponent(NamedTuple):
    """A component at one crash point: the first ``length`` stores of its ``chain``, its units, and the possible sets'
    number. The parts of a store persist together where it is ``whole``.
    """

    chain: list[int]
    length: int
    units: dict[int, FrozenUnit]
    possible: int
    whole: bool = False

    def rank(self, event: int) -> int:
        """The position of store ``event`` in the chain."""
        return bisect_left(self.chain, event, 0, self.length)


@dataclass(slots=True)
class _Unit:
    parts: list[Part]
    contents: list[Content]
    regular: int = 0


class Component:
    """The pending parts of one component, by unit, in program order. Units build on what is durable beneath. The parts
    of a store persist together where stores are ``whole``.
    """

    __slots__ = ("_chain", "_nt_choices", "_sizes", "_subsets", "_whole", "mixed", "nt_parts", "units")

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._clear()

    def _clear(self) -> None:
        self.units: dict[int, _Unit] = {}
        self.nt_parts = 0
        self.mixed: set[int] = set()  # units with both kinds of parts
        self._chain: list[int] = []
        self._sizes: list[int] = []  # parts pending of each store in the chain
        self._subsets = 1  # possible sets of the chain alone
        self._nt_choices = 1  # possible sets of the units that have only non-temporal parts

    @property
    def first_regular(self) -> int | None:
        """The oldest pending store of the chain."""
        return self._chain[0] if self._chain else None

    def add(self, unit: int, part: Part, durable: Mapping[int, Content]) -> None:
        """The next store has this part; what of its unit is ``durable`` lies beneath, where nothing is pending yet."""
        event, mask, value, nt = part
        entry = self.units.get(unit)
        if entry is None:
            entry = self.units[unit] = _Unit([], [durable.get(unit, NOTHING)])
        parts, contents = entry.parts, entry.contents
        if parts and parts[-1][0] == event:
            # One instruction that writes a unit byte by byte (REP MOVSB) is still one part.
            _, under, below, _ = parts.pop()
            contents.pop()
            mask, value = overlay((under, below), (mask, value))
            part = Part(event, mask, value, nt)
        elif nt:
            self.nt_parts += 1
            if not entry.regular:
                self._nt_choices = self._nt_choices // (len(parts) + 1) * (len(parts) + 2)
            else:
                self.mixed.add(unit)
        else:
            if entry.regular != len(parts):
                if not entry.regular:
                    self._nt_choices //= len(parts) + 1
                self.mixed.add(unit)
            entry.regular += 1
            # Stores come in their order, so its other parts are those of the last one.
            if self._chain and self._chain[-1] == event:
                self._subsets += 0 if self._whole else 1 << self._sizes[-1]
                self._sizes[-1] += 1
            else:
                self._chain.append(event)
                self._sizes.append(1)
                self._subsets += 1
        parts.append(part)
        contents.append((mask, value) if mask == _WHOLE else overlay(contents[-1], (mask, value)))

    def add_store(self, event: int, unit: int, mask: int, value: int, durable: Mapping[int, Content]) -> None:
        """As ``add``, of the only part of a regular store."""
        entry = self.units.get(unit)
        if entry is None:
            entry = self.units[unit] = _Unit([], [durable.get(unit, NOTHING)])
        parts, contents = entry.parts, entry.contents
        if entry.regular != len(parts):
            self.add(unit, Part(event, mask, value, False), durable)
            return
        entry.regular += 1
        self._chain.append(event)
        self._sizes.append(1)
        self._subsets += 1
        parts.append(new_tuple(Part, (event, mask, value, False)))
        contents.append((mask, value) if mask == _WHOLE else overlay(contents[-1], (mask, value)))

    def commit(self, *, through: int, nt: bool) -> dict[int, Content]:
        """Make durable the regular stores up to event ``through``, with ``nt`` all non-temporal ones, and what must
        persist before them; returns the durable content of each unit that gained any.
        """
        needed: dict[int, int] = {}
        while True:
            reach = through
            for unit, entry in self.units.items():
                known = needed.get(unit, 0)
                for position in range(len(entry.parts), known, -1):
                    part = entry.parts[position - 1]
                    if nt if part.nt else part.event <= through:
                        needed[unit] = position
                        break
                for part in reversed(entry.parts[known : needed.get(unit, 0)]):
                    if not part.nt:
                        # All that precedes it in the chain, but not its own other parts.
                        reach = max(reach, part.event - 1)
                        break
            if reach == through:
                break
            through = reach
        gained = {unit: self.units[unit].contents[count] for unit, count in needed.items()}
        if needed:
            self._drop(needed)
        return gained

    def _drop(self, needed: dict[int, int]) -> None:
        left = [(unit, entry, entry.parts[needed.get(unit, 0) :]) for unit, entry in self.units.items()]
        bases = {unit: entry.contents[needed.get(unit, 0)] for unit, entry, _ in left}
        self._clear()
        # The chain's order is that of event numbers, which units do not share with each other.
        for unit, part in sorted(
            ((unit, part) for unit, _, parts in left for part in parts), key=lambda item: item[1].event
        ):
            self.add(unit, part, bases)

    def freeze(self) -> FrozenComponent:
        units = {unit: FrozenUnit(entry.parts, entry.contents, len(entry.parts)) for unit, entry in self.units.items()}
        possible = self._subsets * self._nt_choices
        frozen = FrozenComponent(self._chain, len(self._chain), units, possible, self._whole)
        return frozen._replace(possible=self._count_mixed(frozen) * self._nt_choices) if self.mixed else frozen

    def _count_mixed(self, frozen: FrozenComponent) -> int:
        """Possible sets of the chain and the units that mix both kinds: for each cut the choices of all units, less
        those that complete the next store (they belong to the next cut).
        """
        plain = dict(zip(self._chain, self._sizes, strict=True))
        mixed = []
        for unit in self.mixed:
            parts = self.units[unit].parts
            for part in parts:
                if not part.nt:
                    plain[part.event] -= 1
            mixed.append((parts, *frozen.units[unit].spans(frozen)))
        total = 0
        for cut in range(frozen.length + 1):
            event = frozen.chain[cut] if cut < frozen.length else -1
            anything, complete = 1 << plain.get(event, 0), 1
            for parts, lows, highs in mixed:
                first, last = bisect_left(highs, cut), bisect_right(lows, cut) - 1
                at = next((m for m, part in enumerate(parts, 1) if part.event == event), 0)
                anything *= last - first + 1
                complete *= last - max(first, at) + 1
            total += anything - (complete if cut < frozen.length else 0)
        return total
