"""The model against the operational oracle on random programs: the same memories, in every domain and order."""

from __future__ import annotations

import random

import pytest

from emu.config import PersistenceDomain
from emu.persistence.model.crashstate import CrashState, memories
from emu.persistence.model.events import (
    Event,
    Fence,
    FenceKind,
    Flush,
    FlushKind,
    LabelWrite,
    Store,
    WriteBack,
    WriteBackKind,
    label_address,
)
from emu.persistence.model.pending import Component
from emu.persistence.model.rules import Order, Rules
from emu.persistence.model.timeline import PersistState, Timeline, TimelineBuilder, build
from tests.fuzzing import PROGRAMS, times
from tests.unit.persistence.persistence_oracle import LABEL, SIZE, Machine, Op

MODES = [(domain, order) for domain in PersistenceDomain for order in Order]
STORES = [(0, 8), (0, 8), (8, 8), (16, 8), (64, 8), (64, 8), (72, 8), (0, 4), (4, 4), (64, 1), (4, 8), (0, 16), (60, 8)]


def random_program(rng: random.Random, length: int) -> list[Op]:
    program: list[Op] = []
    for number in range(1, length + 1):
        kind = rng.choices(["st", "nt", "fl", "fo", "sf", "mf", "rmw", "wb", "label"], [8, 3, 2, 3, 3, 1, 1, 1, 1])[0]
        if kind in ("st", "nt", "rmw"):
            address, size = rng.choice(STORES) if kind != "rmw" else rng.choice(STORES[:7])
            program.append((kind, address, bytes([number]) * size))
        elif kind in ("fl", "fo"):
            program.append((kind, rng.choice([0, 64])))
        elif kind == "label":
            program.append((kind, number))
        else:
            program.append((kind,))
    return program


def to_events(program: list[Op]) -> list[Event]:
    events: list[Event] = []
    for op in program:
        match op:
            case ("st" | "nt", address, data):
                events.append(Store(address, data, nt=op[0] == "nt"))
            case ("fl", address):
                events.append(Flush(address, FlushKind.CLFLUSH))
            case ("fo", address):
                events.append(Flush(address, FlushKind.CLWB if address else FlushKind.CLFLUSHOPT))
            case ("sf",):
                events.append(Fence(FenceKind.SFENCE))
            case ("mf",):
                events.append(Fence(FenceKind.MFENCE))
            case ("wb",):
                events.append(WriteBack(WriteBackKind.WBINVD))
            case ("label", value):
                events.append(LabelWrite(label_address(0, 3), bytes([value])))
            case ("rmw", address, data):
                events += [Fence(FenceKind.LOCKED), Store(address, data, locked=True)]
    return events


def random_content(rng: random.Random) -> bytes:
    """What the memory holds before the program; no value of a store."""
    return bytes(rng.choice((0, 0xA0, 0xB1)) for _ in range(SIZE))


def images(timeline: Timeline, before: bytes) -> set[bytes]:
    def initial(unit: int) -> int:
        if unit == label_address(0, 0):
            return before[LABEL] << 24
        return int.from_bytes(before[unit : min(unit + 8, LABEL)], "little")

    found = set()
    for point in timeline.points:
        for memory in memories(CrashState.at(timeline, point.number, initial)):
            image = bytearray(before)
            for unit, value in memory.items():
                if unit == label_address(0, 0):
                    image[LABEL] = value >> 24
                else:
                    image[unit : unit + 8] = value.to_bytes(8, "little")
            found.add(bytes(image))
    return found


def every_point(events: list[Event], rules: Rules) -> Timeline:
    """A crash point before every event: what the reduction of crash points must not change."""
    builder = TimelineBuilder(rules)
    for event in events:
        builder.crash_point()
        builder.add(event)
    builder.crash_point()
    return builder.timeline


@pytest.mark.parametrize("chunk", range(8))
@pytest.mark.parametrize(("domain", "order"), MODES)
@pytest.mark.fuzz
def test_same_memories_as_the_operational_machine(domain: PersistenceDomain, order: Order, chunk: int) -> None:
    rng = random.Random(f"{domain}{order}{chunk}")
    machine, rules = Machine(domain.platform, order), Rules(domain, order)
    for _ in range(PROGRAMS // (8 * len(MODES))):
        program, before = random_program(rng, rng.randint(1, 6)), random_content(rng)
        assert images(build(to_events(program), rules), before) == machine.run(program, before), (program, before)


@pytest.mark.parametrize(("domain", "order"), MODES)
@pytest.mark.fuzz
def test_crashing_only_before_commits_and_at_the_end_loses_no_memory(domain: PersistenceDomain, order: Order) -> None:
    rng, rules = random.Random(f"points{domain}{order}"), Rules(domain, order)
    for _ in range(PROGRAMS // (4 * len(MODES))):
        events, before = to_events(random_program(rng, rng.randint(1, 8))), random_content(rng)
        assert images(build(events, rules), before) == images(every_point(events, rules), before), (events, before)


@pytest.mark.parametrize(("domain", "order"), MODES)
@pytest.mark.fuzz
def test_eager_counts_the_sets_of_persisted_parts(domain: PersistenceDomain, order: Order) -> None:
    rng, rules = random.Random(f"eager{domain}{order}"), Rules(domain, order)
    for _ in range(times(200)):
        program = random_program(rng, rng.randint(1, 7))
        state = PersistState(rules)
        for event in to_events(program):
            state.apply(event)
        for component in state.components.values():
            assert component.freeze().possible == brute_count(component, order, domain)


def brute_count(component: Component, order: Order, domain: PersistenceDomain) -> int:
    """Count, one by one, the sets of parts that contain all that must persist before each part."""
    parts = [(part.event, unit, part.nt) for unit, entry in component.units.items() for part in entry.parts]
    count = 0
    for chosen in range(1 << len(parts)):
        inside = {part for number, part in enumerate(parts) if chosen >> number & 1}
        count += all(
            earlier in inside
            for event, unit, nt in inside
            for earlier in parts
            if earlier[0] < event and (earlier[1] == unit or not (earlier[2] or nt))
        )
    return count
