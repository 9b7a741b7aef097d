"""What of the NVDIMMs is durable after the events so far, and by which instructions, by the model's rules."""

from __future__ import annotations

import copy
import enum
from array import array
from collections.abc import Iterable
from typing import NamedTuple

from emu.persistence.model.events import UNIT, Event, Flush, byte_mask, line_of
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import PersistState


class Wait(enum.Enum):
    """What a store waits for, before it is surely durable."""

    FLUSH = "a flush of its cache line, then a fence"
    FENCE = "a fence behind the flush of its cache line"
    DRAIN = "a fence: it bypassed the caches and waits in a write-combining buffer"
    STORE_BUFFER = "a fence: it may still be in the store buffer"
    HOST = "the host to write its page back: flushes and fences do nothing for a page cache"


class Pending(NamedTuple):
    """A store that is not surely durable: event number ``event``, by the instruction at ``pc``. ``flush_pc`` is that of
    the last flush of its cache line, None without one.
    """

    event: int
    pc: int
    wait: Wait
    flush_pc: int | None


class Ledger:
    """Kept up to date by ``apply``; a ``copy`` is a moment of it."""

    def __init__(self, rules: Rules) -> None:
        self.state = PersistState(rules)
        self._pcs = array("Q")
        self._flushes: dict[int, int] = {}

    def apply(self, events: Iterable[Event]) -> None:
        """The next events."""
        for event in events:
            if isinstance(event, Flush):
                self._flushes[event.line] = event.pc
            self._pcs.append(event.pc)
            self.state.apply(event)

    def copy(self) -> Ledger:
        other = Ledger(self.state.rules)
        other.state = copy.deepcopy(self.state)
        other._pcs = self._pcs[:]
        other._flushes = dict(self._flushes)
        return other

    @property
    def events(self) -> int:
        """How many there were: power fails now "before event" this one."""
        return self.state.events

    def pending(self, address: int) -> list[Pending]:
        """The stores to the byte at ``address`` of the model that are not surely durable, oldest first."""
        unit = address & -UNIT
        mask = byte_mask(address - unit, 1)
        key = self.state.rules.component(unit)
        component = self.state.components.get(key)
        entry = component.units.get(unit) if component else None
        parts = [part for part in entry.parts if part.mask & mask] if entry else []
        return [self._pending(unit, key, part.event, part.nt) for part in parts]

    def _pending(self, unit: int, component: int, event: int, nt: bool) -> Pending:
        rules = self.state.rules
        through = self.state.flushed_through(component)
        if not rules.flushes_count:
            wait = Wait.HOST
        elif nt:
            wait = Wait.DRAIN
        elif not rules.flushes_needed:
            wait = Wait.STORE_BUFFER
        else:
            wait = Wait.FENCE if through is not None and event <= through else Wait.FLUSH
        return Pending(event, self._pcs[event], wait, self._flushes.get(line_of(unit)))

    def possible(self, unit: int, initial: int) -> list[int]:
        """What the aligned 8 bytes at ``unit`` can hold if power fails now; ``initial`` is what they began with."""
        component = self.state.components.get(self.state.rules.component(unit))
        entry = component.units.get(unit) if component else None
        contents = entry.contents if entry else [self.state.durable.get(unit, (0, 0))]
        return list(dict.fromkeys(initial & ~mask | value for mask, value in contents))

    def lost(self) -> list[tuple[int, int]]:
        """(event, pc) of each store of which something is not surely durable, in program order."""
        found = {
            part.event
            for component in self.state.components.values()
            for entry in component.units.values()
            for part in entry.parts
        }
        return [(event, self._pcs[event]) for event in sorted(found)]
