"""The names of causes, judged from outside: the repair that a name stands for is put into the trace, and it repairs.

The judge edits event lists itself and lists memories one by one; it shares no code with ``model.repairs``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from emu.config import PersistenceDomain
from emu.persistence.lab import findings
from emu.persistence.lab.explore import Limits, LocalWorker, explore
from emu.persistence.lab.findings import Analyst, Failure
from emu.persistence.lab.memories import Patience
from emu.persistence.model.crashstate import CrashState, Read, memories
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind, Store, line_of, split
from emu.persistence.model.rules import Media, Rules
from emu.persistence.model.timeline import build
from tests.fuzzing import times
from tests.unit.persistence.test_persistence_explore import RULES, Memory, Toy, clean

Step = tuple[int, Event]
Reads = tuple[Read, ...]
SFENCE = Fence(FenceKind.SFENCE)
EADR = Rules(PersistenceDomain.EADR)
FLUSHED = Rules(), EADR


def store(address: int, value: int, size: int = 8, *, nt: bool = False) -> Store:
    return Store(address, bytes([value]) * size, nt=nt)


def with_places(events: Sequence[Event]) -> list[Event]:
    """Each event with an instruction address of its own."""
    return [event._replace(pc=0x1000 + number) for number, event in enumerate(events)]


def explained(
    events: Sequence[Event], rules: Rules, body: Callable[[Memory], int], limits: Limits | None = None
) -> tuple[list[Failure], set[Reads]]:
    """The causes, and the paths of the failing recoveries."""
    timeline, toy = build(events, rules), Toy(body)
    exploration = explore(timeline, clean, LocalWorker(toy, timeline, clean), limits=limits)
    analyst = Analyst(exploration, timeline, events, clean, toy, Patience(1_000_000))
    failures = analyst.explain()
    assert not analyst.unexplained
    verdicts = [(found.leaf.path(), found.leaf.verdict) for found in exploration.results]
    return failures, {path for path, verdict in verdicts if verdict is not None and not verdict.ok}


def ending(body: Callable[[Memory], int], contents: dict[int, int], tracked: frozenset[int]) -> tuple[int, Reads]:
    run = Toy(body).run(tracked, lambda unit, mask: contents.get(unit, 0) & mask)
    return run.verdict.status, tuple(run.reads)


def units_stored(events: Sequence[Event]) -> frozenset[int]:
    stores = [event for event in events if isinstance(event, Store)]
    return frozenset(unit for event in stores for unit, _, _ in split(event.address, event.data))


class Judge:
    """Lists what can happen to one recovery after one program, and after edits of it."""

    def __init__(self, events: Sequence[Event], rules: Rules, body: Callable[[Memory], int]) -> None:
        self.events, self.rules, self.body = events, rules, body
        self.tracked = units_stored(events)

    def ending(self, contents: dict[int, int]) -> tuple[int, Reads]:
        return ending(self.body, contents, self.tracked)

    def failing(self, steps: Sequence[Step], crash: int, rules: Rules | None = None) -> set[tuple[int, Reads]]:
        """(power fails before this original event, what recovery reads) of all failing recoveries of a trace."""
        timeline = build([event for _, event in steps], rules or self.rules)
        tags = [tag for tag, _ in steps] + [crash]
        found = set()
        for point in timeline.points:
            for memory in memories(CrashState.at(timeline, point.number, clean)):
                status, path = self.ending(memory)
                if status:
                    found.add((tags[point.event], path))
        return found

    def begin(self, crash: int, path: Reads) -> int:
        """The last crash point before ``crash`` at which recovery cannot fail in this way; -1 if it always can."""
        allowed = {event for event, found in self.failing(numbered(self.events), len(self.events)) if found == path}
        points = [point.event for point in build(self.events, self.rules).points if point.event < crash]
        return next((event for event in reversed(points) if event not in allowed), -1)

    def fails_still(self, steps: Sequence[Step], failure: Failure, rules: Rules | None = None) -> bool:
        _, path = self.ending(failure.contents)
        after = self.begin(failure.event, path)
        found = self.failing(steps, failure.event, rules)
        return any(seen == path and event > after for event, seen in found)


def numbered(events: Sequence[Event], first: int = 0) -> list[Step]:
    return [(first + number, event) for number, event in enumerate(events)]


def stored(events: Sequence[Event], number: int) -> Store:
    store = events[number]
    assert isinstance(store, Store)
    return store


def lines(event: Store) -> list[int]:
    return list(dict.fromkeys(line_of(unit) for unit, _, _ in split(event.address, event.data)))


def repaired(events: Sequence[Event], failure: Failure, rules: Rules, kind: str) -> list[Step]:
    """The trace up to the crash with what ``kind`` says is missing for the lost stores."""
    steps: list[Step] = []
    wanted: dict[int, list[Event]] = {}
    for number in failure.lost:
        lost = stored(events, number)
        if kind == findings.MISSING_FLUSH:
            wanted[number] = [*(Flush(line, FlushKind.CLWB) for line in lines(lost)), SFENCE]
        elif lost.nt or rules.domain is PersistenceDomain.EADR:
            wanted[number] = [SFENCE]
        else:
            for line in lines(lost):
                flushes = (n for n, event in numbered(events[number : failure.event], number)
                           if isinstance(event, Flush) and event.line == line)  # fmt: skip
                for first in list(flushes)[:1]:
                    wanted[first] = [SFENCE]
    for number, event in numbered(events[: failure.event]):
        steps.append((number, event))
        steps += [(number + 1, new) for new in wanted.get(number, [])]
    return steps


UNITS = (0, 8, 16, 56, 64, 72, 80, 128)


def random_events(rng: random.Random) -> list[Event]:
    events: list[Event] = []
    for number in range(1, rng.randint(4, 10)):
        kind = rng.random()
        if kind < 0.55:
            size = rng.choice([8, 8, 8, 16, 4])
            events.append(store(rng.choice((0, 8, 56, 64, 128)), number, size, nt=rng.random() < 0.15))
        elif kind < 0.8:
            events.append(Flush(rng.choice((0, 64, 128)), rng.choice(list(FlushKind))))
        else:
            events.append(Fence(rng.choice([FenceKind.SFENCE, FenceKind.MFENCE])))
    return with_places(events)


def random_body(seed: int, events: Sequence[Event]) -> Callable[[Memory], int]:
    """Reads up to three units and fails on some values; not on those of before and after the whole program."""
    final: dict[int, int] = {}
    for event in events:
        if isinstance(event, Store):
            for unit, mask, value in split(event.address, event.data):
                final[unit] = final.get(unit, 0) & ~mask | value

    def body(memory: Memory) -> int:
        state, read = seed, []
        for _ in range(3):
            unit = random.Random(state).choice(UNITS)
            read.append((unit, memory.load(unit)))
            state = state * 31 + read[-1][1]
        if all(value == 0 for _, value in read) or all(value == final.get(unit, 0) for unit, value in read):
            return 0
        return int(random.Random(state).random() < 0.5)

    return body


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
@pytest.mark.fuzz
def test_the_repair_that_is_named_repairs(rules: Rules) -> None:
    rng, seen = random.Random(f"causes {rules}"), Counter[str]()
    for _ in range(times(150)):
        events = random_events(rng)
        body = random_body(rng.randint(0, 10**9), events)
        failures, failing = explained(events, rules, body)
        assert bool(failures) == bool(failing)
        judge = Judge(events, rules, body)
        for failure in failures:
            seen[failure.kind] += 1
            status, path = judge.ending(failure.contents)
            assert status, "the memory of a failure fails"
            assert path in failing
            made = bool(failure.lost) and failure.lost[0] < failure.event
            if failure.kind == findings.MISSING_MAP_SYNC:
                synced = Rules(rules.domain, rules.order, Media.DAX_SYNC)
                assert not judge.fails_still(numbered(events[: failure.event]), failure, synced)
            elif made and rules.flushes_count and not failure.lost_pages:
                kinds = [findings.MISSING_FENCE, findings.MISSING_FLUSH]
                if rules.domain is PersistenceDomain.EADR or all(stored(events, number).nt for number in failure.lost):
                    kinds = kinds[:1]
                steps = {kind: repaired(events, failure, rules, kind) for kind in kinds}
                helps = [kind for kind in kinds if not judge.fails_still(steps[kind], failure)]
                # The name is that of the least repair that helps, and any other name means that neither does.
                assert (failure.kind in kinds) == bool(helps), (events, failure, helps)
                assert not helps or failure.kind == helps[0], (events, failure, helps)
            if failure.kind == findings.ATOMICITY:
                # What was there already is an earlier store, or the persisted half of one of those that are named,
                # as lost or as lost with it.
                if failure.persisted is None:
                    named = (*failure.lost, *failure.forced)
                    assert any(len(units_stored([events[number]])) > 1 for number in named)
                else:
                    assert failure.persisted < failure.lost[0]
            if rules.domain is PersistenceDomain.EADR:
                assert failure.kind != findings.MISSING_FLUSH
    assert seen[findings.UNEXPLAINED] <= sum(seen.values()) // 20, seen
    expected = (
        {findings.ATOMICITY} if rules.domain is PersistenceDomain.EADR else {findings.MISSING_FLUSH, findings.ORDERING}
    )
    assert expected <= seen.keys() or not rules.flushes_count, seen


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
@pytest.mark.fuzz
def test_the_first_failure_alone_has_the_first_cause_of_all(rules: Rules) -> None:
    rng, failing = random.Random(f"first {rules}"), 0
    for _ in range(times(100)):
        events = random_events(rng)
        body = random_body(rng.randint(0, 10**9), events)
        everything, _ = explained(events, rules, body)
        alone, _ = explained(events, rules, body, Limits(first_failure=True))
        # In a whole run more crash points and more lost stores may turn out to be of the same cause.
        said = [
            [(one.kind, one.lost, one.persisted, one.event, one.contents) for one in causes]
            for causes in (everything[:1], alone)
        ]
        assert said[0] == said[1], (events, everything, alone)
        failing += bool(everything)
    assert failing > 10


def word_and_value(memory: Memory) -> int:
    """A commit word at 64 promises the value at 0."""
    return int(memory.load(64) != 0 and memory.load(0) != memory.load(64))


def equal_words(memory: Memory) -> int:
    """Once the flag at 128 is there, the words at 0 and 64 are equal."""
    return int(memory.load(128) != 0 and memory.load(0) != memory.load(64))


FLUSH_0, FLUSH_64 = Flush(0, FlushKind.CLWB), Flush(64, FlushKind.CLWB)


@pytest.mark.parametrize(
    ("program", "body", "rules", "kind", "lost", "persisted"),
    [
        ([store(0, 1), store(64, 1)], word_and_value, Rules(), findings.MISSING_FLUSH, (0,), 1),
        ([store(0, 1), store(64, 1), FLUSH_0, SFENCE], word_and_value, Rules(), findings.MISSING_FLUSH, (0,), 1),
        ([FLUSH_0, SFENCE, store(0, 1), store(64, 1)], word_and_value, Rules(), findings.MISSING_FLUSH, (2,), 3),
        ([store(0, 1), FLUSH_0, store(64, 1), SFENCE], word_and_value, Rules(), findings.MISSING_FENCE, (0,), 2),
        ([store(0, 1), SFENCE, FLUSH_0, store(64, 1)], word_and_value, Rules(), findings.MISSING_FENCE, (0,), 3),
        ([store(0, 1, nt=True), store(64, 1)], word_and_value, Rules(), findings.MISSING_FENCE, (0,), 1),
        ([store(0, 1, nt=True), store(64, 1)], word_and_value, EADR, findings.MISSING_FENCE, (0,), 1),
        ([store(64, 1), store(0, 1)], word_and_value, Rules(), findings.ORDERING, (1,), 0),
        ([store(64, 1), store(0, 1)], word_and_value, EADR, findings.ORDERING, (1,), 0),
        ([store(128, 1), store(0, 1), store(64, 1)], equal_words, EADR, findings.ATOMICITY, (2,), 1),
    ],
)  # fmt: skip
def test_name_and_blame(
    program: list[Event],
    body: Callable[[Memory], int],
    rules: Rules,
    kind: str,
    lost: tuple[int, ...],
    persisted: int,
) -> None:
    failures, _ = explained(with_places(program), rules, body)
    assert [(failure.kind, failure.lost, failure.persisted) for failure in failures] == [(kind, lost, persisted)]


@pytest.mark.parametrize(
    ("behind", "when"),
    [([], "never"), ([SFENCE], "only after a later store"), ([FLUSH_64, SFENCE], "only after a later store")],
)
def test_a_fence_that_comes_too_late_is_told_from_one_that_never_comes(behind: list[Event], when: str) -> None:
    program = with_places([store(0, 1, nt=True), store(64, 1), *behind])
    (failure,), _ = explained(program, Rules(), word_and_value)
    assert (failure.kind, failure.event) == (findings.MISSING_FENCE, 2 if not behind else len(program) - 1)
    assert failure.explanation.startswith(f"a fence follows the non-temporal store {when}, ")


def test_under_eadr_no_flush_is_talked_of() -> None:
    program = with_places([store(0, 1), FLUSH_0, store(64, 1, nt=True), SFENCE])
    (failure,), _ = explained(program, Rules(PersistenceDomain.EADR), word_and_value)
    assert (failure.kind, failure.lost, failure.persisted) == (findings.MISSING_FENCE, (0,), 2)
    assert "flush" not in failure.explanation


def test_a_store_in_two_lines_that_a_flush_would_have_saved_is_not_torn() -> None:
    """The pattern of Level Hashing: a key in two lines, its token set before the key's first line is durable."""

    def body(memory: Memory) -> int:
        return int(memory.load(72) != 0 and (memory.load(56), memory.load(64)) != (0x0101010101010101,) * 2)

    events = with_places([store(56, 1, 16), store(72, 1), FLUSH_0, SFENCE, FLUSH_64, SFENCE])
    failures, _ = explained(events, Rules(), body)
    assert [failure.names for failure in failures] == [(findings.MISSING_FLUSH, findings.ORDERING)]
    assert (failures[0].lost, failures[0].persisted) == ((0,), 1)


