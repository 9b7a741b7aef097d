"""Random uses of a guest: what fails shrinks to the shortest."""

from __future__ import annotations

from hypothesis import find, given, settings
from hypothesis import strategies as st

from emu.testing.strategies import Use, operations

SLOT, VALUE = st.integers(0, 3), st.integers(0, 9)
KINDS = {"set": (SLOT, VALUE), "del": (SLOT,), "list": ()}


def sets_a_slot_twice(use: Use) -> bool:
    """A bug that needs two operations, with others between them or not."""
    slots = [operation[1] for operation in use.operations if operation[0] == "set"]
    return len(slots) != len(set(slots))


def test_what_fails_shrinks_to_the_fewest_and_smallest() -> None:
    use = find(operations(KINDS), sets_a_slot_twice, settings=settings(database=None))
    assert use.operations == (("set", "0", "0"), ("set", "0", "0"))
    assert repr(use) == "<set 0 0; set 0 0>"


def test_as_words_and_as_lines() -> None:
    use = Use((("set", "1", "2"), ("list",)))
    assert use.words == "set 1 2 list"
    assert use.lines == "set 1 2\nlist\n"


@given(operations(KINDS, min_size=2, max_size=3))
def test_only_what_was_asked_for(use: Use) -> None:
    assert 2 <= len(use.operations) <= 3
    for name, *arguments in use.operations:
        assert len(arguments) == len(KINDS[name])
