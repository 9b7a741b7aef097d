"""The persistence model of one x86 CPU: which memories can be found after the power failed at some point of a trace.

Rules (Px86: Raad, Wickerson, Neiger and Vafeiadis, POPL 2020; in the synchronous form of Khyzha and Lahav, POPL 2021;
Intel SDM volume 1 section 11.4.4.1, volume 3 section 9.2):

* A store can persist at any time after it is made. Stores to one cache line persist in program order
  (``Order.LINE``), or only those to one 8-byte unit (``Order.LOCATION``). Only an aligned 8-byte unit is whole; parts
  of one store are independent.
* CLFLUSH makes durable what its line holds. CLFLUSHOPT and CLWB do so once an SFENCE, MFENCE or locked instruction
  follows; what is stored to the line between the two is not covered.
* A non-temporal store is ordered only with stores to its own unit, and is durable after the next fence. Flushes do not
  cover it: it waits in a write-combining buffer, not in the line.
* A locked instruction is a fence followed by a store that is not durable by itself.
* WBINVD and WBNOINVD make everything durable that was stored before: they write all lines back, and they are
  serialising, which also drains the buffers of non-temporal stores (Intel SDM volume 2; volume 3, sections 9.3 and
  12.3.1).
* A label write is durable when the device answers. It orders nothing among the CPU's stores.
* What the program tells somebody outside is told at once. Nobody hears it before the regular stores that precede it are
  visible (x86 keeps stores in order, and I/O instructions wait for them; Intel SDM volume 3, section 9.2), which is
  durable under eADR and says nothing about the medium otherwise.
* eADR: visible is durable, so all regular stores persist in program order. What has not left the store buffer at the
  crash is lost: fences and CLFLUSH, which are ordered with all stores, empty it. Non-temporal stores still need a
  fence.
* Page cache: flushes and fences mean nothing; each 4 KiB page holds a prefix of its stores.
* DAX without MAP_SYNC: as DAX with it, but a page that was stored to may come back whole as it was before the first
  store.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from emu.config import PersistenceDomain
from emu.persistence.model.columns import Events
from emu.persistence.model.columns import Part as StorePart
from emu.persistence.model.events import (
    UNIT,
    Event,
    Fence,
    Flush,
    FlushKind,
    LabelWrite,
    Store,
    Told,
    WriteBack,
    new_tuple,
    page_of,
    split,
)
from emu.persistence.model.pending import NOTHING, Component, Content, FrozenComponent, Part, overlay
from emu.persistence.model.rules import Order, Rules
from emu.units import CACHE_LINE, PAGE

_EVERYTHING = 1 << 62
_PIECE = 4096  # events between two looks at the clock


class PersistState:
    """What is durable and what is pending after the events applied so far."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.durable: dict[int, Content] = {}
        self.components: dict[int, Component] = {}
        self.events = 0
        self.pages: set[int] = set()
        self.new_pages: list[int] = []
        self.changed_components: set[int] = set()
        self.changed_units: set[int] = set()
        # Asked for with each store.
        self._component_mask, self._flushes_count = rules.component_mask, rules.flushes_count
        self._visible_is_durable = rules.domain is PersistenceDomain.EADR and rules.flushes_count
        self._marked: dict[int, int] = {}
        self._with_nt: set[int] = set()

    @property
    def changed(self) -> bool:
        """Whether anything was stored, to memory or to labels."""
        return bool(self.pages or self.durable)

    def apply(self, event: Event) -> None:
        """The next event of the program."""
        if isinstance(event, Store):
            self._store(event)
        elif isinstance(event, LabelWrite | Told):
            self._write_at_once(event)
            if isinstance(event, Told) and self._visible_is_durable:
                self._commit(0, through=self.events, nt=False)
        elif self.rules.flushes_count:
            if isinstance(event, Flush):
                self._flush(event)
            elif isinstance(event, WriteBack):
                self._write_back()
            elif not self._is_plain_load(event):
                self._fence()
        self.events += 1

    def commits(self, event: Event) -> bool:
        """Whether ``event`` would make anything durable that is not: only before such events does a crash matter."""
        if isinstance(event, LabelWrite | Told):
            return True
        if not self.rules.flushes_count:
            return False
        if isinstance(event, Store):
            return (event.locked and self._visible_is_durable) or (
                self.rules.trusted_from is not None
                and self.rules.trusts(event.pc)
                and any(key in self.components for key in self._components_of(event))
            )
        if isinstance(event, WriteBack):
            return bool(self.components)
        if isinstance(event, Flush):
            return event.kind is FlushKind.CLFLUSH and any(self._flush_reach(event))
        if self._is_plain_load(event):
            return False
        return bool(self._marked or self._with_nt) or (
            self.rules.domain is PersistenceDomain.EADR and bool(self.components)
        )

    def flushed_through(self, component: int) -> int | None:
        """The event up to which a flush that waits for its fence covers the stores of ``component``; None for none."""
        return self._marked.get(component)

    def _is_plain_load(self, fence: Fence) -> bool:
        return fence.failed and self.rules.failed_cas == "load"

    def store_parts(self, parts: Iterable[StorePart | None]) -> bool:
        """The next events are stores to one unit each, not locked, up to the first None; whether there was one. Stores
        are alike (see ``Rules``).
        """
        # As _add_part does it: most stores of a long run come by here.
        mask_of_key, durable, components = self._component_mask, self.durable, self.components
        for number, part in enumerate(parts, self.events):
            if part is None:
                self.events = number
                return True
            unit, mask, value, nt = part
            key = unit & mask_of_key
            if nt or (component := components.get(key)) is None or unit & -PAGE not in self.pages:
                self._add_part(key, number, unit, mask, value, nt and self._flushes_count)
            else:
                component.add_store(number, unit, mask, value, durable)
                self.changed_components.add(key)
            self.events = number + 1
        return False

    def _add_part(
        self, key: int, number: int, unit: int, mask: int, value: int, nt: bool, *, whole: bool = False
    ) -> None:
        component = self.components.get(key)
        if component is None:
            component = self.components[key] = Component(whole=whole)
        component.add(unit, new_tuple(Part, (number, mask, value, nt)), self.durable)
        self.changed_components.add(key)
        page = unit & -PAGE
        if page not in self.pages:
            self.pages.add(page)
            self.new_pages.append(page)
        if nt:
            self._with_nt.add(key)

    def _store(self, store: Store) -> None:
        address, data, nt, locked, pc = store
        piece = None if self.rules.blocks is None else self.rules.piece(self.events)
        nt = nt and self._flushes_count and piece is None
        number = self.events if piece is None else piece
        for unit, mask, value in split(address, data):
            key = unit & self._component_mask if self.rules.blocks is None else self.rules.component(unit)
            self._add_part(key, number, unit, mask, value, nt, whole=piece is not None)
            if piece is not None:  # durable after the next fence, as any non-temporal store
                self._marked[key] = piece
        if locked and self._visible_is_durable:  # it does not wait in the store buffer
            self._commit(0, through=self.events, nt=False)
        if self.rules.trusted_from is not None and self.rules.trusts(pc):
            for key in self._components_of(store):
                self._commit(key, through=self.events, nt=True)

    def _components_of(self, store: Store) -> Iterable[int]:
        return dict.fromkeys(self.rules.component(unit) for unit, _, _ in split(store.address, store.data))

    def _flush_reach(self, flush: Flush) -> list[tuple[int, int]]:
        """``(component, through)`` of the pending regular stores that the flush covers."""
        if self.rules.domain is PersistenceDomain.EADR:
            return [(0, self.events)] if 0 in self.components and self.components[0].first_regular is not None else []
        step = CACHE_LINE if self.rules.order is Order.LINE else UNIT
        keys = range(flush.line, flush.line + CACHE_LINE, step)
        return [
            (key, self.events)
            for key in keys
            if key in self.components and self.components[key].first_regular is not None
        ]

    def _flush(self, flush: Flush) -> None:
        for key, through in self._flush_reach(flush):
            if flush.kind is FlushKind.CLFLUSH:
                self._commit(key, through=through, nt=False)
            elif self.rules.domain is PersistenceDomain.ADR:
                self._marked[key] = through

    def _fence(self) -> None:
        if self.rules.domain is PersistenceDomain.EADR:
            self._commit(0, through=_EVERYTHING, nt=True)
            return
        for key in sorted(self._marked.keys() | self._with_nt):
            self._commit(key, through=self._marked.get(key, -1), nt=True)

    def _write_back(self) -> None:
        for key in sorted(self.components):
            self._commit(key, through=_EVERYTHING, nt=True)

    def _write_at_once(self, write: LabelWrite | Told) -> None:
        """Straight to the medium; no page of it is ever lost, because the device makes each write durable itself. What
        was told stays told.
        """
        for unit, mask, value in split(write.address, write.data):
            self.durable[unit] = overlay(self.durable.get(unit, NOTHING), (mask, value))
            self.changed_units.add(unit)

    def _commit(self, key: int, *, through: int, nt: bool) -> None:
        component = self.components.get(key)
        if component is None:
            return
        gained = component.commit(through=through, nt=nt)
        self.durable.update(gained)
        if gained:
            self.changed_units.update(gained)
            self.changed_components.add(key)
        if not component.nt_parts:
            self._with_nt.discard(key)
        first = component.first_regular
        if first is None or first > self._marked.get(key, _EVERYTHING):
            self._marked.pop(key, None)
        if not component.units:
            del self.components[key]


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """Power fails just before event ``event``; ``eager`` memories are possible then, counted as sets of persisted
    parts.
    """

    number: int
    event: int
    eager: int


