"""A recovery that repeats its state is found out at once, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.persistence.lab.explore import Verdict
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.spinning import ENDLESS, SpinWatch
from emu.units import GIB

BASE, CODE, LOCK = 4 * GIB, 0x100000, 4 * GIB + 0x40
START = bytes.fromhex("48bb0000000001000000488b03")  # mov rbx, 4 GiB; mov rax, [rbx]
AT = CODE + len(START)
ENDLESS_LOOPS = {
    # again: mov rax, [rbx + 0x40]; test rax, rax; jnz again
    "load": ("488b43404885c075f7f4", 0),
    # again: xor eax, eax; mov ecx, 1; lock cmpxchg [rbx + 0x40], rcx; jnz again
    "locked": ("31c0b901000000f0480fb14b4075f1f4", 7),
    # again: mov ecx, 3; wait: dec ecx; jnz wait; mov rax, [rbx + 0x40]; test rax, rax; jnz again
    "a loop within": ("b903000000ffc975fc488b43404885c075eef4", 9),
    # again: call look; test rax, rax; jnz again; hlt; look: mov rax, [rbx + 0x40]; ret
    "the stack is written": ("e8060000004885c075f6f4488b4340c3", 11),
}
FINITE_LOOPS = {
    # mov ecx, 60000; again: dec ecx; jnz again
    "a register counts": "b960ea0000ffc975fcf4",
    # mov edi, 0x200000; mov dword ptr [rdi], 60000; again: dec dword ptr [rdi]; jnz again
    "memory counts": "bf00002000c70760ea0000ff0f75fcf4",
    # mov dword ptr [rbx + 0x80], 60000; again: dec dword ptr [rbx + 0x80]; jnz again
    "persistent memory counts": "c7838000000060ea0000ff8b8000000075f8f4",
    # xmm0 = 60000; xmm1 = 1; again: psubd xmm0, xmm1; ptest xmm0, xmm0; jnz again
    "an SSE register counts": "b860ea0000660f6ec0b801000000660f6ec831c0660ffac1660f3817c075f5f4",
    # until = RDTSC + 1000000; again: RDTSC; cmp it, until; mov eax, 0; mov edx, 0; jb again
    "waits for a time stamp": "0f3148c1e220488d34024881c640420f000f3148c1e2204809d04839f0b800000000ba0000000072e8f4",
    # until = PM timer + 4000; again: in eax, dx; cmp eax, until; mov eax, 0; jb again
    "waits for a timer": "66ba0806ed8db0a00f0000ed39f0b80000000072f6f4",
    # again: rdrand rax; and eax, 0xffff; mov eax, 0; jnz again
    "waits for a random number": "480fc7f025ffff0000b80000000075f0f4",
    # The UART's scratch register counts 255 down, with 200 rounds of nothing in between.
    "a device counts": "baff030000b0ffeeb9c8000000ffc975fcec0fb6c0fec8ee84c0b80000000075e7f4",
}


@contextmanager
def recovery(tmp_path: Path, code: str, *, record: bool = False, budget: int = 5_000_000) -> Iterator[MachineRecovery]:
    image = tmp_path / "guest.bin"
    image.write_bytes(START + bytes.fromhex(code))
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 << 20)
    config = MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 << 20)
    made = MachineRecovery(config, record=record, budget=budget)
    try:
        yield made
    finally:
        made.close()


def verdict_of(made: MachineRecovery, lock: int) -> Verdict:
    return made.run(frozenset([BASE, LOCK]), lambda unit, mask: lock & mask if unit == LOCK else 0).verdict


@pytest.mark.parametrize("record", [False, True], ids=["plain", "recorded"])
@pytest.mark.parametrize("name", ENDLESS_LOOPS)
def test_a_repeated_state_is_named_with_its_place_and_word(tmp_path: Path, name: str, record: bool) -> None:
    code, reader = ENDLESS_LOOPS[name]
    with recovery(tmp_path, code, record=record) as made:
        first = verdict_of(made, 1)
        assert (first.ok, first.reason, first.status) == (False, ENDLESS, 124)
        assert first.spin is not None
        assert first.spin.pc == AT + reader
        assert "[rbx + 0x40]" in first.spin.instruction
        assert first.spin.reads == ((LOCK, bytes([1] + [0] * 7)),)
        assert f"{AT + reader:#x}" in first.detail
        free = verdict_of(made, 0)
        assert (free.ok, free.spin) == (True, None)
        assert verdict_of(made, 1) == first


def test_a_loop_that_reads_nothing_is_named_with_its_place(tmp_path: Path) -> None:
    with recovery(tmp_path, "ebfe") as made:
        verdict = verdict_of(made, 0)
        assert verdict.reason == ENDLESS
        assert verdict.spin is not None
        assert (verdict.spin.pc, verdict.spin.reads) == (AT, ())


@pytest.mark.parametrize("record", [False, True], ids=["plain", "recorded"])
@pytest.mark.parametrize("name", FINITE_LOOPS)
def test_a_long_loop_that_ends_is_none(tmp_path: Path, name: str, record: bool) -> None:
    with recovery(tmp_path, FINITE_LOOPS[name], record=record) as made:
        for _ in range(2):
            verdict = verdict_of(made, 0)
            assert (verdict.ok, verdict.reason, verdict.spin) == (True, "halt", None), verdict.detail


def test_the_budget_still_ends_what_does_not_repeat(tmp_path: Path) -> None:
    with recovery(tmp_path, "48ffc0ebfb", budget=300_000) as made:  # again: inc rax; jmp again
        verdict = verdict_of(made, 0)
        assert (verdict.ok, verdict.reason, verdict.spin) == (False, "instruction-budget", None)


def test_blocks_of_a_long_loop_are_looked_at_in_python_only_where_they_may_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A register makes each round of 60,000 another one; looking at all registers of 512 of them took milliseconds. And
    the machine is not stopped for it, after which all devices had to be put back.
    """
    asked = stopped = 0
    before_block, look = SpinWatch.before_block, SpinWatch.look

    def count(watch: SpinWatch) -> bool:
        nonlocal asked
        asked += 1
        return before_block(watch)

    def count_stops(watch: SpinWatch, tracked: Collection[int]) -> None:
        nonlocal stopped
        stopped += watch.wants_look
        look(watch, tracked)

    monkeypatch.setattr(SpinWatch, "before_block", count)
    monkeypatch.setattr(SpinWatch, "look", count_stops)
    with recovery(tmp_path, FINITE_LOOPS["a register counts"]) as made:
        assert verdict_of(made, 1).ok
    assert 0 < asked < 20
    assert not stopped
