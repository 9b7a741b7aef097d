"""What the workload has told somebody outside when the power fails, as events of its trace.

A verdict that depends on what was told depends on reads like any other. Each piece that was printed has a word among
the addresses of the model that says whether it is out, and a recovery that looks for the piece reads that word. One
more word counts the boundaries of operations that were passed: what may be seen after a crash depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from emu.errors import UsageError
from emu.persistence.lab.workload import Workload
from emu.persistence.model.events import BOUNDARIES, UNIT, Event, Told, printed_address
from emu.persistence.model.operations import BEGIN, Mark, Print


def tell(workload: Workload, *, prints: bool, boundaries: bool) -> Workload:
    """``workload`` with an event for each piece that it printed, and for each boundary of its operations; events and
    marks behind are numbered anew.
    """
    passed = dict(_boundaries(workload.said)) if boundaries else {}
    events: list[Event] = []
    entries: list[int] = []
    said: list[Mark | Print] = []
    taken = printed = counted = 0
    for number, one in enumerate(workload.said):
        events += workload.events[taken : one.event]
        entries += workload.entries[taken : one.event]
        taken = one.event
        place = len(said)
        said.append(one._replace(event=len(events)))
        if prints and isinstance(one, Print):
            events.append(Told(printed_address(printed), _word(1), one.text, one.pc))
            printed += 1
            entries.append(one.entry)
        if number in passed:
            counted += 1
            events.append(Told(BOUNDARIES, _word(counted), passed[number]))
            entries.append(0)  # no instruction of its own is known
            if isinstance(one, Mark):  # power that fails before this is told fails before the mark
                said[place] = one._replace(event=len(events))
    events += workload.events[taken:]
    entries += workload.entries[taken:]
    return replace(workload, events=tuple(events), said=tuple(said), entries=entries)


def _word(value: int) -> bytes:
    return value.to_bytes(UNIT, "little")


def _boundaries(said: Iterable[Mark | Print]) -> Iterator[tuple[int, bytes]]:
    """The places where no operation is under way, by their numbers in ``said``, and what was said there: the begin and
    the end of each operation that is in no other one; where there are no marks, the end of each printed line.
    UsageError where operations overlap: which of their effects may be seen cannot be said.
    """
    said = list(said)
    if not any(isinstance(one, Mark) for one in said):
        yield from ((n, one.text) for n, one in enumerate(said) if isinstance(one, Print) and one.text.endswith(b"\n"))
        return
    under_way: list[int] = []
    for number, one in enumerate(said):
        if not isinstance(one, Mark):
            continue
        if one.kind == BEGIN:
            under_way.append(one.id)
            if len(under_way) == 1:
                yield number, f"operation {one.id} begins".encode()
        elif one.id in under_way:
            if under_way[-1] != one.id:
                raise UsageError(
                    f"--check states: operation {one.id} is done while operation {under_way[-1]} goes on, which began "
                    "later",
                    "it judges operations that follow each other or lie in each other; mark those of one thread only",
                )
            under_way.pop()
            if not under_way:
                yield number, f"operation {one.id} is done".encode()


def pieces(events: Iterable[Event]) -> list[bytes]:
    """All that was printed, as far as it is among ``events``."""
    return [event.text for event in events if isinstance(event, Told) and event.address != BOUNDARIES]
