"""What every part of the report page draws from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emu.persistence.lab.explore import Verdict
from emu.persistence.lab.findings import Failure
from emu.persistence.lab.investigation import Answer
from emu.persistence.model.crashstate import Initial
from emu.persistence.model.events import Event, Store, page_of
from emu.persistence.report import words
from emu.persistence.report.document import Describer
from emu.persistence.report.excerpts import Sources
from emu.persistence.report.lanes import Picture
from emu.persistence.report.page_timeline import FORCED, LOST, NOT_MADE, PAGE_LOST, PERSISTED, Scene

_MOST_OF_PAGE = 8


@dataclass(frozen=True, slots=True)
class Page:
    """One investigation: its document, its trace and how to name things in it."""

    result: Mapping[str, Any]
    answer: Answer
    describer: Describer
    picture: Picture
    sources: Sources
    initial: Initial

    @property
    def count(self) -> int:
        return len(self.answer.workload.events)

    def name(self, address: int) -> str:
        """A place in an NVDIMM, as people write it; the NVDIMM's name only where there are several."""
        for dimm in self.answer.workload.dimms:
            if dimm.gpa <= address < dimm.gpa + dimm.size:
                offset = f"{address - dimm.gpa:#x}"
                return offset if len(self.answer.workload.dimms) == 1 else f"{dimm.id[:16]}+{offset}"
        label = self.answer.workload.label(address)
        return f"{address:#x}" if label is None else f"{label[0].id[:16]} label+{label[1]:#x}"

    def describe(self, number: int) -> str:
        return words.event(self.describer.event(number))

    def when(self, event: int) -> str:
        """A crash point in words."""
        if event >= self.count:
            return "after the last event"
        return f"just before event {event} ({words.event(self.describer.event(event)).partition(': ')[2]})"


def scene_of(page: Page, roles: Mapping[int, str]) -> Scene:
    """What the timeline draws from."""
    answer = page.answer
    failing = {point for found in answer.exploration.results if fails(found.leaf.verdict) for point in found.points}
    points = answer.timeline.points
    return Scene(
        answer.workload.events,
        frozenset(point.event for point in points),
        frozenset(points[point].event for point in failing),
        page.describe,
        page.name,
        roles,
    )


def fails(verdict: Verdict | None) -> bool:
    """Whether recovery was run and did not end well."""
    return verdict is not None and not verdict.ok


def roles(answer: Answer) -> dict[int, str]:
    """What the findings say about events; the first finding decides."""
    found: dict[int, str] = {}
    for failure in answer.failures:
        for number, role in roles_of(failure, answer.workload.events).items():
            found.setdefault(number, role)
    return found


def roles_of(failure: Failure, events: Sequence[Event]) -> dict[int, str]:
    """What one finding says about events; of the stores to a lost page only the newest are named."""
    roles = dict.fromkeys(failure.forced, FORCED)
    for number in range(min(failure.event, len(events)) - 1, -1, -1) if failure.lost_pages else ():
        event = events[number]
        if isinstance(event, Store) and page_of(event.address) in failure.lost_pages:
            roles[number] = PAGE_LOST
            if len(roles) == _MOST_OF_PAGE:
                break
    roles |= {number: LOST if number < failure.event else NOT_MADE for number in failure.lost}
    return roles | ({failure.persisted: PERSISTED} if failure.persisted is not None else {})
