"""When something is possible: the first crash that lets recovery read what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from emu.persistence.model.crashstate import CrashState, Initial, Read, content_of
from emu.persistence.model.timeline import Timeline


def first_crash(timeline: Timeline, path: Sequence[Read], initial: Initial) -> int | None:
    """The number of the first crash point that allows a recovery that reads ``path``; None where none does."""
    # At most points most reads are of what is settled there, which is quick to compare. So this is done first.
    fitting = [0] * (len(timeline.points) + 1)
    for unit, mask, value in path:
        since, contents = timeline.settled(unit)
        for begin, end, content in zip(since, (*since[1:], len(timeline.points)), contents, strict=True):
            if content is None or content_of(unit, content, initial) & mask == value:
                fitting[begin] += 1
                fitting[end] -= 1
    for point, fit in enumerate(accumulate(fitting)):
        if fit == len(path) and CrashState.at(timeline, point, initial).after(path) is not None:
            return point
    return None
