"""What costs time in a trace, or hides a bug, though no crash state fails because of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emu.persistence.model.events import Event, Fence, FenceKind, Flush, Store, WriteBack, line_of, split


@dataclass(frozen=True, slots=True)
class Waste:
    """Something that costs time or hides a bug, though no crash state fails: ``count`` times at ``pc``."""

    kind: str
    pc: int
    count: int
    first_event: int


def find_waste(events: Sequence[Event]) -> list[Waste]:
    """Redundant flushes and fences, flushes of clean lines, bytes overwritten while pending; by instruction."""
    found: dict[tuple[str, int], list[int]] = {}

    def note(kind: str, number: int) -> None:
        found.setdefault((kind, events[number].pc), []).append(number)

    dirty: dict[int, dict[int, int]] = {}  # line -> unit -> bytes stored since the line was last flushed
    flushed: set[int] = set()  # lines flushed since the last fence
    nt_pending = False
    for number, event in enumerate(events):
        if isinstance(event, Store):
            nt_pending = nt_pending or event.nt
            for unit, mask, _ in split(event.address, event.data):
                line = dirty.setdefault(line_of(unit), {})
                if line.get(unit, 0) & mask:
                    note("overwrite before persist", number)
                if not event.nt:
                    line[unit] = line.get(unit, 0) | mask
        elif isinstance(event, Flush):
            if not dirty.pop(event.line, None):
                note("redundant flush" if event.line in flushed else "flush of clean line", number)
            flushed.add(event.line)
        elif isinstance(event, WriteBack):
            dirty.clear()
            flushed.clear()
            nt_pending = False
        elif isinstance(event, Fence):
            if event.kind is not FenceKind.LOCKED and not flushed and not nt_pending:
                note("redundant fence", number)
            flushed.clear()
            nt_pending = False
    return [Waste(kind, pc, len(numbers), numbers[0]) for (kind, pc), numbers in sorted(found.items())]
