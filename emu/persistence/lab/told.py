"""What the workload has told somebody outside when the power fails, as events of its trace.

A verdict that depends on what was told depends on a read like any other: each piece that was printed has a word among
the addresses of the model that says whether it is out, and a recovery that looks for the piece reads that word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from emu.persistence.lab.workload import Workload
from emu.persistence.model.events import UNIT, Event, Told, printed_address
from emu.persistence.model.operations import Mark, Print

_OUT = (1).to_bytes(UNIT, "little")


def with_prints(workload: Workload) -> Workload:
    """``workload`` with an event for each piece that it printed; events and marks behind are numbered anew."""
    events: list[Event] = []
    said: list[Mark | Print] = []
    taken = printed = 0
    for one in workload.said:
        events += workload.events[taken : one.event]
        taken = one.event
        said.append(one._replace(event=len(events)))
        if isinstance(one, Print):
            events.append(Told(printed_address(printed), _OUT, one.text))
            printed += 1
    return replace(workload, events=(*events, *workload.events[taken:]), said=tuple(said))


def pieces(events: Iterable[Event]) -> list[bytes]:
    """All that was printed, as far as it is among ``events``."""
    return [event.text for event in events if isinstance(event, Told)]
