"""Exploration against brute force: recovery run on every memory of every crash point, and of every crash of it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from emu.config import PersistenceDomain
from emu.persistence.lab.chunks import Chunks
from emu.persistence.lab.deadline import Deadline
from emu.persistence.lab.explore import (
    Answer,
    Exploration,
    Job,
    Limits,
    LocalWorker,
    Nondeterministic,
    Result,
    Run,
    Settled,
    Verdict,
    execute,
    explore,
)
from emu.persistence.lab.growth import End, Growth
from emu.persistence.lab.matters import Matters
from emu.persistence.model.crashstate import FULL, CrashState, Read, memories
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind, Store
from emu.persistence.model.rules import Media, Order, Rules
from emu.persistence.model.timeline import Timeline, build
from tests.fuzzing import times

UNITS = (0, 8, 64, 4096)
RULES = [Rules(domain, order, media) for domain in PersistenceDomain for order in Order for media in Media]


def clean(_unit: int) -> int:
    return 0


@dataclass
class Memory:
    """The persistent memory as a toy recovery sees it; ``initial`` is what is in the units that nobody asks about."""

    tracked: frozenset[int]
    answer: Answer
    initial: Callable[[int], int] = clean
    known: dict[int, tuple[int, int]] = field(default_factory=dict)
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    trace: list[tuple[int, Event]] = field(default_factory=list)

    def load(self, unit: int) -> int:
        mask, value = self.known.get(unit, (0, 0))
        wanted = FULL & ~mask
        if wanted and unit in self.tracked:
            found = self.answer(unit, wanted)
            self.reads.append((unit, wanted, found))
            value |= found
        elif wanted:
            value |= self.initial(unit) & wanted
        self.known[unit] = (FULL, value)
        return value

    def store(self, unit: int, data: bytes) -> None:
        mask, value = self.known.get(unit, (0, 0))
        covered = (1 << 8 * len(data)) - 1
        self.known[unit] = (mask | covered, value & ~covered | int.from_bytes(data, "little"))
        self.event(Store(unit, data))

    def event(self, event: Event) -> None:
        self.trace.append((len(self.reads), event))


class Toy:
    """Wraps a Python function as a recovery."""

    def __init__(self, body: Callable[[Memory], int], initial: Callable[[int], int] = clean) -> None:
        self.body = body
        self.initial = initial
        self.runs = 0

    def run(
        self, tracked: frozenset[int], answer: Answer, settled: Settled | None = None, given: Sequence[Read] = ()
    ) -> Run:
        self.runs += 1
        memory = Memory(tracked, answer, self.initial)
        status = self.body(memory)
        reads = tuple(read for read in memory.reads if settled is None or settled.matters is None
                      or read[0] in settled.matters)  # fmt: skip
        return Run(reads, Verdict(status == 0, "exit-port", status), tuple(memory.trace))


def random_body(seed: int, *, stores: bool) -> Callable[[Memory], int]:
    """A recovery whose next step depends on all that it has read."""

    def body(memory: Memory) -> int:
        state = seed
        for _ in range(4):
            rng = random.Random(state)
            unit = rng.choice(UNITS)
            action = rng.random()
            if stores and action < 0.3:
                memory.store(unit, bytes([rng.randint(1, 3)]) * rng.choice([8, 4]))
            elif stores and action < 0.4:
                events: list[Event] = [Flush(unit, FlushKind.CLFLUSH), Fence(FenceKind.SFENCE)]
                memory.event(rng.choice(events))
            elif action < 0.9:
                state = state * 31 + memory.load(unit)
            state = state * 31 + 7
        return random.Random(state).randint(0, 3)

    return body


def random_events(rng: random.Random) -> list[Event]:
    def one(number: int) -> Event:
        kind = rng.random()
        if kind < 0.6:
            return Store(rng.choice(UNITS), bytes([number]) * rng.choice([8, 8, 16, 4]), nt=rng.random() < 0.2)
        if kind < 0.8:
            return Flush(rng.choice(UNITS), rng.choice(list(FlushKind)))
        return Fence(rng.choice([FenceKind.SFENCE, FenceKind.MFENCE]))

    return [one(number) for number in range(1, rng.randint(2, 7))]


def lookup(memory: dict[int, int]) -> Callable[[int], int]:
    return lambda unit: memory.get(unit, 0)


def answers(memory: dict[int, int]) -> Answer:
    return lambda unit, mask: memory[unit] & mask


def brute_force(timeline: Timeline, toy: Toy, depth: int, initial: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """(crash point, status) of every memory, and of every memory after a second crash."""
    for point in timeline.points:
        for memory in memories(CrashState.at(timeline, point.number, initial)):
            content = {**{unit: initial(unit) for unit in (*UNITS, 16, 72, 4104)}, **memory}
            run = toy.run(frozenset(content), answers(content))
            yield point.number, run.verdict.status
            if depth > 1:
                again = build([event for _, event in run.trace], timeline.rules)
                for _, status in brute_force(again, toy, depth - 1, lookup(content)):
                    yield point.number, status


def random_content(rng: random.Random) -> Callable[[int], int]:
    """What the memory holds before the program: often zero, often what a store may leave too."""
    return lookup({unit: rng.choice((0, 0x0101010101010101, 0xA5A5A5A5A5A5A5A5)) for unit in (*UNITS, 16, 72, 4104)})


def verdict(result: Result) -> Verdict:
    assert result.leaf.verdict is not None
    return result.leaf.verdict


def found(exploration: Exploration) -> set[tuple[int, int]]:
    assert not exploration.incomplete_because
    return {(point, verdict(result).status) for result in exploration.results for point in result.points}


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
@pytest.mark.fuzz
def test_finds_every_verdict_that_brute_force_finds(rules: Rules) -> None:
    rng = random.Random(f"explore {rules}")
    for _ in range(times(60)):
        timeline = build(random_events(rng), rules)
        initial = random_content(rng)
        toy = Toy(random_body(rng.randint(0, 10**9), stores=False), initial)
        exploration = explore(timeline, initial, LocalWorker(toy, timeline, initial))
        assert exploration.executed == toy.runs == len({result.leaf.path() for result in exploration.results})
        assert found(exploration) == set(brute_force(timeline, toy, 1, initial))


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
@pytest.mark.fuzz
def test_finds_every_verdict_of_crashes_during_recovery(rules: Rules) -> None:
    rng = random.Random(f"nested {rules}")
    for _ in range(times(25)):
        timeline = build(random_events(rng), rules)
        initial = random_content(rng)
        toy = Toy(random_body(rng.randint(0, 10**9), stores=True), initial)
        exploration = explore(timeline, initial, LocalWorker(toy, timeline, initial), limits=Limits(depth=2))
        assert found(exploration) == set(brute_force(timeline, toy, 2, initial))


def commit_log(lines: int, records: int) -> list[Event]:
    """Records of ``lines`` data lines, persisted, then counted in a commit word, persisted."""
    events: list[Event] = []
    for record in range(records):
        for line in range(lines):
            address = 64 * (1 + record * lines + line)
            events += [Store(address, (record + 1).to_bytes(8, "little")), Flush(address, FlushKind.CLWB)]
        events += [Fence(FenceKind.SFENCE), Store(0, (record + 1).to_bytes(8, "little"))]
        events += [Flush(0, FlushKind.CLWB), Fence(FenceKind.SFENCE)]
    return events


def read_log(lines: int) -> Callable[[Memory], int]:
    def body(memory: Memory) -> int:
        for record in range(memory.load(0)):
            for line in range(lines):
                if memory.load(64 * (1 + record * lines + line)) != record + 1:
                    return 1
        return 0

    return body


@pytest.mark.parametrize(
    ("lines", "records", "eager"), [(4, 10, 180), (8, 10, 2580), (16, 10, 655380), (8, 100, 25800)]
)
def test_executions_grow_with_what_recovery_reads(lines: int, records: int, eager: int) -> None:
    timeline = build(commit_log(lines, records), Rules())
    exploration = explore(timeline, clean, LocalWorker(Toy(read_log(lines)), timeline, clean))
    assert sum(point.eager for point in timeline.points) == eager + 1  # and the end, where all is durable
    assert exploration.executed == records + 1
    assert all(verdict(result).ok for result in exploration.results)


def test_a_limit_of_executions_is_said_and_keeps_what_was_found() -> None:
    timeline = build(commit_log(2, 10), Rules())
    worker = LocalWorker(Toy(read_log(2)), timeline, clean)
    exploration = explore(timeline, clean, worker, limits=Limits(executions=4))
    assert exploration.executed == 4
    assert exploration.incomplete_because == ["the limit on executions (4) was reached"]
    covered = {point for result in exploration.results if result.leaf.verdict for point in result.points}
    missing = {point for result in exploration.results if not result.leaf.verdict for point in result.points}
    assert covered
    assert missing
    assert covered | missing == {point.number for point in timeline.points}


def test_a_time_limit_is_said() -> None:
    timeline = build(commit_log(2, 3), Rules())
    worker = LocalWorker(Toy(read_log(2)), timeline, clean)
    exploration = explore(timeline, clean, worker, limits=Limits(deadline=Deadline.after(0)))
    assert exploration.incomplete_because == ["the time limit of 0 s was reached"]


def test_observed_bytes_split_the_outcomes_before_recovery() -> None:
    timeline = build([Store(0, b"\1" * 8), Store(64, b"\1" * 8)], Rules())
    toy = Toy(lambda memory: memory.load(0) != 0 and memory.load(64) == 0)
    observe = [(0, 0xFF), (64, 0xFF)]
    exploration = explore(timeline, clean, LocalWorker(toy, timeline, clean), observe=observe)
    verdicts = {result.observed: verdict(result).ok for result in exploration.results}
    assert verdicts == {(0, 0): True, (0, 1): True, (1, 0): False, (1, 1): True}
    assert exploration.executed == 3


def unflushed(lines: int) -> Timeline:
    """One crash point at which every one of ``lines`` lines may have lost its store."""
    return build([Store(64 * line, b"\1" * 8) for line in range(lines)], Rules())


def count_lost(lines: int) -> Callable[[Memory], int]:
    """A recovery that reads all lines and ends with the number of those that lack their store."""
    return lambda memory: sum(not memory.load(64 * line) for line in range(lines))


def test_the_fewest_losses_are_tried_first() -> None:
    timeline, tried = unflushed(5), list[int]()

    def body(memory: Memory) -> int:
        tried.append(count_lost(5)(memory))
        return tried[-1]

    toy = Toy(body)
    exploration = explore(timeline, clean, LocalWorker(toy, timeline, clean))
    assert exploration.executed == 32
    assert exploration.covered is None
    assert tried[0] == 0
    nothing_persisted = tried.index(5)
    first = tried[: nothing_persisted + 1]
    # On the way to where nothing persisted, each loss is followed by the run in which everything after it persisted.
    assert first == sorted(first)
    rest = tried[nothing_persisted + 1 :]
    in_order = [lost for lost in rest if lost <= 2]
    assert rest[: len(in_order)] == sorted(in_order)


@pytest.mark.parametrize("executions", [1, 3, 7, 12, 20, 31])
def test_what_was_covered_when_it_was_stopped_is_true(executions: int) -> None:
    rng = random.Random(f"covered {executions}")
    events: list[Event] = []
    for number in range(1, 7):
        events += [Store(64 * rng.randrange(6), bytes([number]) * 8), Store(64 * rng.randrange(6), bytes([number]) * 8)]
        if number % 3 == 0:
            events += [Flush(64 * rng.randrange(6), FlushKind.CLWB), Fence(FenceKind.SFENCE)]
    timeline = build(events, Rules())
    toy = Toy(lambda memory: sum(memory.load(64 * line) for line in range(6)) % 3)
    exploration = explore(timeline, clean, LocalWorker(toy, timeline, clean), limits=Limits(executions=executions))
    assert exploration.incomplete_because
    assert exploration.covered is not None
    fewest = None
    for point in timeline.points:
        newest = {unit: CrashState.at(timeline, point.number, clean).read(unit, FULL)[-1][0] for unit in timeline.units}
        for memory in memories(CrashState.at(timeline, point.number, clean)):
            leaf = exploration.tree.find(lookup(memory))
            if leaf is None:
                lost = sum(memory[unit] != newest[unit] for unit in memory)
                fewest = lost if fewest is None else min(fewest, lost)
    assert fewest is not None
    assert exploration.covered < fewest


@pytest.mark.parametrize(("executions", "covered"), [(1, 0), (7, 0), (8, 1), (12, 1), (13, 2), (15, 2), (16, None)])
def test_what_was_covered_is_all_that_can_be_said(executions: int, covered: int | None) -> None:
    """Of four lines: 5 runs for all, nothing and what lies between, 3 for one loss, 5 for two, 3 for three."""
    timeline = unflushed(4)
    worker = LocalWorker(Toy(count_lost(4)), timeline, clean)
    assert explore(timeline, clean, worker, limits=Limits(executions=executions)).covered == covered


def test_failures_are_told_when_they_are_found() -> None:
    timeline, told = unflushed(4), list[tuple[int, int]]()
    toy = Toy(count_lost(4))
    exploration = explore(
        timeline,
        clean,
        LocalWorker(toy, timeline, clean),
        on_failure=lambda result: told.append((toy.runs, verdict(result).status)),
    )
    failing = [verdict(result).status for result in exploration.results if not verdict(result).ok]
    assert sorted(status for _, status in told) == sorted(failing)
    assert told[0] == (2, 1)  # the first loss of all, as soon as it was run
    assert [runs for runs, _ in told] == sorted(runs for runs, _ in told)


def test_a_recovery_that_does_not_do_the_same_again_is_refused() -> None:
    timeline = unflushed(2)
    toy = Toy(lambda memory: memory.load(0 if toy.runs == 1 else 64))
    with pytest.raises(Nondeterministic, match="this time it did something else"):
        explore(timeline, clean, LocalWorker(toy, timeline, clean))


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
def test_what_is_settled_can_be_nothing_else(rules: Rules) -> None:
    rng = random.Random(f"settled {rules}")
    for _ in range(60):
        timeline, initial = build(random_events(rng), rules), random_content(rng)
        now: dict[int, int | None] = {}
        before = None
        for point in rng.choices(range(len(timeline.points)), k=8):
            here = Settled(timeline, initial, point)
            now.update(here.since(before))
            assert now == dict(here.since(None))
            state = CrashState.at(timeline, point, initial)
            for unit, value in now.items():
                options = [seen for seen, _ in state.read(unit, FULL)]
                assert value is None or options == [value]
                assert (
                    value is not None or len(options) > 1 or rules.pages_can_be_lost or pending(timeline, unit, point)
                )
            before = here


def pending(timeline: Timeline, unit: int, point: int) -> bool:
    return timeline.pending_parts(unit, point) > 0


class Elsewhere(LocalWorker):
    """Grows each end as another process would, the last one first, and puts all back in their order."""

    matters: Matters | None = None

    def grow(self, growth: Growth, ends: Sequence[End], tracked: frozenset[int]) -> Iterator[None]:
        def run(job: Job) -> Run:
            return execute(job, self.recovery, tracked, self.timeline, self.initial)

        taken, chunks = [pickle.loads(pickle.dumps(growth.take(end))) for end in ends], Chunks()
        done = [
            run(work)
            if isinstance(work, Job)
            else Growth.elsewhere(work, self.timeline, self.initial, chunks, self.matters, run)
            for work in reversed(taken)
        ]
        numbers = {number: growth.tree.chunks.add(data)[0] for number, data in enumerate(chunks)}
        for end, result in zip(ends, reversed(done), strict=True):
            growth.put(end.node, pickle.loads(pickle.dumps(result)), numbers)
            yield


def everything(exploration: Exploration) -> tuple[list[tuple[object, ...]], int, list[str], int | None]:
    """All that an exploration says, but for the tree and what walkers know."""
    results: list[tuple[object, ...]] = [
        (result.observed, result.leaf.path(), result.leaf.verdict, result.points, result.direct,
         *(part for walker in (result.latest, result.shortest)
           for part in (walker.key, walker.given, dict(walker.state.known), walker.lost, walker.kept)))
        for result in exploration.results
    ]  # fmt: skip
    return results, exploration.executed, exploration.incomplete_because, exploration.covered


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
def test_branches_that_grow_elsewhere_change_nothing(rules: Rules, depth: int) -> None:
    rng = random.Random(f"elsewhere {rules} {depth}")
    for _ in range(15):
        timeline, initial = build(random_events(rng), rules), random_content(rng)
        body = random_body(rng.randint(0, 10**9), stores=depth > 1)
        limits = Limits(executions=rng.choice((2, 5, 100_000)), depth=depth)
        observe = rng.choice(([], [(64, 0xFF)]))
        here, there = (
            everything(
                explore(timeline, initial, kind(Toy(body, initial), timeline, initial), limits=limits, observe=observe)
            )
            for kind in (LocalWorker, Elsewhere)
        )
        assert here == there


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
def test_reads_that_cannot_matter_need_not_be_told_of(rules: Rules, elsewhere: bool) -> None:
    rng, fewer = random.Random(f"matters {rules} {elsewhere}"), 0
    for _ in range(6):
        events = [event for _ in range(4) for event in random_events(rng)]
        timeline, initial = build(events, rules), random_content(rng)
        toy, limits = Toy(random_body(rng.randint(0, 10**9), stores=False), initial), Limits(rng.choice((3, 100_000)))
        matters = Matters(timeline, units_at_least=0, share=1)
        worker: LocalWorker = LocalWorker(toy, timeline, initial)
        if elsewhere:
            worker = Elsewhere(toy, timeline, initial)
            worker.matters = matters
        all_reads = explore(timeline, initial, LocalWorker(toy, timeline, initial), limits=limits)
        some = explore(timeline, initial, worker, limits=limits, matters=matters)
        assert without_paths(some) == without_paths(all_reads)
        assert all_reads.whole
        fewer += not some.whole and sum(map(path_length, some.results)) < sum(map(path_length, all_reads.results))
    # In a page cache all that was stored is in doubt, at the only crash point.
    assert fewer or rules.media is not Media.DAX_SYNC


def path_length(result: Result) -> int:
    return len(result.leaf.path())


def without_paths(exploration: Exploration) -> tuple[object, ...]:
    results, *rest = everything(exploration)
    return [(observed, *rest) for observed, _, *rest in results], rest


@pytest.mark.parametrize("executions", [1, 50, 200, 100_000])
def test_a_wide_tree_grows_the_same_elsewhere(executions: int) -> None:
    timeline, told = unflushed(9), list[list[int]]()
    answers = []
    for kind in (LocalWorker, Elsewhere):
        told.append([])
        answers.append(everything(explore(
            timeline, clean, kind(Toy(count_lost(9)), timeline, clean), limits=Limits(executions),
            on_failure=lambda result: told[-1].append(verdict(result).status),
        )))  # fmt: skip
    assert answers[0] == answers[1]
    assert sorted(told[0]) == sorted(told[1])
    assert answers[0][1] == min(executions, 512)