Spans = tuple[list[int], list[Content | None]]
"""Crash points in order, and what is so from each of them on."""

_UNTOUCHED: Spans = ([0], [NOTHING])
_UNKNOWN: Spans = ([0], [None])


@dataclass(slots=True)
class Timeline:
    """The crash points of one trace and what is pending at each. Built by ``build``, then only read."""

    rules: Rules
    points: list[CrashPoint] = field(default_factory=list)
    _components: dict[int, tuple[list[int], list[FrozenComponent | None]]] = field(default_factory=dict)
    _durable: dict[int, tuple[list[int], list[Content]]] = field(default_factory=dict)
    _pages: dict[int, int] = field(default_factory=dict)
    _units: dict[int, int] = field(default_factory=dict)
    _settled: dict[int, Spans] = field(default_factory=dict)
    _changes: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def units(self) -> Iterable[int]:
        """Every unit that any event stored to."""
        return self._units

    def units_at(self, point: int) -> Iterable[int]:
        """The units stored to before crash point ``point``."""
        return (unit for unit, first in self._units.items() if first <= point)

    def component(self, key: int, point: int) -> FrozenComponent | None:
        """What is pending of the component at ``point``, None for nothing."""
        history = self._components.get(key)
        at = bisect_right(history[0], point) if history else 0
        return history[1][at - 1] if history and at else None

    def pending(self, point: int) -> dict[int, FrozenComponent]:
        """Everything that is pending at ``point``, by component."""
        found = ((key, self.component(key, point)) for key in self._components)
        return {key: component for key, component in found if component is not None}

    def pending_parts(self, unit: int, point: int) -> int:
        """How many stores to ``unit`` are pending at ``point``."""
        component = self.component(self.rules.component(unit), point)
        return component.units[unit].length if component is not None and unit in component.units else 0

    def pages_stored(self, point: int) -> list[int]:
        """The pages stored to before ``point``."""
        return sorted(page for page, first in self._pages.items() if first <= point)

    def durable(self, unit: int, point: int) -> Content:
        """The bytes of a unit that are durable at ``point``."""
        history = self._durable.get(unit)
        at = bisect_right(history[0], point) if history else 0
        return history[1][at - 1] if history and at else NOTHING

    def settled(self, unit: int) -> Spans:
        """What a unit holds where it can hold one thing only: from each of some crash points on, the first of all among
        them, the bytes that are durable while no store to it is pending, else None.
        """
        return _UNKNOWN if self.rules.pages_can_be_lost else self._settled.get(unit, _UNTOUCHED)

    def changed(self, first: int, last: int) -> Iterable[int]:
        """The units of which something else is settled, or nothing is, at one crash point than at the other."""
        low, high = min(first, last), max(first, last)
        return dict.fromkeys(unit for units in self._changes[low + 1 : high + 1] for unit in units)

    def ordered(self, units: Iterable[int]) -> Iterator[list[int]]:
        """Of the components of these units, those units whose regular stores wait in order with each other's."""
        for key in dict.fromkeys(map(self.rules.component, units)):
            for frozen in self._components.get(key, ([], []))[1]:
                if frozen is not None and (frozen.whole or frozen.length > 1):
                    yield [unit for unit, entry in frozen.units.items() if entry.has_regular]

    def page_stored(self, page: int, point: int) -> bool:
        return self._pages.get(page, point + 1) <= point

    def changes_of(self, units: Iterable[int]) -> list[int]:
        """The first crash point, and every other one at which these units can hold something else than before."""
        found = {0}
        for unit in units:
            for history in (self._components.get(self.rules.component(unit)), self._durable.get(unit)):
                found.update(history[0] if history else ())
            found.add(self._pages.get(page_of(unit), 0))
        return sorted(found)


