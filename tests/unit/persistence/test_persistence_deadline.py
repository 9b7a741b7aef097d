"""One deadline for all of an investigation, and the interruption that it asks."""

from __future__ import annotations

import math

import pytest

from emu.persistence.lab.deadline import NEVER, Deadline
from emu.persistence.lab.interruption import INTERRUPTED, Interruption
from emu.persistence.lab.memories import GaveUp, Patience


def test_what_is_left() -> None:
    assert Deadline.after(0).left == 0
    assert 0 < Deadline.after(1000).left <= 1000
    assert NEVER.left == math.inf


def test_an_earlier_one_leaves_a_share_and_at_most_so_many_seconds() -> None:
    assert Deadline(8.0, 108.0).leaving(0.25, 60.0) == Deadline(8.0, 106.0)
    assert Deadline(800.0, 900.0).leaving(0.25, 60.0) == Deadline(800.0, 840.0)
    assert NEVER.leaving(0.25, 60.0) == NEVER


def test_patience_ends_at_the_deadline_or_after_its_steps_and_says_why() -> None:
    Patience(1000, Deadline.after(1000)).spend(1000)
    with pytest.raises(GaveUp, match=r"^the time limit of 0 s was reached$"):
        Patience(1000, Deadline.after(0)).spend(1)
    with pytest.raises(GaveUp, match=r"^the search was given up after 1,000 steps$"):
        Patience(1000).spend(1001)


def test_a_part_is_interrupted_at_its_deadline_and_the_whole_is_not() -> None:
    whole = Interruption()
    with whole.until(Deadline.after(0.01)) as part:
        with part.until(NEVER) as inner:
            assert inner._asked.wait(60)
            assert inner.why == "the time limit of 0.01 s was reached"
        assert (part.asked, part.why) == (True, "the time limit of 0.01 s was reached")
    assert (whole.asked, whole.why) == (False, "")


def test_a_part_is_interrupted_with_the_whole_before_and_after_it_began() -> None:
    whole = Interruption()
    with whole.until(Deadline.after(1000)) as part:
        assert not part.asked
        whole.ask()
        assert (part.asked, part.why) == (True, INTERRUPTED)
    with whole.until(NEVER) as later:
        assert (later.asked, later.why) == (True, INTERRUPTED)


def test_the_first_reason_counts_and_a_part_that_is_over_hears_nothing() -> None:
    whole = Interruption()
    with whole.until(NEVER) as over:
        pass
    whole.ask("first")
    whole.ask("second")
    assert whole.why == "first"
    assert not over.asked
