"""One possible memory, named by what was lost: the smallest set of stores whose loss explains it.

Losing a store can force the loss of others that must not persist before it (later stores to the same line). So a
memory is given by its *roots*, the lost parts that no other loss explains; everything else persisted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from emu.persistence.model.crashstate import FULL, CrashState, Initial
from emu.persistence.model.events import page_of
from emu.persistence.model.pending import FrozenComponent, overlay
from emu.persistence.model.timeline import Timeline


class PartId(NamedTuple):
    """A pending part at some crash point: part number ``position`` of its unit, made by store ``event``."""

    event: int
    unit: int
    position: int


@dataclass(frozen=True, slots=True)
class Image:
    """The memory at crash point ``point`` that lacks ``roots``, what they force, and the pages ``lost_pages`` whole."""

    timeline: Timeline
    initial: Initial
    point: int
    roots: frozenset[PartId] = frozenset()
    lost_pages: frozenset[int] = frozenset()

    def kept(self) -> dict[int, int]:
        """For each unit with pending parts, how many of them persisted."""
        result: dict[int, int] = {}
        for component in self.timeline.pending(self.point).values():
            result.update(_kept(component, [root for root in self.roots if root.unit in component.units]))
        return result

    def lost(self) -> list[PartId]:
        """Every lost part, in program order."""
        kept = self.kept()
        pending = self.timeline.pending(self.point).values()
        return sorted(
            PartId(part.event, unit, position)
            for component in pending
            for unit, entry in component.units.items()
            for position, part in enumerate(entry.parts[: entry.length])
            if position >= kept[unit]
        )

    def contents(self) -> dict[int, int]:
        """The content of every unit that was ever stored to."""
        kept, result = self.kept(), {}
        pending = {
            unit: entry
            for component in self.timeline.pending(self.point).values()
            for unit, entry in component.units.items()
        }
        for unit in self.timeline.units_at(self.point):
            content = (FULL, self.initial(unit))
            if page_of(unit) not in self.lost_pages:
                above = (
                    pending[unit].contents[kept[unit]] if unit in pending else self.timeline.durable(unit, self.point)
                )
                content = overlay(content, above)
            result[unit] = content[1]
        return result


def _kept(component: FrozenComponent, roots: Iterable[PartId]) -> dict[int, int]:
    kept = {unit: entry.length for unit, entry in component.units.items()}
    for root in roots:
        kept[root.unit] = min(kept[root.unit], root.position)
    while True:
        lost = [
            part.event
            for unit, entry in component.units.items()
            for part in entry.parts[kept[unit] : entry.length]
            if not part.nt
        ]
        first = min(lost, default=None)
        changed = False
        for unit, entry in component.units.items():
            for position, part in enumerate(entry.parts[: kept[unit]]):
                if first is not None and not part.nt and part.event > first - component.whole:
                    kept[unit], changed = position, True
                    break
        if not changed:
            return kept


def candidates(timeline: Timeline, point: int, units: Iterable[int]) -> list[PartId]:
    """The pending parts in ``units`` at ``point``, in program order."""
    found = []
    pending = timeline.pending(point).values()
    for unit in units:
        for component in pending:
            entry = component.units.get(unit)
            if entry is not None:
                parts = entry.parts[: entry.length]
                found += [PartId(part.event, unit, position) for position, part in enumerate(parts)]
    return sorted(found)


def example(state: CrashState, timeline: Timeline, initial: Initial, point: int) -> Image:
    """A memory of ``state`` (one crash, at ``point``) that keeps much, named by its roots."""
    pending = {unit: entry for component in timeline.pending(point).values() for unit, entry in component.units.items()}
    roots, pages = set(), set()
    for unit in state.units():
        value, state = state.read(unit, FULL)[-1]
        entry = pending.get(unit)
        fits = []
        if entry is not None:
            fits = [m for m in range(entry.length + 1) if overlay((FULL, initial(unit)), entry.contents[m])[1] == value]
            if fits and fits[-1] < entry.length:
                roots.add(PartId(entry.parts[fits[-1]].event, unit, fits[-1]))
        durable = overlay((FULL, initial(unit)), timeline.durable(unit, point))[1]
        if not fits and (entry is not None or durable != value):
            pages.add(page_of(unit))
    return Image(timeline, initial, point, frozenset(roots), frozenset(pages))
