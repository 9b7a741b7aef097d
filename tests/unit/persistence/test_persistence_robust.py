"""Which reads no prefix of the stores explains, against trying every prefix."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.persistence.lab.robust import Prefixes
from emu.persistence.model.events import Store

UNITS = (0, 64, 128)
stores = st.lists(st.tuples(st.sampled_from(UNITS), st.integers(0, 2)), max_size=6)
FULL = (1 << 64) - 1


@settings(max_examples=300, deadline=None)
@given(made=stores, seen=st.dictionaries(st.sampled_from(UNITS), st.integers(0, 6), min_size=1))
def test_a_contradiction_is_found_where_no_prefix_reads_so(made: list[tuple[int, int]], seen: dict[int, int]) -> None:
    events = [Store(unit, value.to_bytes(8, "little")) for unit, value in made]
    memories = []
    memory = dict.fromkeys(UNITS, 0)
    for unit, value in [(0, 0), *made]:
        memory[unit] = value
        memories.append(dict(memory))
    # What a unit held after some store: the values that a crash can leave in it.
    path = [(unit, FULL, memories[at % len(memories)][unit]) for unit, at in seen.items()]
    explained = any(all(memory[unit] == value for unit, _, value in path) for memory in memories)
    pair = Prefixes(events, lambda unit: 0).contradiction(path)
    assert (pair is None) == explained
    if pair is not None:
        lost, persisted = pair
        assert lost < persisted
        assert {events[lost].address, events[persisted].address} <= {unit for unit, _, _ in path}
