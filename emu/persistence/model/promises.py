"""What an operation stored must be durable when it says that it is done: the stores for which that is not so, and why.

A program that tells somebody "done" has promised that a power failure will not undo it, whatever recovery thinks of
the memory (durable linearizability of the finished operations; Izraelevitz, Mendes and Scott, DISC 2016).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from emu.persistence.model.crashstate import FULL, Initial
from emu.persistence.model.events import Event, Fence, FenceKind, Store, line_of
from emu.persistence.model.operations import Operation
from emu.persistence.model.pending import overlay
from emu.persistence.model.rules import Media, Rules
from emu.persistence.model.timeline import PersistState


@dataclass(slots=True, eq=False)
class Broken:
    """The ``stores`` of ``operation`` (those of the first one that this happens to) that were not durable at its done.

    ``done`` are the events before which power could fail so, each after an operation that was done; ``contents`` the
    memory of the first of them if nothing more had persisted. ``needs_flush``: a fence alone would not have helped.
    """

    operation: int
    stores: tuple[int, ...]
    needs_flush: bool
    contents: dict[int, int]
    done: set[int] = field(default_factory=set)


def broken_promises(
    events: Sequence[Event], found: Iterable[Operation], rules: Rules, initial: Initial
) -> list[Broken]:
    """One ``Broken`` for the stores that the same repair would make durable: those that share a line, or that the same
    instructions made. Whole pages that the medium can lose are not looked at.
    """
    rules = replace(rules, media=Media.DAX_SYNC)
    state, at = PersistState(rules), 0
    by_place: dict[int, Broken] = {}
    for operation in sorted((one for one in found if one.done is not None), key=lambda one: (one.done, one.begin)):
        assert operation.done is not None
        for event in events[at : operation.done]:
            state.apply(event)
        at = operation.done
        lost = [number for number in _can_be_lost(state, initial) if number >= operation.begin]
        for stores in _by_line(events, lost, rules):
            places = [events[number].pc or -number for number in stores]
            known = list({id(by_place[place]): by_place[place] for place in places if place in by_place}.values())
            if not known:
                needs = not _durable_with_fence(events, at, rules, initial, stores)
                known = [Broken(operation.id, tuple(stores), needs, _durable_only(state, initial))]
            first = min(known, key=lambda broken: broken.stores)
            first.done.update([at], *(broken.done for broken in known))
            # What the same instructions stored is repaired there, so this joins what was apart.
            places += [place for place, broken in by_place.items() if broken in known]
            by_place.update(dict.fromkeys(places, first))
    return sorted({id(broken): broken for broken in by_place.values()}.values(), key=lambda broken: broken.stores)


def _can_be_lost(state: PersistState, initial: Initial) -> list[int]:
    """The pending stores without which the memory would differ."""
    lost: set[int] = set()
    for component in state.components.values():
        for unit, entry in component.units.items():
            contents = [overlay((FULL, initial(unit)), content)[1] for content in entry.contents]
            for position, part in enumerate(entry.parts):
                if any(content & part.mask != part.value & part.mask for content in contents[: position + 1]):
                    lost.add(part.event)
    return sorted(lost)


def _by_line(events: Sequence[Event], numbers: Iterable[int], rules: Rules) -> list[list[int]]:
    """``numbers`` of stores, those to one line together: one flush writes them back. Past the caches each is alone."""
    groups: dict[tuple[int, int], list[int]] = {}
    for number in numbers:
        event = events[number]
        assert isinstance(event, Store), "a label write is never pending"
        groups.setdefault((line_of(event.address), number if event.nt else -1), []).append(number)
    return list(groups.values())


def _durable_with_fence(
    events: Sequence[Event], end: int, rules: Rules, initial: Initial, stores: Iterable[int]
) -> bool:
    state = PersistState(rules)
    for event in events[:end]:
        state.apply(event)
    state.apply(Fence(FenceKind.SFENCE))
    return not set(stores) & set(_can_be_lost(state, initial))


def _durable_only(state: PersistState, initial: Initial) -> dict[int, int]:
    """The memory if nothing that is pending persists."""
    units = {unit for component in state.components.values() for unit in component.units} | state.durable.keys()
    return {unit: overlay((FULL, initial(unit)), state.durable.get(unit, (0, 0)))[1] for unit in units}
