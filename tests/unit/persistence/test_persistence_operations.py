"""Operations: their marks, the part of a run that marks bound, and what must be durable when one is done."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from emu.config import PersistenceDomain
from emu.errors import UsageError
from emu.persistence.lab.explore import Exploration, LocalWorker, explore
from emu.persistence.lab.findings import MISSING_MAP_SYNC
from emu.persistence.lab.promised import unkept
from emu.persistence.model.crashstate import CrashState, Initial, memories
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind, LabelWrite, Store, line_of, split
from emu.persistence.model.operations import Mark, Operation, Window, in_flight, operations, window
from emu.persistence.model.promises import broken_promises
from emu.persistence.model.rules import Media, Rules
from emu.persistence.model.timeline import Timeline, build
from tests.unit.persistence.test_persistence_explore import (
    RULES,
    UNITS,
    Toy,
    random_body,
    random_content,
    random_events,
)

SFENCE = Fence(FenceKind.SFENCE)
MARKS = [Mark(2, "begin", 7), Mark(5, "done", 7), Mark(5, "begin", 8), Mark(9, "done", 8), Mark(9, "begin", 7)]


def clean(_unit: int) -> int:
    return 0


# Marks


def test_operations_nest_repeat_and_stay_open() -> None:
    marks = [
        Mark(0, "done", 1),
        Mark(1, "begin", 1),
        Mark(2, "begin", 1),
        Mark(3, "begin", 2),
        Mark(4, "done", 1),
        Mark(6, "done", 1),
    ]
    assert operations(marks) == [Operation(1, 1, 6), Operation(1, 2, 4), Operation(2, 3, None)]


@pytest.mark.parametrize(("event", "numbers"), [(1, []), (2, [7]), (4, [7]), (5, [8]), (8, [8]), (9, [7]), (50, [7])])
def test_in_flight_from_begin_until_done(event: int, numbers: list[int]) -> None:
    assert in_flight(operations(MARKS), event) == numbers


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (None, None, Window(0, 12)),
        ("begin:7", "done:7", Window(2, 5)),
        ("done:7", "begin:7", Window(5, 9)),
        ("begin:07", None, Window(2, 12)),
        ("3", "done:8", Window(3, 9)),
        ("12", "12", Window(12, 12)),
        (None, "0", Window(0, 0)),
    ],
)
def test_window(begin: str | None, end: str | None, expected: Window) -> None:
    assert window(begin, end, MARKS, 12) == expected


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [
        ("begin:9", None, "--from begin:9: the run has no such mark\n"),
        ("6", "done:7", "--to done:7: the run has no such mark from event 6 on"),
        ("13", None, "--from 13: the run has only 12 events"),
        ("5", "4", "--to 4 is event 4, before event 5 of --from 5"),
        ("done:", None, "--from done:: no place in a run"),
        ("-1", None, "no place in a run"),
        ("Begin:7", None, "no place in a run"),
        ("9" * 5000, None, "no place in a run"),
        ("begin:٣", None, "no place in a run"),
    ],
)
def test_no_such_place(begin: str | None, end: str | None, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        window(begin, end, MARKS, 12)
    assert says in f"{refused.value}\n"


# Windows


def by_event(found: Exploration, events: Sequence[int]) -> set[tuple[int, int, tuple[tuple[int, int, int], ...]]]:
    assert not found.incomplete_because
    return {
        (events[point], result.leaf.verdict.status, result.leaf.path())
        for result in found.results
        if result.leaf.verdict is not None
        for point in result.points
    }


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
def test_a_window_shows_what_the_whole_run_shows_there(rules: Rules) -> None:
    """At each crash point inside what the whole exploration found, at its end what the run up to there leaves."""
    rng = random.Random(f"window {rules}")
    pending_at_the_border = 0
    for _ in range(60):
        events = random_events(rng)
        initial = random_content(rng)
        first = rng.randint(0, len(events))
        last = rng.randint(first, len(events))
        body = random_body(rng.randint(0, 10**9), stores=False)
        part = build(events[:last], rules, first)
        whole, upto = build(events, rules), build(events[:last], rules)
        pending_at_the_border += bool(first and part.pending(0))

        def seen(timeline: Timeline, toy: Toy) -> set[tuple[int, int, tuple[tuple[int, int, int], ...]]]:
            found = explore(timeline, initial, LocalWorker(toy, timeline, initial))  # noqa: B023
            return by_event(found, [point.event for point in timeline.points])

        here = seen(part, Toy(body, initial))
        inside = {item for item in seen(whole, Toy(body, initial)) if first <= item[0] < last}
        border = {item for item in seen(upto, Toy(body, initial)) if item[0] == last}
        units = frozenset(part.units)
        # Units that only later events store to are not asked about: their content is certain here.
        assert {(event, status) for event, status, _ in here} == {
            (event, status) for event, status, _ in inside | border
        }
        assert all(unit in units for _, _, path in here for unit, _, _ in path)
    assert pending_at_the_border > 10


# Durable when done


def content_after(events: Sequence[Event], initial: Initial, lost: int | None = None) -> dict[int, int]:
    content: dict[int, int] = {}
    for number, event in enumerate(events):
        if isinstance(event, Store | LabelWrite) and number != lost:
            for unit, mask, value in split(event.address, event.data):
                content[unit] = content.get(unit, initial(unit)) & ~mask | value
    return content


def undone(events: Sequence[Event], operation: Operation, rules: Rules, initial: Initial) -> bool:
    """Whether a possible memory when ``operation`` is done lacks bytes that it stored; by listing memories."""
    happened = events[: operation.done]
    expected = content_after(happened, initial)
    own: dict[int, int] = {}
    for number, event in enumerate(happened):
        if isinstance(event, Store):
            for unit, mask, _ in split(event.address, event.data):
                own[unit] = own.get(unit, 0) & ~mask if number < operation.begin else own.get(unit, 0) | mask
    timeline = build(happened, rules)
    state = CrashState.at(timeline, timeline.points[-1].number, initial)
    return any(memory[unit] & mask != expected[unit] & mask for memory in memories(state) for unit, mask in own.items())


ADR, EADR = Rules(), Rules(PersistenceDomain.EADR)


@pytest.mark.parametrize("rules", [ADR, EADR, Rules(media=Media.DAX)], ids=["adr", "eadr", "dax"])
def test_broken_promises_are_those_that_some_memory_breaks(rules: Rules) -> None:
    rng = random.Random(f"promises {rules}")
    kept = broken = 0
    without_pages = Rules(rules.domain, rules.order)
    for _ in range(150):
        events = random_events(rng) + random_events(rng)
        initial = random_content(rng)
        begin = rng.randint(0, len(events))
        operation = Operation(1, begin, rng.randint(begin, len(events)))
        found = broken_promises(events, [operation], rules, initial)
        assert bool(found) == undone(events, operation, without_pages, initial)
        for one in found:
            assert one.done == {operation.done}
            assert operation.done is not None
            assert all(operation.begin <= number < operation.done for number in one.stores)
            repaired = [*events[: operation.done]]
            if one.needs_flush:
                lost = [event for event in map(events.__getitem__, one.stores) if isinstance(event, Store)]
                assert len(lost) == len(one.stores)
                repaired += [Flush(line_of(unit), FlushKind.CLWB) for store in lost
                             for unit, _, _ in split(store.address, store.data)]  # fmt: skip
            repaired += [SFENCE]
            after = broken_promises(repaired, [operation._replace(done=len(repaired))], rules, initial)
            assert not {number for left in after for number in left.stores} & set(one.stores)
            contents = {unit: initial(unit) for unit in UNITS} | one.contents
            assert any(all(memory.get(unit, contents[unit]) == contents[unit] for unit in UNITS)
                       for memory in memories(last_of(events[: operation.done], without_pages, initial)))  # fmt: skip
        kept, broken = kept + (not found), broken + bool(found)
    assert kept > 15
    assert broken > 15


def last_of(events: Sequence[Event], rules: Rules, initial: Initial) -> CrashState:
    timeline = build(events, rules)
    return CrashState.at(timeline, timeline.points[-1].number, initial)


def test_a_store_that_changes_nothing_breaks_no_promise() -> None:
    events: list[Event] = [
        Store(0, b"\0" * 8), Store(8, b"\1" * 8), Flush(0, FlushKind.CLWB), SFENCE, Store(8, b"\1" * 8)
    ]  # fmt: skip
    assert not broken_promises(events, [Operation(1, 0, 5)], ADR, clean)


def test_a_label_write_keeps_its_promise() -> None:
    assert not broken_promises([LabelWrite(1 << 60, b"\1" * 8)], [Operation(1, 0, 1)], ADR, clean)


def test_what_one_repair_makes_durable_is_one_cause() -> None:
    """The same instructions in each operation, and two of them in one line."""
    events: list[Event] = []
    found = []
    for number in range(3):
        begin = len(events)
        events += [Store(128 * number, b"\1" * 8, pc=0x10), Store(128 * number + 8, b"\2" * 8, pc=0x20)]
        found.append(Operation(number, begin, len(events)))
    (broken,) = broken_promises(events, found, ADR, clean)
    assert (broken.operation, broken.stores, broken.needs_flush) == (0, (0, 1), True)
    assert broken.done == {2, 4, 6}


def test_causes_that_turn_out_to_be_one_are_joined() -> None:
    """Two instructions alone, then both in one line."""
    events = [Store(0, b"\1" * 8, pc=0x10), Store(64, b"\2" * 8, pc=0x20), Store(128, b"\1" * 8, pc=0x10),
              Store(136, b"\1" * 8, pc=0x20)]  # fmt: skip
    found = [Operation(1, 0, 1), Operation(2, 1, 2), Operation(3, 2, 4)]
    (broken,) = broken_promises(events, found, ADR, clean)
    assert (broken.operation, broken.stores, broken.done) == (1, (0,), {1, 2, 4})


def test_without_map_sync_the_page_of_a_finished_operation_can_be_lost() -> None:
    events: list[Event] = [Store(4096, b"\1" * 8), Flush(4096, FlushKind.CLWB), SFENCE]
    rules = Rules(media=Media.DAX)
    (failure,) = unkept(events, [Operation(3, 0, 3)], Window(0, 3), rules, clean)
    assert (failure.kind, failure.lost_pages, failure.promise) == (MISSING_MAP_SYNC, (4096,), 3)
    assert failure.contents == {4096: 0}
    assert not list(unkept(events, [Operation(3, 0, 3)], Window(0, 3), ADR, clean))


def test_nothing_finished_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to check"):
        list(unkept([], [Operation(1, 0, None)], Window(0, 0), ADR, clean))
