"""What costs time in a trace, or hides a bug, though no crash state fails because of it.

The kinds are those of pmemcheck (``--mult-stores``, ``--flush-check``, stores not made persistent) and of Agamotto.
Flushes are judged as on a platform without eADR, where a portable program needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from emu.persistence.model.events import Event, Fence, FenceKind, Flush, Store, WriteBack, line_of, split
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import Timeline
from emu.units import CACHE_LINE

NOT_FLUSHED = "store not flushed at the end"
NOT_FENCED = "store not fenced at the end"
NOT_WRITTEN_BACK = "store not written back at the end"
OVERWRITTEN = "overwrite before persist"
REDUNDANT_FLUSH = "redundant flush"
CLEAN_FLUSH = "flush of clean line"
REDUNDANT_FENCE = "redundant fence"

KINDS = (NOT_FLUSHED, NOT_FENCED, NOT_WRITTEN_BACK, OVERWRITTEN, REDUNDANT_FLUSH, CLEAN_FLUSH, REDUNDANT_FENCE)
"""Every kind; those that can lose data come before those that only cost time."""


_PIECE = 1024  # findings between two looks at the clock


@dataclass(frozen=True, slots=True)
class Waste:
    """Something that costs time or hides a bug, though no crash state fails: ``count`` times at ``pc``."""

    kind: str
    pc: int
    count: int
    first_event: int


def find_waste(
    events: Sequence[Event], timeline: Timeline, *, is_late: Callable[[], bool] = lambda: False
) -> tuple[Waste, ...] | None:
    """Stores that are not durable when the run ends, redundant flushes and fences, flushes of clean lines, bytes that
    are overwritten while pending; by kind and instruction. ``timeline`` is that of ``events``, its end included. None
    once it ``is_late``.
    """
    found: dict[tuple[str, int], list[int]] = {}
    for place, (kind, number) in enumerate(chain(_left_behind(events, timeline), _useless(events, timeline.rules))):
        if place % _PIECE == 0 and is_late():
            return None
        found.setdefault((kind, events[number].pc), []).append(number)
    return tuple(
        Waste(kind, pc, len(numbers), numbers[0])
        for (kind, pc), numbers in sorted(found.items(), key=lambda item: (KINDS.index(item[0][0]), item[1][0]))
    )


def _left_behind(events: Sequence[Event], timeline: Timeline) -> Iterator[tuple[str, int]]:
    """The stores that a power failure after the last event can lose, in order, and what they wait for."""
    last = len(timeline.points) - 1
    pending = {
        part.event
        for component in timeline.pending(last).values()
        for entry in component.units.values()
        for part in entry.parts[: entry.length]
    }
    if not pending:
        return
    flushed: dict[int, int] = {}  # line -> its last flush
    for number, event in enumerate(events):
        if isinstance(event, Flush):
            flushed[event.line] = number
    for number in sorted(pending):
        store = events[number]
        assert isinstance(store, Store), "label writes are durable at once"
        lines = range(line_of(store.address), store.address + len(store.data), CACHE_LINE)
        if not timeline.rules.flushes_count:
            yield NOT_WRITTEN_BACK, number
        elif store.nt or not timeline.rules.flushes_needed or all(flushed.get(line, -1) > number for line in lines):
            yield NOT_FENCED, number
        else:
            yield NOT_FLUSHED, number


def _useless(events: Sequence[Event], rules: Rules) -> Iterator[tuple[str, int]]:
    dirty: dict[int, dict[int, int]] = {}  # line -> unit -> bytes stored since the line was last flushed
    flushed: set[int] = set()  # lines flushed since the last fence
    buffered = False  # whether a store waits for a fence only
    for number, event in enumerate(events):
        if isinstance(event, Store):
            buffered = buffered or event.nt or not rules.flushes_needed
            overwritten = False
            for unit, mask, _ in split(event.address, event.data):
                line = dirty.setdefault(line_of(unit), {})
                overwritten = overwritten or bool(line.get(unit, 0) & mask)
                if not event.nt:
                    line[unit] = line.get(unit, 0) | mask
            if overwritten:
                yield OVERWRITTEN, number
        elif isinstance(event, Flush):
            if not dirty.pop(event.line, None):
                yield (REDUNDANT_FLUSH if event.line in flushed else CLEAN_FLUSH), number
            flushed.add(event.line)
        elif isinstance(event, WriteBack):
            dirty.clear()
            flushed.clear()
            buffered = False
        elif isinstance(event, Fence):
            if event.kind is not FenceKind.LOCKED and not flushed and not buffered:
                yield REDUNDANT_FENCE, number
            flushed.clear()
            buffered = False
