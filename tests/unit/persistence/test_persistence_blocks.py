"""Block writes that are looked at coarsely: there, not there, or torn at a few places, and nothing else."""

from __future__ import annotations

import pytest

from emu.persistence.model.blocks import Blocks, Tears, find_blocks
from emu.persistence.model.crashstate import FULL, CrashState, memories
from emu.persistence.model.distinct import count_distinct
from emu.persistence.model.events import Event, Fence, FenceKind, Store
from emu.persistence.model.image import example
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import build
from emu.units import PAGE

KERNEL = 1 << 47
SF = Fence(FenceKind.SFENCE)
PAGE_0, PAGE_1 = 0x100000, 0x101000


def clean(_unit: int) -> int:
    return 0


def write(address: int, value: int, *, pc: int = KERNEL, size: int = 8, length: int = PAGE) -> list[Event]:
    """What a kernel does to copy a block: non-temporal stores from its beginning to its end."""
    data = value.to_bytes(8, "little") * (size // 8)
    return [Store(at, data, True, False, pc) for at in range(address, address + length, size)]


def contents(events: list[Event], tears: Tears, page: int) -> list[list[int]]:
    """At the last crash point, for each possible memory, how many units of a page hold each value, in their order."""
    timeline = build(events, Rules(blocks=find_blocks(events, KERNEL, tears)))
    state = CrashState.at(timeline, timeline.points[-1].number, clean)
    return sorted([memory[unit] for unit in sorted(memory) if page <= unit < page + PAGE] for memory in memories(state))


@pytest.mark.parametrize("tears", [0, 1, 5])
def test_a_block_is_old_or_new_or_torn_at_so_many_places(tears: int) -> None:
    found = contents(write(PAGE_0, 7), Tears(tears, 1), PAGE_0)
    kept = sorted(content.count(7) for content in found)
    assert len(found) == tears + 2
    assert (kept[0], kept[-1]) == (0, 512)
    assert len(set(kept)) == tears + 2
    for content in found:  # a beginning of the write has persisted
        assert content == sorted(content, reverse=True)


def test_the_seed_says_where() -> None:
    drawn = {seed: contents(write(PAGE_0, 7), Tears(3, seed), PAGE_0) for seed in (1, 2)}
    assert drawn[1] == contents(write(PAGE_0, 7), Tears(3, 1), PAGE_0)
    assert drawn[1] != drawn[2]


def test_a_fence_makes_it_durable_and_two_writes_persist_in_their_order() -> None:
    events = [*write(PAGE_0, 7), SF]
    assert contents(events, Tears(3, 0), PAGE_0) == [[7] * 512]
    twice = contents(write(PAGE_0, 7) + write(PAGE_0, 9), Tears(0, 0), PAGE_0)
    assert twice == [[0] * 512, [7] * 512, [9] * 512]


def test_blocks_are_independent_and_counted_so() -> None:
    events = write(PAGE_0, 7) + write(PAGE_1, 9, size=64) + [SF] + write(PAGE_0, 8)
    rules = Rules(blocks=find_blocks(events, KERNEL, Tears(2, 0)))
    timeline = build(events, rules)
    assert [point.eager for point in timeline.points] == [4 * 4, 4]
    assert count_distinct(timeline, clean) == 4 * 4 + 3  # the new block persisted or not: once either way
    for point in timeline.points:
        assert sum(1 for _ in memories(CrashState.at(timeline, point.number, clean))) == point.eager


def test_a_memory_is_named_by_the_pieces_that_it_lacks() -> None:
    events = write(PAGE_0, 7)
    timeline = build(events, Rules(blocks=find_blocks(events, KERNEL, Tears(2, 0))))
    for torn in range(4):
        state = CrashState.at(timeline, 0, clean)
        for unit in range(PAGE_0, PAGE_0 + PAGE, 8):  # the last one: what the torn-th of the values leaves
            options = state.read(unit, FULL)
            state = options[min(torn, len(options) - 1)][1] if len(options) > 1 else state
        expected = {unit: state.read(unit, FULL)[0][0] for unit in range(PAGE_0, PAGE_0 + PAGE, 8)}
        assert example(state, timeline, clean, 0).contents() == expected


@pytest.mark.parametrize(
    "events",
    [
        write(PAGE_0, 7, pc=0x400000),
        [*write(PAGE_0, 7)[:100], SF, *write(PAGE_0, 7)[100:]],
        [*write(PAGE_0, 7), SF, Store(PAGE_0 + 24, b"x", False, False, KERNEL)],
        [*write(PAGE_0, 7), SF, Store(PAGE_0 - 4, bytes(8), False, False, KERNEL)],
        write(PAGE_0, 7, length=PAGE - 8),
        write(PAGE_0 + 64, 7),
    ],
    ids=["a program's", "a fence within", "a store besides", "a store into it", "not to its end", "not from its begin"],
)
def test_what_is_no_block_write_stays_exact(events: list[Event]) -> None:
    assert find_blocks(events, KERNEL, Tears(1, 0)) == Blocks(frozenset(), {})
