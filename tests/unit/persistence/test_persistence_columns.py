"""A long run's events in columns are the same events, and lead to the same crash points."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator

import pytest

from emu.config import PersistenceDomain
from emu.cpu.engine import trace
from emu.cpu.engine.trace import Row
from emu.cpu.sites import SPECIALS
from emu.persistence.lab.log_events import columns, numbered_events
from emu.persistence.model.columns import Events, Writer
from emu.persistence.model.events import Event, LabelWrite, Store, label_address
from emu.persistence.model.rules import Media, Order, Rules
from emu.persistence.model.timeline import build
from tests.fuzzing import times

RULES = [Rules(domain, order, media) for domain in PersistenceDomain for order in Order for media in Media]
LABELS = [LabelWrite(label_address(0, 8 * number), bytes([number])) for number in range(3)]


def random_log(rng: random.Random, length: int) -> Iterator[Row]:
    """Instructions as the tracer logs them: stores in pieces, page-table marks before and between them, and fences
    that share their number with a store, or with one that a failed compare-and-swap did not make.
    """
    marks = (1 << 32) - 1

    def store(instance: int, site: int, address: int) -> Row:
        size = rng.choice((1, 2, 4, 8, 8, 8))
        return 0x1000 + instance, address, rng.getrandbits(8 * size), instance, size, trace.STORE, site, 0

    def mark() -> Row:
        nonlocal marks
        marks -= 1
        return 0x1000, 8 * rng.randrange(64), rng.getrandbits(64), marks, 8, trace.STORE, 0, 0

    for instance in range(1, length):
        site, kind = rng.randrange(256), rng.random()
        if kind < 0.1:
            yield 0x1000, rng.randrange(512), 0, instance, 0, trace.FLUSH, site, rng.randrange(3)
        elif kind < 0.2:
            yield 0x1000, 0, rng.choice((0, 0, 1)), instance, 0, trace.FENCE, site, rng.randrange(3)
        elif kind < 0.25:
            yield 0x1000, 0, rng.randrange(len(LABELS)), instance, 0, trace.DEVICE, 0, 0
        elif kind < 0.3:
            yield 0x1000, 0, 0, instance, 0, trace.SPECIAL, 0, rng.randrange(len(SPECIALS))
        else:
            if rng.random() < 0.2:
                yield 0x1000, 0, rng.choice((0, 1)), instance, 0, trace.FENCE, site, 2
            address = rng.randrange(512)
            for piece in range(rng.choice((1, 1, 1, 2, 3))):
                if rng.random() < 0.1:
                    yield mark()
                yield store(instance, site, address + rng.choice((8, 8, 4, 300)) * piece)


@pytest.mark.fuzz
def test_a_log_gives_the_same_events_at_once_and_one_by_one() -> None:
    rng = random.Random("columns")
    for number in range(times(300)):
        rows = list(random_log(rng, number % 40))
        events, entries = columns(b"".join(trace.ENTRY.pack(*row) for row in rows), LABELS)
        assert list(zip(entries, events, strict=True)) == list(numbered_events(rows, LABELS))


def some_events(rng: random.Random, length: int) -> tuple[Events, list[Event]]:
    rows = list(random_log(rng, length))
    found = columns(b"".join(trace.ENTRY.pack(*row) for row in rows), LABELS)[0]
    return found, [event for _, event in numbered_events(rows, LABELS)]


def test_columns_are_a_sequence() -> None:
    packed, plain = some_events(random.Random("sequence"), 200)
    assert any(isinstance(event, Store) for event in plain)
    assert any(isinstance(event, LabelWrite) for event in plain)
    assert (len(packed), packed[7], packed[-1]) == (len(plain), plain[7], plain[-1])
    assert packed == plain
    assert [packed[number] for number in range(len(plain))] == plain
    assert packed[20:150] == plain[20:150]
    assert packed[20:150][3:9] == plain[23:29]
    assert packed != plain[:-1]
    assert packed != [*plain[:-1], Store(0, b"x")]
    assert pickle.loads(pickle.dumps(packed)) == plain
    with pytest.raises(IndexError):
        packed[len(plain)]


def test_columns_take_events_as_they_are() -> None:
    wide, written = Store(3, bytes(range(100)), nt=True, pc=7), Writer()
    for event in (wide, LABELS[1]):
        written.append(event)
    assert written.events() == [wide, LABELS[1]]


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: f"{rules.domain}-{rules.order}-{rules.media}")
def test_crash_points_of_columns_are_those_of_their_events(rules: Rules) -> None:
    rng = random.Random(f"crash points {rules}")
    for _ in range(5):
        packed, plain = some_events(rng, 60)
        for first in (0, 20):
            assert build(packed, rules, first) == build(plain, rules, first)
        trusting = Rules(rules.domain, rules.order, rules.media, trusted_from=0x1020)
        assert build(packed, trusting) == build(plain, trusting)
