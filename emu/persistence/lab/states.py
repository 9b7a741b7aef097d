"""``--check states``: the recovery says what it sees, and what it may see follows from the run itself.

At the boundary of two operations one state is right: that of the memory in which everything before it persisted. A
crash inside of an operation may show the state before it or the one after it, and nothing else (durable linearizability
of one thread; Izraelevitz, Mendes and Scott, DISC 2016). So nobody has to write down what is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from emu.errors import Status, UsageError
from emu.persistence.lab.explore import Answer, Recovery, Run, Settled, Verdict
from emu.persistence.lab.tree import Reads
from emu.persistence.model.crashstate import FULL, Initial, Read
from emu.persistence.model.events import BOUNDARIES, Event, Store, Told, Written, split

ILLEGAL_STATE = "illegal-state"
"""Reason of the ``Verdict`` of a recovery that ended well and showed what it must not show."""
_SHOWN = 2000

Legal = tuple[frozenset[str] | None, ...]
"""For each number of boundaries that were passed, the digests of what recovery may show; None where it may anything."""


class Showing(Recovery, Protocol):
    """A recovery that tells all that its last run wrote to its standard output."""

    @property
    def shown(self) -> bytes: ...


def digest(output: bytes) -> str:
    """What stands for an output."""
    return hashlib.sha256(output).hexdigest()


@dataclass(frozen=True, slots=True)
class Segment:
    """What may be seen between two boundaries, named by what was said there: the ends of the outputs of recovery
    before and after; None for one where recovery itself fails.
    """

    begin: str
    end: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class States:
    """The states at the boundaries of a run. Nothing was promised before the first of them. ``note`` says why less is
    judged than was meant, perhaps.
    """

    boundaries: tuple[int, ...]
    segments: tuple[Segment, ...]
    legal: Legal
    note: str = ""

    def at(self, event: int) -> Segment | None:
        """Between which boundaries power fails just before ``event``."""
        passed = sum(number < event for number in self.boundaries)
        return self.segments[passed - 1] if passed else None


def states_of(events: Sequence[Event], initial: Initial, recovery: Showing) -> States:
    """Run ``recovery`` on the memory at each boundary of a trace. UsageError where there is none, or nothing to see."""
    stored = (split(event.address, event.data) for event in events if isinstance(event, Written))
    tracked = frozenset(unit for parts in stored for unit, _, _ in parts)
    contents: dict[int, int] = {}
    numbers, names, shown = list[int](), list[str](), list[bytes | None]()

    def content(unit: int) -> int:
        return contents[unit] if unit in contents else initial(unit)

    def look() -> bytes | None:
        run = recovery.run(tracked, lambda unit, mask: content(unit) & mask)
        return recovery.shown if run.verdict.ok else None

    for number, event in enumerate(events):
        if isinstance(event, Told) and event.address == BOUNDARIES:
            numbers.append(number)
            names.append(event.text.decode("utf-8", "replace").rstrip("\n"))
            shown.append(look())
        if isinstance(event, Written):
            for unit, mask, value in split(event.address, event.data):
                contents[unit] = content(unit) & ~mask | value
    if not numbers:
        raise UsageError(
            "--check states: the run has no operations, so there is nothing to compare with",
            "mark them with emu_begin and emu_done (guest/lib/operation.h), or let the program print a line after each",
        )
    shown.append(look())
    names.append("the end of the run")
    seen = {one for one in shown if one is not None}
    if seen == {b""}:
        raise UsageError(
            "--check states: recovery prints nothing, so there is nothing to compare",
            "let it print what it sees to its standard output (COM1)",
        )
    segments = [
        Segment(names[n], names[n + 1], _end(shown[n]), _end(shown[n + 1])) for n in range(len(numbers))
    ]  # fmt: skip
    legal = [frozenset(digest(one) for one in shown[n : n + 2] if one is not None) or None for n in range(len(numbers))]
    note = ""
    if len(seen) == 1 and any(number > numbers[0] for number, event in enumerate(events) if isinstance(event, Store)):
        note = (
            "--check states: recovery prints the same at all boundaries of operations, so it may not show what they "
            "change"
        )
    return States(tuple(numbers), tuple(segments), (None, *legal), note)


def _end(output: bytes | None) -> str | None:
    return None if output is None else output[-_SHOWN:].decode("utf-8", "replace")


class Judging:
    """A recovery whose verdict depends on what it shows, too: that word is the last thing that it reads."""

    def __init__(self, recovery: Showing, legal: Legal) -> None:
        self._recovery = recovery
        self._legal = legal

    def run(
        self, tracked: frozenset[int], answer: Answer, settled: Settled | None = None, given: Sequence[Read] = ()
    ) -> Run:
        """As ``Recovery.run``; one that fails by itself reads no more."""
        run = self._recovery.run(tracked, answer, settled, given)
        if not run.verdict.ok or BOUNDARIES not in tracked:
            return run
        passed = answer(BOUNDARIES, FULL)
        reads = Reads(Reads.of(run.reads).data + Reads.of([(BOUNDARIES, FULL, passed)]).data)
        legal = self._legal[passed]
        verdict = run.verdict
        if legal is not None and digest(self._recovery.shown) not in legal:
            what = "recovery shows neither the state before the operation nor the one after it"
            verdict = Verdict(False, ILLEGAL_STATE, int(Status.CRASH_STATES_FAIL), None, what, verdict.output)
        return replace(run, reads=reads, verdict=verdict)
