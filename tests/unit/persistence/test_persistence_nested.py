"""What fails only when power fails during recovery too is repaired in recovery, and the repair is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from emu.persistence.lab import findings
from emu.persistence.lab.explore import Limits, LocalWorker, explore
from emu.persistence.lab.findings import Analyst, Failure
from emu.persistence.lab.memories import Patience
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import build
from tests.unit.persistence.test_persistence_causes import store, with_places
from tests.unit.persistence.test_persistence_explore import Memory, Toy, clean

SFENCE = Fence(FenceKind.SFENCE)
ONE = b"\1" + bytes(7)
PROGRAM = with_places([store(0, 1), Flush(0, FlushKind.CLWB), SFENCE])


def recovery(*between: Event, tail: Sequence[Event] = (Flush(128, FlushKind.CLWB), SFENCE)) -> Callable[[Memory], int]:
    """After a crash behind the first store: store a value (64), then a mark (128) that says that it is there."""

    def body(memory: Memory) -> int:
        if not memory.load(0):
            return 0
        if memory.load(128):
            return int(not memory.load(64))
        memory.store(64, ONE)
        for event in between:
            memory.event(event)
        memory.store(128, ONE)
        for event in tail:
            memory.event(event)
        return 0

    return body


def causes(body: Callable[[Memory], int]) -> list[Failure]:
    timeline, toy = build(PROGRAM, Rules()), Toy(body)
    found = explore(timeline, clean, LocalWorker(toy, timeline, clean), limits=Limits(depth=2))
    assert not found.incomplete_because
    return Analyst(found, timeline, PROGRAM, clean, toy, Patience(1_000_000)).explain()


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        ((), findings.MISSING_FLUSH),
        ((SFENCE,), findings.MISSING_FLUSH),
        ((Flush(64, FlushKind.CLWB),), findings.MISSING_FENCE),
    ],
)
def test_what_recovery_lacks_is_named(between: tuple[Event, ...], kind: str) -> None:
    (failure,) = causes(recovery(*between))
    assert failure.kind == kind
    assert failure.in_recovery is not None
    assert failure.in_recovery.lost == (0,)
    assert failure.in_recovery.persisted == 1 + len(between)
    assert not failure.gave_up
    assert not failure.lost


def test_the_repaired_recovery_has_no_cause() -> None:
    assert causes(recovery(Flush(64, FlushKind.CLWB), SFENCE)) == []


def test_one_cause_however_many_events_recovery_had_made() -> None:
    """Power fails at one place or at another, and in the end it is the same lost store."""
    tail = [event for _ in range(3) for event in (Flush(128, FlushKind.CLWB), SFENCE)]
    (failure,) = causes(recovery(tail=tail))
    assert (failure.kind, failure.gave_up) == (findings.MISSING_FLUSH, False)


def test_where_no_repair_is_found_it_is_said() -> None:
    """Recovery that counts its runs and does not bear a second one: no flush, no order and no grouping helps."""

    def body(memory: Memory) -> int:
        runs = memory.load(64)
        if memory.load(0):
            memory.store(64, bytes([runs % 255 + 1]) + bytes(7))
            memory.event(Flush(64, FlushKind.CLFLUSH))
        return int(runs > 0)

    (failure,) = causes(body)
    assert (failure.kind, failure.in_recovery, failure.gave_up) == (findings.RECOVERY_LOGIC, None, True)
    assert "no repair of recovery was found" in failure.explanation
