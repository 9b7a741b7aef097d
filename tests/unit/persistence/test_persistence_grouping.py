"""One bug, one cause: what is joined, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from emu.persistence.lab import findings
from emu.persistence.lab.grouping import Found, joined
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind
from emu.persistence.model.rules import Rules
from tests.unit.persistence.test_persistence_causes import explained, store, with_places
from tests.unit.persistence.test_persistence_explore import Memory

SFENCE = Fence(FenceKind.SFENCE)


def flush(address: int) -> Flush:
    return Flush(address, FlushKind.CLWB)


def durable(address: int) -> list[Event]:
    return [flush(address), SFENCE]


def causes(events: Sequence[Event], body: Callable[[Memory], int]) -> list[findings.Failure]:
    return explained(with_places(events), Rules(), body)[0]


def test_one_lost_store_is_one_cause_however_recovery_ends() -> None:
    def body(memory: Memory) -> int:
        stage = memory.load(64) & 0xFF
        return stage if stage and not memory.load(0) else 0

    (failure,) = causes([store(0, 1), store(64, 1), *durable(64), store(64, 2), *durable(64)], body)
    assert (failure.kind, failure.lost, failure.also) == (findings.MISSING_FLUSH, (0,), ())
    assert failure.events == {3, 6, 7}


def test_what_one_fence_repairs_is_one_cause() -> None:
    def body(memory: Memory) -> int:
        return int(bool(memory.load(128)) and not (memory.load(0) and memory.load(64)))

    written = [store(0, 1), store(64, 1), flush(0), flush(64), store(128, 1), *durable(128)]
    (failure,) = causes(written, body)
    assert (failure.kind, failure.lost, failure.also) == (findings.MISSING_FENCE, (0,), (1,))


def test_what_needs_two_flushes_is_two_causes() -> None:
    def body(memory: Memory) -> int:
        return int(bool(memory.load(128)) and not (memory.load(0) and memory.load(64)))

    found = causes([store(0, 1), store(64, 1), store(128, 1), *durable(128)], body)
    assert [(failure.kind, failure.lost) for failure in found] == [
        (findings.MISSING_FLUSH, (0,)),
        (findings.MISSING_FLUSH, (1,)),
    ]


def test_groups_of_stores_that_overlap_are_one_cause() -> None:
    """Three words that must always be equal, changed twice: each store of a change is lost without the others."""
    events: list[Event] = []
    for value in (1, 2):
        for address in (0, 64, 128):
            events += [store(address, value), *durable(address)]

    def body(memory: Memory) -> int:
        return int(len({memory.load(address) for address in (0, 64, 128)}) > 1)

    found = causes(events, body)
    assert {failure.kind for failure in found} == {findings.ATOMICITY}
    assert len(found) == 2, "one for each change"
    assert not any(failure.gave_up for failure in found)


def test_a_group_that_is_too_large_to_be_an_answer_says_so() -> None:
    addresses = [64 * number for number in range(10)]
    events = [event for address in addresses for event in (store(address, 1, 1), *durable(address))]
    (failure,) = causes(events, lambda memory: int(sum(map(memory.load, addresses)) not in (0, 10)))
    assert failure.kind == findings.ATOMICITY
    assert failure.gave_up
    assert "given up" in failure.explanation


@dataclass(frozen=True)
class _Rules:
    """A repair that makes these ways impossible."""

    paths: frozenset[str]

    def rules_out(self, path: str, after: int, until: int) -> bool:
        return path in self.paths


def found(name: str, kind: str, lost: set[int], repairs: str = "") -> Found[str]:
    one = Found(name, kind, frozenset(lost), fixes=(_Rules(frozenset(repairs)),))  # type: ignore[arg-type]
    one.add(1, name, 0)  # type: ignore[arg-type]
    return one


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        # Either repair ends c, yet a and b are two bugs.
        (
            [found("a", "missing flush", {1}, "ac"), found("b", "missing flush", {2}, "bc"),
             found("c", "persistence atomicity", {1, 2})],
            ["ac", "b"],
        ),
        # The repair that does most stands for all of them.
        (
            [found("a", "missing fence", {1}, "a"), found("b", "missing flush", {2}, "abc"),
             found("c", "unexplained", {3})],
            ["bac"],
        ),
        # The same store, in two combinations; another kind of bug about it is another bug.
        (
            [found("a", "missing flush", {1, 2}), found("b", "missing flush", {1}), found("c", "torn write", {1})],
            ["ba", "c"],
        ),
        ([found("a", "recovery logic bug", set()), found("b", "recovery logic bug", set())], ["a", "b"]),
    ],
    ids=["shared", "most", "same store", "none"],
)  # fmt: skip
def test_joined(causes: list[Found[str]], expected: list[str]) -> None:
    assert ["".join(one.failure for one in group) for group in joined(causes)] == expected


def test_what_was_found_first_stands_for_its_group_and_begins() -> None:
    """Though the repair of another one does more, or another one has fewer stores: it was reported before these."""
    first = found("a", "missing flush", {1, 2}, "a")
    causes = [found("b", "missing flush", {3}, "ab"), found("c", "missing flush", {2}), first]
    assert ["".join(one.failure for one in group) for group in joined(causes, first)] == ["ac", "b"]
    assert ["".join(one.failure for one in group) for group in joined(causes)] != ["ac", "b"]
