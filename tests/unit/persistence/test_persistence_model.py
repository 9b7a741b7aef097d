"""The rules that the oracle does not know, the counts, and the images that findings are made of."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from emu.config import PersistenceDomain
from emu.persistence.model import timeline as timeline_module
from emu.persistence.model.columns import Writer
from emu.persistence.model.crashstate import CrashState, memories
from emu.persistence.model.distinct import count_distinct
from emu.persistence.model.events import (
    Event,
    Fence,
    FenceKind,
    Flush,
    FlushKind,
    Store,
    WriteBack,
    WriteBackKind,
    split,
    units_of,
)
from emu.persistence.model.image import Image, PartId, candidates, example
from emu.persistence.model.rules import FailedCas, Media, Order, Rules
from emu.persistence.model.timeline import Timeline, build
from emu.persistence.model.waste import find_waste
from tests.fuzzing import times

ONE, TWO = (1).to_bytes(8, "little"), (2).to_bytes(8, "little")
SF, CAS = Fence(FenceKind.SFENCE), Fence(FenceKind.LOCKED, failed=True)
RULES = [Rules(domain, order, media) for domain in PersistenceDomain for order in Order for media in Media]


def clean(_unit: int) -> int:
    return 0


def store(address: int, data: bytes = ONE, *, nt: bool = False) -> Store:
    return Store(address, data, nt)


def clwb(address: int) -> Flush:
    return Flush(address, FlushKind.CLWB)


def everything(timeline: Timeline) -> list[set[tuple[tuple[int, int], ...]]]:
    """The memories of each crash point."""
    return [
        {tuple(sorted(memory.items())) for memory in memories(CrashState.at(timeline, point.number, clean))}
        for point in timeline.points
    ]


def last(events: list[Event], rules: Rules) -> set[tuple[int, ...]]:
    timeline = build(events, rules)
    point = timeline.points[-1].number
    return {tuple(memory.values()) for memory in memories(CrashState.at(timeline, point, clean))}


def test_split_at_units() -> None:
    assert list(split(6, b"\1\2\3\4")) == [(0, 0xFFFF << 48, 0x0201 << 48), (8, 0xFFFF, 0x0403)]
    assert list(units_of(6, 4)) == [(0, 0xFFFF << 48), (8, 0xFFFF)]
    assert list(split(8, b"")) == []


def test_failed_compare_and_swap_is_a_barrier_or_a_load() -> None:
    events: list[Event] = [store(0), clwb(0), CAS, store(64)]
    assert last(events, Rules()) == {(1, 0), (1, 1)}
    assert last(events, Rules(failed_cas=FailedCas.LOAD)) == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_page_cache_holds_a_prefix_of_each_page() -> None:
    events: list[Event] = [store(0), Flush(0, FlushKind.CLFLUSH), SF, store(64), store(4096)]
    assert last(events, Rules(media=Media.PAGE_CACHE)) == {
        (first, second, other) for first, second in ((0, 0), (1, 0), (1, 1)) for other in (0, 1)
    }


def test_dax_loses_whole_pages_of_what_is_durable_too() -> None:
    events: list[Event] = [store(0), store(64), clwb(0), clwb(64), SF, store(4096)]
    assert last(events, Rules(media=Media.DAX)) == {(*first, other) for first in ((0, 0), (1, 1)) for other in (0, 1)}
    assert last(events, Rules()) == {(1, 1, 0), (1, 1, 1)}


def test_a_dax_page_comes_back_as_the_file_had_it() -> None:
    timeline = build([store(0), clwb(0), SF], Rules(media=Media.DAX))
    state = CrashState.at(timeline, timeline.points[-1].number, lambda unit: 7)
    assert {value for value, _ in state.read(0, (1 << 64) - 1)} == {1, 7}


def test_reading_one_unit_tells_about_its_line() -> None:
    timeline = build([store(0), store(8), store(0, TWO)], Rules())
    state = CrashState.at(timeline, timeline.points[-1].number, clean)
    values = dict(state.read(0, (1 << 64) - 1))
    assert sorted(values) == [0, 1, 2]
    assert values[0].value(8, 0xFF) == 0
    assert values[2].value(8, 0xFF) == 1
    assert sorted(value for value, _ in values[1].read(8, 0xFF)) == [0, 1]


def random_events(rng: random.Random) -> list[Event]:
    events: list[Event] = []
    for number in range(1, rng.randint(2, 8)):
        kind = rng.random()
        if kind < 0.65:
            address = rng.choice([0, 4, 8, 64, 4096])
            events.append(Store(address, bytes([number % 3]) * rng.choice([8, 16]), rng.random() < 0.2))
        elif kind < 0.85:
            events.append(Flush(rng.choice([0, 64, 4096]), rng.choice(list(FlushKind))))
        else:
            events.append(SF)
    return events


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
@pytest.mark.fuzz
def test_distinct_counts_each_memory_once(rules: Rules) -> None:
    rng = random.Random(f"distinct {rules}")
    for _ in range(times(150)):
        timeline = build(random_events(rng), rules)
        # A unit that was not yet stored to at a crash point is 0 there.
        whole = {tuple(item for item in memory if item[1]) for point in everything(timeline) for memory in point}
        assert count_distinct(timeline, clean) == len(whole)


def test_distinct_gives_up_where_it_would_take_too_long() -> None:
    timeline = build(
        [store(64 * n, ONE) for n in range(20)] + [store(0, n.to_bytes(4, "little")) for n in range(70_000)], Rules()
    )
    assert count_distinct(timeline, clean) is None


def test_distinct_counts_one_large_store_unit_by_unit() -> None:
    """Its lines can hold 256 things each, or one more; its units two."""
    events: list[Event] = [Store(0, bytes(range(1, 9)) * 4096), SF, store(0, ONE)]
    assert count_distinct(build(events, Rules()), clean) == (2**8 + 1) * 2**4088


def test_eager_multiplies_lines() -> None:
    timeline = build([store(64 * line + 8 * word) for line in range(3) for word in range(4)], Rules())
    assert timeline.points[-1].eager == 5**3


@pytest.mark.parametrize("rules", RULES[::2], ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
@pytest.mark.fuzz
def test_images_are_possible_memories_and_examples_find_their_roots(rules: Rules) -> None:
    rng = random.Random(f"images {rules}")
    for _ in range(times(60)):
        timeline = build(random_events(rng), rules)
        for point, possible in zip(timeline.points, everything(timeline), strict=True):
            units = list(timeline.units_at(point.number))
            for root in [None, *candidates(timeline, point.number, units)]:
                image = Image(timeline, clean, point.number, frozenset([root] if root else []))
                assert tuple(sorted(image.contents().items())) in possible
                assert root is None or root in image.lost()
            found = example(CrashState.at(timeline, point.number, clean), timeline, clean, point.number)
            assert tuple(sorted(found.contents().items())) in possible


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
@pytest.mark.parametrize("in_columns", [True, False])
def test_a_timeline_that_is_late_ends_where_it_has_come_to(
    rules: Rules, in_columns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline_module, "_PIECE", 7)
    rng = random.Random(1)
    events: Sequence[Event] = [rng.choice((store(64 * n), clwb(64 * n), SF)) for n in range(100)]
    if in_columns:
        written = Writer()
        for event in events:
            written.append(event)
        events = written.events()
    looks = iter((False, False, True))
    timeline = build(events, rules, is_late=lambda: next(looks))
    came_to = timeline.points[-1].event
    assert 0 < came_to < len(events)
    assert timeline == build(events[:came_to], rules)
    assert find_waste(events, build(events, rules), is_late=lambda: True) is None


def test_losing_a_store_loses_what_must_not_persist_before_it() -> None:
    timeline = build([store(0), store(8), store(64)], Rules())
    image = Image(timeline, clean, 0, frozenset([PartId(0, 0, 0)]))
    assert [part.event for part in image.lost()] == [0, 1]
    assert image.contents() == {0: 0, 8: 0, 64: 1}


def wasted(events: list[Event], rules: Rules = Rules()) -> list[tuple[str, int, int]]:  # noqa: B008 - frozen
    found = find_waste(events, build(events, rules))
    assert found is not None
    return [(item.kind, item.count, item.first_event) for item in found]


def test_waste() -> None:
    events: list[Event] = [
        store(0), clwb(0), clwb(0), SF, SF, store(8), store(8), clwb(64), SF, Fence(FenceKind.LOCKED)
    ]  # fmt: skip
    assert wasted(events) == [
        ("store not flushed at the end", 2, 5),
        ("overwrite before persist", 1, 6),
        ("redundant flush", 1, 2),
        ("flush of clean line", 1, 7),
        ("redundant fence", 1, 4),
    ]
    assert wasted([store(0, nt=True), SF, store(0), Flush(0, FlushKind.CLFLUSH), SF]) == []


@pytest.mark.parametrize(
    ("events", "rules", "expected"),
    [
        ([store(0)], Rules(), [("store not flushed at the end", 1, 0)]),
        ([store(0), clwb(0)], Rules(), [("store not fenced at the end", 1, 0)]),
        ([store(0), clwb(0), SF], Rules(), []),
        ([store(0), Flush(0, FlushKind.CLFLUSH)], Rules(), []),
        ([store(0), WriteBack(WriteBackKind.WBINVD)], Rules(), []),
        ([clwb(0), store(0), SF], Rules(), [("store not flushed at the end", 1, 1), ("flush of clean line", 1, 0)]),
        ([Store(60, b"12345678"), clwb(0), SF], Rules(), [("store not flushed at the end", 1, 0)]),
        ([store(0, nt=True)], Rules(), [("store not fenced at the end", 1, 0)]),
        ([store(0), store(64)], Rules(PersistenceDomain.EADR), [("store not fenced at the end", 2, 0)]),
        ([store(0), SF, SF], Rules(PersistenceDomain.EADR), [("redundant fence", 1, 2)]),
        ([store(0), clwb(0), SF], Rules(media=Media.PAGE_CACHE), [("store not written back at the end", 1, 0)]),
    ],
)
def test_what_a_run_leaves_behind(events: list[Event], rules: Rules, expected: list[tuple[str, int, int]]) -> None:
    assert wasted(events, rules) == expected
