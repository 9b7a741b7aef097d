"""Names causes while the exploration goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from emu.persistence.lab.explore import Exploration, Recovery, Result
from emu.persistence.lab.findings import Analyst, Failure
from emu.persistence.lab.memories import MOST_STEPS, Budgeted, Patience
from emu.persistence.lab.naming import LookForSync
from emu.persistence.lab.tree import Tree
from emu.persistence.model.crashstate import Initial
from emu.persistence.model.events import Event
from emu.persistence.model.timeline import Timeline

OnCause = Callable[[Failure], None]

_MOST_OF_THE_TIME = 0.25
_ALWAYS_S = 1.0


class LiveCauses:
    """Tells ``on_cause`` of each cause that explains a failing result and that none told before does.

    It takes a quarter of the time at most (the first second is free), so it may leave causes to the analysis that
    follows the exploration, which does not depend on this one.
    """

    def __init__(
        self,
        timeline: Timeline,
        events: Sequence[Event],
        initial: Initial,
        recovery: Recovery,
        on_cause: OnCause,
        *,
        first: int = 0,
        machine: Budgeted | None = None,
        unsynced: LookForSync | None = None,
    ) -> None:
        nothing = Exploration([], 0, [], frozenset(timeline.units), Tree())
        self._analyst = Analyst(
            nothing,
            timeline,
            events,
            initial,
            recovery,
            Patience(MOST_STEPS),
            first=first,
            machine=machine,
            unsynced=unsynced,
        )
        self._on_cause = on_cause
        self._started = time.monotonic()
        self._spent = 0.0

    def __call__(self, result: Result) -> None:
        begun = time.monotonic()
        if self._spent <= max(_ALWAYS_S, _MOST_OF_THE_TIME * (begun - self._started)):
            failure = self._analyst.look_at(result)
            self._spent += time.monotonic() - begun
            if failure is not None:
                self._on_cause(failure)
