"""When a failure is the fault of what the file system had not written: who is asked, and what is made of the answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from emu.persistence.lab.explore import LocalWorker, explore
from emu.persistence.lab.findings import (
    MISSING_FLUSH,
    MISSING_FSYNC,
    MISSING_MAP_SYNC,
    RECOVERY_LOGIC,
    Analyst,
    Failure,
)
from emu.persistence.lab.memories import Patience
from emu.persistence.lab.naming import Lacking
from emu.persistence.model.crashstate import Read
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind, Store
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import build
from tests.unit.persistence.test_persistence_explore import Memory, Toy, clean

SFENCE = Fence(FenceKind.SFENCE, pc=0x400)
PROGRAM, KERNEL = 0x401000, 0xFFFF_FFFF_8100_0000


class Asked:
    """Answers ``answer``, and takes down what it was asked."""

    def __init__(self, answer: Lacking | None) -> None:
        self.answer = answer
        self.crashes: list[int] = []

    def __call__(self, crash: int, path: tuple[Read, ...]) -> Lacking | None:
        assert path
        self.crashes.append(crash)
        return self.answer


def causes(events: Sequence[Event], body, look: Asked) -> list[Failure]:  # type: ignore[no-untyped-def]
    timeline, toy = build(events, Rules()), Toy(body)
    exploration = explore(timeline, clean, LocalWorker(toy, timeline, clean))
    return Analyst(exploration, timeline, events, clean, toy, Patience(1_000_000), unsynced=look).explain()


def durable(address: int, value: int, pc: int) -> list[Event]:
    data = bytes([value]) * 8
    return [Store(address, data, pc=pc), Flush(address, FlushKind.CLWB, pc=pc + 8), SFENCE]


def never(memory: Memory) -> int:
    """A recovery that finds nothing, whatever was stored: its file has no blocks."""
    return 1 if memory.load(0) or not memory.load(0) else 0


@pytest.mark.parametrize("kind", [MISSING_MAP_SYNC, MISSING_FSYNC])
def test_what_a_sync_repairs_is_named_by_what_lacks(kind: str) -> None:
    look = Asked(Lacking(kind, (0,)))
    (failure,) = causes(durable(0, 1, PROGRAM), never, look)
    assert (failure.kind, failure.lost, failure.gave_up) == (kind, (0,), False)
    assert look.crashes


def test_what_no_sync_repairs_keeps_its_name() -> None:
    look = Asked(None)
    (failure,) = causes(durable(0, 1, PROGRAM), never, look)
    assert failure.kind == RECOVERY_LOGIC
    assert look.crashes


def first_of_two(memory: Memory) -> int:
    return 1 if memory.load(64) and not memory.load(0) else 0


def test_flush_that_a_program_lacks_is_not_asked_about() -> None:
    look = Asked(Lacking(MISSING_FSYNC, ()))
    (failure,) = causes([Store(0, b"\1" * 8, pc=PROGRAM), *durable(64, 1, PROGRAM + 16)], first_of_two, look)
    assert (failure.kind, look.crashes) == (MISSING_FLUSH, [])


def test_stores_of_the_kernel_are_not_the_author_s_to_flush() -> None:
    look = Asked(Lacking(MISSING_FSYNC, ()))
    (failure,) = causes([Store(0, b"\1" * 8, pc=KERNEL), *durable(64, 1, KERNEL + 16)], first_of_two, look)
    assert failure.kind == MISSING_FSYNC
    look = Asked(None)
    (failure,) = causes([Store(0, b"\1" * 8, pc=KERNEL), *durable(64, 1, KERNEL + 16)], first_of_two, look)
    assert failure.kind == MISSING_FLUSH
