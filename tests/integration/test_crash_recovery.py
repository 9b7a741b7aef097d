"""Recovery on a real machine: what it is told beforehand changes nothing but what it asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu import guest
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.persistence.lab.explore import Recovery, Run, Settled
from emu.persistence.lab.investigation import Question, investigate
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.workload import Contents, record
from emu.persistence.model.crashstate import CrashState
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import Timeline, build
from emu.units import MIB
from tests.integration.run_emu import emu


def config(name: str, cmdline: str = "") -> MachineConfig:
    image = guest.find(name)
    assert image is not None
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 * MIB)
    return MachineConfig(image=str(image.path), cmdline=cmdline, slots=1, nvdimms=(NvdimmConfig(backend=backend),))


@contextmanager
def recorded(name: str, cmdline: str = "") -> Iterator[tuple[Timeline, Contents, MachineRecovery]]:
    own = config(name, cmdline)
    workload = record(own)
    initial = Contents(own, workload.dimms)
    recovery = MachineRecovery(own)
    try:
        yield build(workload.events, Rules()), initial, recovery
    finally:
        recovery.close()
        initial.close()


def run(
    recovery: Recovery, timeline: Timeline, initial: Contents, point: int, choose: int, *, told: bool
) -> tuple[Run, set[int]]:
    """A run on the memory of ``point`` in which each read takes option number ``choose``; and what it asked for."""
    asked = set()
    state = CrashState.at(timeline, point, initial)

    def answer(unit: int, mask: int) -> int:
        nonlocal state
        asked.add(unit)
        options = state.read(unit, mask)
        value, state = options[choose % len(options)]
        return value

    settled = Settled(timeline, initial, point) if told else None
    return recovery.run(frozenset(timeline.units), answer, settled), asked


@pytest.mark.parametrize(("name", "cmdline"), [("level-broken", ""), ("undo-fixed", ""), ("bench-hash", "24")])
def test_only_what_can_be_several_things_is_asked_for_and_the_run_is_the_same(name: str, cmdline: str) -> None:
    with recorded(name, cmdline) as (timeline, initial, recovery):
        reads = 0
        # Backwards and forwards: what is settled moves both ways.
        for point in [*reversed(range(len(timeline.points))), *range(0, len(timeline.points), 3)]:
            for choose in (0, -1):
                plain, everything = run(recovery, timeline, initial, point, choose, told=False)
                fast, asked = run(recovery, timeline, initial, point, choose, told=True)
                assert (list(fast.reads), fast.verdict) == (list(plain.reads), plain.verdict)
                assert {unit for unit, _, _ in plain.reads} == everything
                assert all(timeline.pending_parts(unit, point) for unit in asked)
                assert asked == {unit for unit in everything if timeline.pending_parts(unit, point)}
                reads += len(plain.reads)
        assert reads > 100


def test_what_is_given_is_not_asked_for() -> None:
    with recorded("level-broken") as (timeline, initial, recovery):
        given_any = False
        for point in range(len(timeline.points)):
            plain, asked = run(recovery, timeline, initial, point, -1, told=True)
            given = [read for read in plain.reads if read[0] in asked]
            again = recovery.run(frozenset(timeline.units), _nobody, Settled(timeline, initial, point), given)
            assert (list(again.reads), again.verdict) == (list(plain.reads), plain.verdict)
            given_any |= bool(given)
        assert given_any


def _nobody(unit: int, mask: int) -> int:
    raise AssertionError(f"asked for {unit:#x} under {mask:#x}")


def test_a_correct_hash_table_is_explored_whole() -> None:
    own = config("bench-hash", "40")
    with investigate(Question(own, own)) as answer:
        assert answer.complete
        assert not answer.failed
        assert not answer.workload_failed
        # One recovery for each memory that it can tell apart: each operation makes its bucket durable, then its count.
        assert answer.exploration.executed == 2 * 40 + 2
        assert answer.exploration.covered is None


def test_a_recovery_that_ends_in_the_block_of_its_first_access_is_run_on_every_memory(tmp_path: Path) -> None:
    """mov rdi, base; mov rax, [rdi]; out 0xf4, al"""
    base = b"\x48\xbf" + (4 << 30).to_bytes(8, "little")
    work, check = tmp_path / "work.bin", tmp_path / "check.bin"
    work.write_bytes(base + b"\x48\xc7\x07\x01\x00\x00\x00\xf4")
    check.write_bytes(base + b"\x48\x8b\x07\xe6\xf4\xf4")
    done = emu("crash", work, "--recover", check, "--nvdimm", "size=2M", "--json")
    assert (done.status, done.document["executed"]) == (3, 2)