def test_a_store_whose_half_is_wrong_is_torn() -> None:
    def body(memory: Memory) -> int:
        return int(memory.load(0) != memory.load(8))

    for rules in FLUSHED:
        failures, _ = explained(with_places([store(0, 1, 16), FLUSH_0, SFENCE]), rules, body)
        assert {(failure.kind, failure.lost) for failure in failures} == {(findings.TORN, (0,))}


def test_an_old_flag_is_not_blamed_for_a_new_generation() -> None:
    """A header's check no longer fits its generation: the flag that was set long before is not at fault."""

    def body(memory: Memory) -> int:
        return int(memory.load(64) != 0 and memory.load(8) + 0x0101010101010101 != memory.load(16))

    steps: list[Event] = [store(0, 7), store(8, 1), store(16, 2), FLUSH_0, SFENCE, store(64, 1), FLUSH_64, SFENCE]
    steps += [store(0, 7), store(8, 2), store(16, 3), FLUSH_0, SFENCE]
    failures, _ = explained(with_places(steps), Rules(), body)
    assert [(f.kind, f.lost, f.persisted) for f in failures] == [(findings.ATOMICITY, (10,), 9)]


def test_a_recovery_that_fails_on_what_was_there_before_is_blamed_itself() -> None:
    failures, _ = explained(with_places([store(0, 1)]), Rules(), lambda memory: int(memory.load(0) == 0))
    assert [failure.kind for failure in failures] == [findings.RECOVERY_LOGIC]


def test_causes_that_are_given_up_are_said() -> None:
    events = with_places([store(0, 1), store(64, 1)])
    timeline, toy = build(events, Rules()), Toy(word_and_value)
    exploration = explore(timeline, clean, LocalWorker(toy, timeline, clean))
    analyst = Analyst(exploration, timeline, events, clean, toy, Patience(0))
    assert analyst.explain() == []
    assert "1 of the 1 failing states have none yet" in analyst.unexplained