class TimelineBuilder:
    """Applies events one by one and freezes what is pending at each crash point."""

    def __init__(self, rules: Rules) -> None:
        self.state = PersistState(rules)
        self.timeline = Timeline(rules)
        self._eager: dict[int, int] = {}
        self._product = 1

    def add(self, event: Event, *, crashes: bool = True) -> None:
        if crashes and self.state.commits(event):
            self.crash_point()
        self.state.apply(event)

    def crash_point(self) -> CrashPoint:
        """Freeze the state as it is now."""
        state, timeline = self.state, self.timeline
        number = len(timeline.points)
        changes = set(state.changed_units)
        for unit in state.changed_units:
            when, what = timeline._durable.setdefault(unit, ([], []))
            when.append(number)
            what.append(state.durable[unit])
        for key in state.changed_components:
            component = state.components.get(key)
            frozen = component.freeze() if component else None
            versions, views = timeline._components.setdefault(key, ([], []))
            before = views[-1] if views else None
            changes |= (before.units.keys() if before else set()) ^ (frozen.units.keys() if frozen else set())
            versions.append(number)
            views.append(frozen)
            for unit in frozen.units if frozen else ():
                timeline._units.setdefault(unit, number)
            self._count(key, frozen.possible if frozen else 1)
        for unit in state.changed_units:
            timeline._units.setdefault(unit, number)
        for unit in changes:
            component = state.components.get(state.rules.component(unit))
            pending = component is not None and unit in component.units
            since, contents = timeline._settled.setdefault(unit, ([0], [NOTHING]))
            if since[-1] == number:  # the first crash point, where nothing had been said yet
                since.pop()
                contents.pop()
            since.append(number)
            contents.append(None if pending else state.durable.get(unit, NOTHING))
        timeline._changes.append(tuple(changes))
        for page in state.new_pages:
            timeline._pages[page] = number
        state.new_pages.clear()
        state.changed_units.clear()
        state.changed_components.clear()
        point = CrashPoint(number, state.events, self._product << self._lost_pages())
        timeline.points.append(point)
        return point

    def _count(self, key: int, count: int) -> None:
        self._product = self._product // self._eager.get(key, 1) * count
        self._eager[key] = count

    def _lost_pages(self) -> int:
        return len(self.state.pages) if self.state.rules.pages_can_be_lost else 0


def build(
    events: Sequence[Event], rules: Rules, first: int = 0, *, is_late: Callable[[], bool] = lambda: False
) -> Timeline:
    """The timeline of a whole trace, the end included as its last crash point; without crashes before event ``first``.

    What is pending there stays pending: the crash points that are left are those of the whole timeline. Once it
    ``is_late`` the last crash point is where it has come to by then.
    """
    builder = TimelineBuilder(rules)
    state = builder.state
    if isinstance(events, Events) and rules.stores_are_alike:
        parts = events.parts()
        while state.events < len(events) and not is_late():
            for _ in range(_PIECE):
                if not state.store_parts(islice(parts, _PIECE)):  # none that power must fail before
                    break
                builder.add(events[state.events], crashes=state.events >= first)
    else:
        rest = iter(events)
        while state.events < len(events) and not is_late():
            for event in islice(rest, _PIECE):
                builder.add(event, crashes=state.events >= first)
    builder.crash_point()
    return builder.timeline
