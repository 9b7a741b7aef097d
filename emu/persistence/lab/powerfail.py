"""A power failure in ``emu run``: the guest stops just before an event, and its files hold one of the possible
memories.

The guest runs on private copies; only when it has stopped is the memory that was chosen written to the files.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from emu import board
from emu.config import MachineConfig
from emu.errors import UsageError
from emu.machine import Exit
from emu.memory import open_backend
from emu.persistence.lab.workload import POWER_FAILURE, Contents, Workload, record
from emu.persistence.model.crashstate import FULL, CrashState, memories
from emu.persistence.model.events import UNIT
from emu.persistence.model.image import Image, candidates
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import Timeline, build
from emu.units import parse_number

_MOST_ENTRIES = 1 << 22
_LAST_STATE = 1 << 20
_SEARCHED = 1 << 12


@dataclass(frozen=True, slots=True)
class PowerCut:
    """When power fails (``event``, or a random event by ``event_seed``) and which possible memory it leaves: ``state``
    is "none" (nothing that was not certain), "all", a number, or None for a random one by ``state_seed``.
    """

    event: int | None = None
    event_seed: int = 0
    state: str | int | None = "none"
    state_seed: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """What became of a power cut. ``failed`` says whether power failed; if not, the guest ended first, after ``event``
    events. ``number`` is the memory's number for ``--power-fail-state``, None where that is too large to be counted;
    ``contents`` are the 8-byte units that could hold several values, by guest-physical address, as they were left.
    """

    ended: Exit
    failed: bool
    event: int
    number: int | None = None
    contents: Mapping[int, int] = field(default_factory=dict)


def parse_power_cut(at: str, state: str) -> PowerCut:
    """From the words of ``--power-fail-at`` and ``--power-fail-state``; UsageError."""
    event, event_seed = _number_or_seed(at, "--power-fail-at")
    if state in ("none", "all"):
        return PowerCut(event, event_seed, state)
    number, state_seed = _number_or_seed(state, "--power-fail-state")
    return PowerCut(event, event_seed, number, state_seed)


def _number_or_seed(text: str, what: str) -> tuple[int | None, int]:
    kind, colon, seed = text.partition(":")
    if colon and kind == "random":
        return None, parse_number(seed, what=f"{what} random")
    return parse_number(text, what=what, high=_MOST_ENTRIES), 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What a power cut leaves: ``chosen`` has the content of each 8-byte unit that was stored to, ``number`` and
    ``contents`` as for ``Cut``.
    """

    workload: Workload
    failed: bool
    chosen: dict[int, int]
    number: int | None
    contents: Mapping[int, int]


def run_with_power_cut(
    config: MachineConfig, cut: PowerCut, outputs: board.Outputs, *, timeout: float | None = None
) -> Cut:
    """Run ``config`` until the power fails (the reason is then ``power-failure``).

    A guest that ends before that event ends as usual, and its files hold everything that it stored. UsageError when
    there is no memory of that number; the files are then as they were.
    Durable when: it returns, by the strongest means of each file's mapping.
    """
    left = memory_after(config, cut, outputs, timeout=timeout)
    _write(config, left.workload, left.chosen)
    return Cut(left.workload.ended, left.failed, len(left.workload.events), left.number, left.contents)


def memory_after(
    config: MachineConfig, cut: PowerCut, outputs: board.Outputs | None = None, *, timeout: float | None = None
) -> Memory:
    """As ``run_with_power_cut``, but the files are left alone."""
    event = cut.event
    if event is None:
        whole = record(config, timeout=timeout, event_limit=_MOST_ENTRIES)
        event = random.Random(cut.event_seed).randint(0, len(whole.events))
    workload = record(config, timeout=timeout, event_limit=_MOST_ENTRIES, upto=event, outputs=outputs)
    timeline = build(workload.events, Rules(config.domain))
    failed = workload.ended.reason == POWER_FAILURE
    initial = Contents(config, workload.dimms)
    try:
        if failed:
            state = CrashState.at(timeline, timeline.points[-1].number, initial)
            chosen = _choose(timeline, initial, state, cut)
            number = cut.state if isinstance(cut.state, int) else _number_of(state, chosen)
            open_units = [unit for unit in chosen if len(state.read(unit, FULL)) > 1]
        else:
            chosen, number, open_units = Image(timeline, initial, timeline.points[-1].number).contents(), None, []
    finally:
        initial.close()
    return Memory(workload, failed, chosen, number, {unit: chosen[unit] for unit in open_units})


def _choose(timeline: Timeline, initial: Contents, state: CrashState, cut: PowerCut) -> dict[int, int]:
    point = timeline.points[-1].number
    if cut.state == "all":
        return Image(timeline, initial, point).contents()
    if cut.state == "none":
        first = [part for part in candidates(timeline, point, timeline.units_at(point)) if part.position == 0]
        return Image(timeline, initial, point, frozenset(first)).contents()
    if isinstance(cut.state, int):
        return _numbered(state, cut.state)
    dice, contents = random.Random(cut.state_seed), {}
    for unit in state.units():
        contents[unit], state = dice.choice(state.read(unit, FULL))
    return contents


def _numbered(state: CrashState, number: int) -> dict[int, int]:
    """The memory of that number; UsageError."""
    if number >= _LAST_STATE:
        raise UsageError(
            f"--power-fail-state {number} is too large: memories are counted to {_LAST_STATE - 1}",
            "give a smaller number, or random:SEED",
        )
    count = 0
    for contents in itertools.islice(memories(state), number + 1):
        if count == number:
            return contents
        count += 1
    raise UsageError(
        f"--power-fail-state {number}: there are fewer memories, only {count} are possible there",
        f"give a number from 0 to {count - 1}",
    )


def _number_of(state: CrashState, contents: Mapping[int, int]) -> int | None:
    """The number of a memory, None when it is not among the first ones."""
    units = state.units()
    wanted = {unit: contents[unit] for unit in units}
    return next((n for n, found in enumerate(itertools.islice(memories(state), _SEARCHED)) if found == wanted), None)


def _write(config: MachineConfig, workload: Workload, contents: dict[int, int]) -> None:
    """Put the chosen memory, label areas included, into the files."""
    for number, (dimm, nvdimm) in enumerate(zip(workload.dimms, config.nvdimms, strict=True)):
        with open_backend(nvdimm.backend) as backend:
            mapping = backend.mapping
            for start, offset, size in dimm.parts(number, mapping.size):
                for unit, value in contents.items():
                    if 0 <= (at := unit - start) < size:
                        mapping.view[offset + at : offset + at + UNIT] = value.to_bytes(UNIT, "little")
            mapping.persist()
