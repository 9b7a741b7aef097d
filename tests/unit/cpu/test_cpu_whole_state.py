"""Nothing that a guest can change is forgotten: in a saved CPU, when memory is added, when a snapshot goes back."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from functools import cache

import pytest

from emu.cpu import Cpu, StopKind
from emu.cpu import registers as r
from emu.cpu.engine import hooks
from emu.cpu.engine.layout import layout
from emu.cpu.snapshot import Snapshot
from emu.memory import GuestMemory
from emu.migration.codec import decode_states, encode_states
from tests.unit.cpu.cpu_harness import CODE, HLT, RAM, Guest
from tests.unit.cpu.dirty_state import DUMP, SCRATCH, change_everything, show_everything

_DUMP_SIZE = 0x1000


def engine_words(cpu: Cpu) -> bytes:
    """Unicorn's CPU state as bytes, up to the last register of the guest."""
    where = layout()
    (pointer,) = struct.unpack_from("<Q", cpu._engine.own_memory(), where.cpu_pointer)
    return hooks.peek(pointer + where.state, where.guest.not_in_context[1])


@cache
def derived_words() -> set[int]:
    """Offsets of 64-bit words that the engine derives from the x87 control word; it need not keep them in step."""
    cpu = Cpu(GuestMemory())
    states = []
    for control in (0x37F, 0xC7F):
        cpu._engine.write(r.FPCW, control)
        states.append(engine_words(cpu))
    cpu.close()
    words = [struct.unpack(f"<{len(state) // 2}H", state) for state in states]
    changed = {n // 4 for n, pair in enumerate(zip(*words, strict=True)) if pair[0] != pair[1]}
    register = {n // 4 for n, pair in enumerate(zip(*words, strict=True)) if pair == (0x37F, 0xC7F)}
    assert len(register) == 1
    return {8 * n for n in changed - register}


def unexplained(one: bytes, other: bytes) -> list[int]:
    """Offsets of 64-bit words that differ, without the engine's own: breakpoints' addresses, a return address."""
    where = layout()
    own = {where.guest.debug + 64 + 8 * n for n in range(4)} | {where.latch // 8 * 8 + 64} | derived_words()
    pairs = zip(struct.iter_unpack("<Q", one), struct.iter_unpack("<Q", other), strict=True)
    return [8 * n for n, (a, b) in enumerate(pairs) if a != b and 8 * n not in own]


def dirty(guest: Guest) -> None:
    """Everything changed; the next instruction stores what the guest sees."""
    guest.put(SCRATCH, struct.pack("<2d", 2.5, 7.25))
    assert guest.run_long(change_everything() + HLT + show_everything() + HLT).kind is StopKind.HALT


def seen(guest: Guest) -> bytes:
    guest.cpu.set_register("rip", guest.cpu.registers()["rip"])  # on from behind HLT
    assert guest.cpu.run().kind is StopKind.HALT
    return guest.memory[DUMP : DUMP + _DUMP_SIZE]


@pytest.fixture
def other() -> Iterator[Guest]:
    machine = Guest()
    yield machine
    machine.close()


def test_a_saved_cpu_has_every_word(guest: Guest, other: Guest) -> None:
    untouched = engine_words(guest.cpu)
    dirty(guest)
    changed = unexplained(untouched, engine_words(guest.cpu))
    assert len(changed) > 150, "the program does not change everything any more"
    other.cpu.parse(guest.cpu.save())()
    assert unexplained(engine_words(guest.cpu), engine_words(other.cpu)) == []


def test_a_saved_cpu_shows_its_guest_the_same(guest: Guest, other: Guest) -> None:
    dirty(guest)
    other.memory[:] = guest.memory[:]
    states, _ = decode_states(
        encode_states({"cpu": guest.cpu.save()}, running=True)
    )  # as a migration and a file take it
    other.cpu.parse(states["cpu"])()
    assert seen(other) == seen(guest)


def test_added_memory_changes_nothing_else(guest: Guest, other: Guest) -> None:
    dirty(guest)
    dirty(other)
    more = mmap.mmap(-1, mmap.PAGESIZE)
    anchor = ctypes.c_char.from_buffer(more)
    guest.map(RAM, len(more), ctypes.addressof(anchor))
    assert unexplained(engine_words(guest.cpu), engine_words(other.cpu)) == []
    assert seen(guest) == seen(other)
    guest.cpu.close()
    del anchor
    more.close()


def test_a_snapshot_goes_back_to_every_word(guest: Guest) -> None:
    guest.run_long(HLT)
    before = engine_words(guest.cpu)
    snapshot = Snapshot(guest.cpu)
    guest.put(CODE + 10, change_everything() + HLT)
    guest.cpu.invalidate(0, RAM)
    guest.cpu.set_register("rip", CODE + 10)
    assert guest.cpu.run().kind is StopKind.HALT
    assert len(unexplained(before, engine_words(guest.cpu))) > 150
    snapshot.rewind()
    assert unexplained(before, engine_words(guest.cpu)) == []
    snapshot.close()


def test_reset_leaves_what_the_manual_says(guest: Guest) -> None:
    """Intel SDM volume 3, table 10-1, where the boot state does not say otherwise; XCR0: section 2.6, PKRU: 4.6.2."""
    dirty(guest)
    guest.run_long(HLT)
    state = guest.cpu.save().fields
    expected = {
        "xcr0": 1, "pkru": 0, "task_priority": 0, "debug": [0, 0, 0, 0, 0xFFFF0FF0, 0x400], "mxcsr": 0x1F80,
        "fpu_words": [0x37F, 0, 0xFFFF], "fpu_pointers": [0] * 5, "pat": 0x0007040600070406, "misc_enable": 1,
        "mtrr_default": 0, "mtrr_variable": [0] * 16, "mtrr_fixed": [0] * 11,
        "machine_check_banks": [(1 << 64) - 1, 0, 0, 0] * 10,
        "kernel_gs_base": 0, "tsc_aux": 0, "sysenter_cs": 0, "lstar": 0, "xmm": bytes(256), "fpu": bytes(80),
    }  # fmt: skip
    assert {name: state[name] for name in expected} == expected
