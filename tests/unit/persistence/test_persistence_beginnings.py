"""Where recoveries begin: only where an earlier one was that had read what this one reads."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from emu.persistence.lab import beginnings
from emu.persistence.lab.beginnings import Beginnings, Moment, Place
from emu.persistence.lab.explore import Answer, LocalWorker, Run, Settled, explore
from emu.persistence.lab.tree import Reads
from emu.persistence.model.crashstate import Read
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import build
from tests.fuzzing import times
from tests.unit.persistence.test_persistence_explore import Toy, found, random_body, random_content, random_events

TRACKED = frozenset({0, 8, 16, 64, 72, 4096, 4104})
_READ = 24
SIZE = 100


class Closed:
    """A part of a moment: ``closed`` counts how often."""

    def __init__(self) -> None:
        self.closed = 0
        self.size = SIZE

    def close(self) -> None:
        self.closed += 1


def moment(block: int, reads: bytes = b"") -> Moment:
    part = Closed()
    return Moment(part, part, lambda: None, b"", {}, block, reads)  # type: ignore[arg-type] # as far as it goes


class Remembering(Toy):
    """Looks up where each run could begin, and compares with what the whole run then does. Each read is a block."""

    def __init__(self, toy: Toy) -> None:
        super().__init__(toy.body, toy.initial)
        self.beginnings = Beginnings(moment(0), TRACKED)
        self.skipped = 0

    def run(
        self, tracked: frozenset[int], answer: Answer, settled: Settled | None = None, given: Sequence[Read] = ()
    ) -> Run:
        assert settled is not None
        asked: list[Read] = []

        def asks(unit: int, mask: int) -> int:
            asked.append((unit, mask, answer(unit, mask)))
            return asked[-1][2]

        place = self.beginnings.find(settled, asks)
        start, begin = self.beginnings.nearest(place)
        run = super().run(tracked, answer, settled, given)
        reads = Reads.of(run.reads).data
        assert reads.startswith(place.reads())
        made = iter(run.reads)
        assert all(read in made for read in dict.fromkeys(asked)), (
            "it asked for what recovery does not read, or too soon"
        )
        self.skipped += len(begin.reads)
        if start is not place:
            self.beginnings.keep(place, moment(place.block, place.reads()))
        later = range(len(begin.reads) + _READ, len(reads), _READ)
        self.beginnings.add(start, reads[len(begin.reads) :], [(at - len(begin.reads), at // _READ) for at in later])
        return run


@pytest.mark.fuzz
def test_a_place_is_found_only_on_the_way_of_a_recovery() -> None:
    rng = random.Random("beginnings")
    skipped = 0
    for _ in range(times(150)):
        timeline = build(random_events(rng), Rules())
        initial = random_content(rng)
        toy = Toy(random_body(rng.randint(0, 10**9), stores=False), initial)
        remembering = Remembering(toy)
        expected = explore(timeline, initial, LocalWorker(toy, timeline, initial))
        assert found(explore(timeline, initial, LocalWorker(remembering, timeline, initial))) == found(expected)
        skipped += remembering.skipped
    assert skipped > 50 * _READ


def _grown(count: int) -> tuple[Beginnings, list[Place]]:
    """Places behind one another, each with a moment."""
    made = Beginnings(moment(0), TRACKED)
    reads = Reads.of([(8 * n, 0xFF, n) for n in range(count + 1)]).data
    made.add(made._root, reads, [(_READ * n, n) for n in range(1, count + 1)])
    places, place = [], made._root
    while place.branches:
        (place,) = place.branches
        made.keep(place, moment(place.block, place.reads()))
        places.append(place)
    return made, places


def test_reads_of_a_place_are_all_from_the_beginning() -> None:
    _, places = _grown(3)
    assert [len(Reads(place.reads())) for place in places] == [1, 2, 3]
    assert [place.block for place in places] == [1, 2, 3]


def test_moments_that_were_used_least_lately_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "_MOST_MEMORY", 3 * SIZE)
    made, places = _grown(3)
    made.nearest(places[0])
    first, second = (place.moment for place in places[:2])
    made.add(places[2], Reads.of([(64, 1, 1), (64, 2, 2)]).data, [(_READ, 9)])
    (last,) = places[2].branches
    made.keep(last, moment(9, last.reads()))
    assert [place.moment is None for place in (*places, last)] == [False, True, False, False]
    assert first is not None
    assert second is not None
    assert (first.cpu.closed, second.cpu.closed) == (0, 2)  # type: ignore[attr-defined] # its CPU and its memory
    assert made.nearest(places[1])[0] is places[0]


def test_branches_that_nobody_came_by_lately_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    made, (place,) = _grown(1)
    kept = place.moment
    for n in range(beginnings._MOST_BRANCHES):
        made.add(made._root, Reads.of([(0, 0xFF, 100 + n), (8, 0xFF, 0)]).data, [(_READ, 1)])
    assert place not in made._root.branches
    assert kept is not None
    assert kept.cpu.closed  # type: ignore[attr-defined] # as above


def test_too_many_reads_are_all_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "_MOST_READS", 2 * _READ)
    made, places = _grown(3)
    assert not made._root.branches
    assert places == []


def test_all_that_is_kept_is_closed() -> None:
    made, places = _grown(2)
    moments = [place.moment for place in places]
    made.close()
    assert [kept.cpu.closed for kept in moments if kept] == [2, 2]  # type: ignore[attr-defined] # as above


def test_what_is_certain_is_found_out_anew_for_other_memories() -> None:
    made, (place,) = _grown(1)
    one = Settled(build([], Rules()), lambda unit: 0, 0)
    other = Settled(one.timeline, lambda unit: 1, 0)
    for _ in range(2):
        assert made.find(one, lambda unit, mask: 0) is place
        assert made.find(other, lambda unit, mask: 1 & mask) is made._root
