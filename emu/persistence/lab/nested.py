"""Causes that show only when power fails during recovery too: what recovery itself must do otherwise.

The run of recovery that power cut is a trace like any other, from the memory that the first failure left. So its lost
stores are found and named as those of the workload are (``naming``), and repairs are tried on its trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from emu.persistence.lab.explore import Exploration, Recovery, Walker
from emu.persistence.lab.memories import Budgeted, Memories, Patience
from emu.persistence.lab.naming import Cause, Namer
from emu.persistence.model.crashstate import FULL, CrashState, Initial, Read
from emu.persistence.model.events import Event
from emu.persistence.model.image import Image, example
from emu.persistence.model.timeline import build


@dataclass(frozen=True, slots=True)
class InRecovery:
    """Where in a recovery power failed again: before number ``crash`` of its ``events``. ``lost`` and ``persisted``
    count those.
    """

    events: tuple[Event, ...]
    crash: int
    lost: tuple[int, ...]
    persisted: int | None


class Second(NamedTuple):
    """A second power failure: what recovery had ``read`` before it, and where a repair of recovery was found its
    ``cause`` and place.
    """

    read: tuple[Read, ...]
    cause: Cause | None = None
    where: InRecovery | None = None


def second_failure(
    walker: Walker,
    path: tuple[Read, ...],
    exploration: Exploration,
    initial: Initial,
    recovery: Recovery,
    patience: Patience,
    machine: Budgeted | None,
) -> Second:
    """What recovery lacks, seen from the memories of ``walker``, from which the last recovery reads ``path`` and fails.
    ``patience`` may end it.
    """
    first = _before_the_last(walker.state)
    before: dict[int, int] = {}
    for unit in first.units():
        before[unit], first = first.read(unit, FULL)[-1]

    def content(unit: int) -> int:
        return before[unit] if unit in before else initial(unit)

    run = recovery.run(exploration.tracked, lambda unit, mask: content(unit) & mask)
    events = tuple(event for _, event in run.trace)
    cut = walker.crashes[-1].events
    unnamed = Second(tuple(run.reads[: run.trace[len(cut)][0]] if len(cut) < len(run.trace) else run.reads))
    timeline = build(cut, walker.state.layers[-1].timeline.rules)
    state = CrashState.at(timeline, timeline.points[-1].number, content).after(path)
    if events[: len(cut)] != cut or state is None:
        return unnamed
    memories = Memories(exploration, events, content, recovery, patience, machine)
    image = _least(example(state, timeline, content, timeline.points[-1].number), memories)
    verdict, read = memories.end(image.contents())
    if verdict.ok:
        return unnamed
    cause = Namer(timeline, events, content, memories).name(image, len(cut), read)
    if cause.repair is None:
        return unnamed
    return unnamed._replace(cause=cause, where=InRecovery(events, len(cut), cause.lost, cause.persisted))


def _before_the_last(state: CrashState) -> CrashState:
    """The memories that the last recovery began with."""
    layers = state.layers[:-1]
    known = {
        cell: tuple(dict.fromkeys(alternative[: len(layers)] for alternative in alternatives))
        for cell, alternatives in state.known.items()
    }
    return CrashState(state.initial, layers, known)


def _least(image: Image, memories: Memories) -> Image:
    """``image`` with as few losses as it fails with."""
    for root in sorted(image.roots):
        smaller = Image(image.timeline, image.initial, image.point, image.roots - {root}, image.lost_pages)
        if not memories.end(smaller.contents())[0].ok:
            image = smaller
    return image
