"""A saved CPU goes on in another one as if nothing had happened; what it cannot take is refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.cpu import Cpu, StopKind
from emu.errors import StateError
from emu.memory import GuestMemory
from emu.state import SavedState
from tests.unit.cpu.cpu_harness import CODE, CODE32, HANDLERS, HLT, LTR, STACK, USER_CODE, USER_DATA, USER_STACK, Guest


def moved(guest: Guest) -> Guest:
    """A new machine with a copy of memory and the saved CPU."""
    other = Guest()
    other.memory[:] = guest.memory[:]
    other.cpu.parse(guest.cpu.save())()
    return other


def finish(guest: Guest) -> tuple[dict[str, Any], bytes]:
    guest.cpu.set_deadline(None)
    stop = guest.cpu.run()
    assert stop.kind is StopKind.HALT
    return dict(guest.cpu.save().fields), bytes(guest.memory[:])


# A busy program: integer, flags, SSE, x87, memory, MSRs, segment bases, in a loop of 2000 turns.
BUSY = (
    b"\xb9\x01\x01\x00\xc0\xb8\x78\x56\x34\x12\x31\xd2\x0f\x30"  # GS base
    b"\xb9\x02\x01\x00\xc0\xb8\x99\x99\x00\x00\x0f\x30"  # kernel GS base
    b"\xb9\x82\x00\x00\xc0\xb8\x11\x22\x00\x00\x0f\x30"  # LSTAR
    b"\x0f\x31\x49\x89\xc7"  # rdtsc; mov r15, rax
    b"\xdb\xe3\xd9\xeb\xd9\xe8"  # fninit; fldpi; fld1
    b"\xb9\xd0\x07\x00\x00\xbe\x00\x00\x12\x00"  # ecx = 2000, esi = 120000h
    b"\x48\x01\xc8\x48\xd1\xc0\x49\x89\xc0\x4d\x01\xc1\xd1\xd2"  # turn: add, rol, mov, add, rcl
    b"\x66\x0f\x6e\xc0\x66\x0f\xfe\xc8\xd8\xc1"  # movd xmm0, eax; paddd xmm1, xmm0; fadd st0, st1
    b"\x89\x04\x8e\xff\xc9\x75"  # mov [rsi+rcx*4], eax; dec ecx; jnz turn
)
BUSY += bytes([256 - (len(BUSY) - BUSY.index(b"\x48\x01\xc8") + 1)])
BUSY += b"\x0f\x31\x4c\x29\xf8\x0f\xae\x1e\xdb\x7e\x10\x0f\x01\xf8" + HLT  # rdtsc; sub; stmxcsr; fstp; swapgs


@pytest.mark.parametrize("at", [300, 5000, 40001, 60000])
def test_interrupted_program_ends_as_an_uninterrupted_one(guest: Guest, at: int) -> None:
    guest.long(BUSY)
    guest.cpu.set_deadline(1 << 60)
    assert guest.cpu.run().kind is StopKind.HALT
    whole = Guest()
    whole.long(BUSY)
    whole.cpu.set_deadline(1 << 60)
    expected = finish(whole)

    begun = Guest()
    begun.long(BUSY)
    begun.cpu.set_deadline(at)
    assert begun.cpu.run().kind is StopKind.TIMER
    assert 0 < begun.cpu.registers()["rcx"] < 2000
    other = moved(begun)
    assert other.cpu.save() == begun.cpu.save()
    assert finish(other) == expected
    assert finish(begun) == expected
    for machine in (whole, begun, other):
        machine.close()


def test_program_moved_at_every_stop_ends_the_same(guest: Guest) -> None:
    guest.long(BUSY)
    guest.cpu.set_deadline(1 << 60)
    expected = finish(guest)
    machine = Guest()
    machine.long(BUSY)
    for deadline in range(2000, 40000, 2003):
        machine.cpu.set_deadline(deadline)
        assert machine.cpu.run().kind is StopKind.TIMER
        other = moved(machine)
        machine.close()
        machine = other
    assert finish(machine) == expected
    machine.close()


def test_32_bit_guest_moves(guest: Guest) -> None:
    guest.gate32(0, HANDLERS)
    guest.put(HANDLERS, b"\x43\x83\x04\x24\x02\xcf")
    jump = b"\xea" + struct.pack("<IH", CODE + 14 + 7, CODE32)
    guest.protected(jump + b"\x31\xdb\x31\xc9\xba\xe8\x03\x00\x00\x4a\x75\xfd\xf7\xf1" + HLT)
    guest.cpu.set_deadline(500)
    assert guest.cpu.run().kind is StopKind.TIMER
    other = moved(guest)
    assert finish(other) == finish(guest)
    assert other.cpu.registers()["rbx"] == 1
    assert other.cpu.mode == 32
    other.close()


def test_ring_3_and_task_register_move(guest: Guest) -> None:
    guest.gate64(0x80, HANDLERS, 0xEE)
    guest.put(HANDLERS, HLT)
    guest.put(HANDLERS + 0x800, b"\xb9\xe8\x03\x00\x00\xff\xc9\x75\xfc\xcd\x80")
    frame = [USER_DATA, USER_STACK, 0x202, USER_CODE, HANDLERS + 0x800]
    guest.long(LTR + b"".join(b"\x68" + struct.pack("<I", value) for value in frame) + b"\x48\xcf")
    guest.cpu.set_deadline(500)
    assert guest.cpu.run().kind is StopKind.TIMER
    other = moved(guest)
    assert finish(other) == finish(guest)
    assert other.quads(STACK - 40, 5)[1] == USER_CODE
    other.close()


def test_interrupt_shadow_moves(guest: Guest) -> None:
    guest.long(b"\xfb\xf4\xfa" + HLT)
    # Stop between STI and HLT: 9 bytes with LIDT, then the block of HLT is due.
    guest.cpu.set_deadline(10)
    assert guest.cpu.run().rip == CODE + 9
    assert not guest.cpu.interrupts_enabled
    other = moved(guest)
    assert not other.cpu.interrupts_enabled
    other.cpu.set_interrupt_pending(True)
    assert other.cpu.run().rip == CODE + 10
    assert other.cpu.halted
    other.close()


def test_halted_guest_stays_halted(guest: Guest) -> None:
    guest.gate64(0x20, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc2\x48\xcf")
    guest.run_long(b"\x31\xd2\xfb\xf4\xfa" + HLT)
    other = moved(guest)
    stop = other.cpu.run()
    assert (stop.kind, stop.interrupts_enabled) == (StopKind.HALT, True)
    other.cpu.raise_interrupt(0x20)
    assert other.cpu.run().interrupts_enabled is False
    assert other.cpu.registers()["rdx"] == 1
    other.close()


def test_every_register_survives(guest: Guest) -> None:
    guest.run_long(BUSY)
    state = guest.cpu.save()
    other = Cpu(GuestMemory())
    other.parse(state)()
    assert other.save() == state
    other.close()


def good_state() -> SavedState:
    cpu = Cpu(GuestMemory())
    try:
        return cpu.save()
    finally:
        cpu.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rip", -1), ("rip", 1 << 64), ("rflags", 1 << 22), ("general", [0] * 15), ("general", "x"),
        ("xmm", bytes(255)), ("fpu", "text"), ("selectors", [1 << 16] + [0] * 7), ("shadow", 1),
        ("control", [1 << 32, 0, 0, 0, 0]),
        ("control", [1, 0, 0, 0, 0x400]), ("tables", [0, 0x10000, 0, 0]), ("now", -1), ("halted", 0),
    ],
)  # fmt: skip
def test_impossible_state_is_refused_and_changes_nothing(guest: Guest, field: str, value: Any) -> None:
    guest.run_long(BUSY)
    before = guest.cpu.save()
    with pytest.raises(StateError):
        guest.cpu.parse(replace(before, fields={**before.fields, field: value}))()
    assert guest.cpu.save() == before


def test_missing_and_unknown_fields_are_refused(guest: Guest) -> None:
    state = guest.cpu.save()
    with pytest.raises(StateError, match="lacks the field 'rip'"):
        guest.cpu.parse(replace(state, fields={k: v for k, v in state.fields.items() if k != "rip"}))()
    with pytest.raises(StateError, match="unknown fields: more"):
        guest.cpu.parse(replace(state, fields={**state.fields, "more": 1}))()
    with pytest.raises(StateError, match="version"):
        guest.cpu.parse(replace(state, version=99))()


STATE = good_state()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_state_that_is_accepted_runs_without_harm(guest: Guest, data: st.DataObject) -> None:
    fields = dict(STATE.fields)
    for name in data.draw(st.lists(st.sampled_from(sorted(fields)), max_size=4)):
        old = fields[name]
        if isinstance(old, bool):
            fields[name] = data.draw(st.booleans())
        elif isinstance(old, int):
            fields[name] = data.draw(st.integers(0, (1 << 64) - 1) | st.integers(0, 0xFFFF))
        elif isinstance(old, bytes):
            fields[name] = data.draw(st.binary(min_size=len(old), max_size=len(old)))
        else:
            limit = data.draw(st.sampled_from([1, 0xFFFF, 0xFFFFFFFF, (1 << 64) - 1]))
            fields[name] = data.draw(st.lists(st.integers(0, limit), min_size=len(old), max_size=len(old)))
    try:
        guest.cpu.parse(replace(STATE, fields=fields))()
    except StateError:
        return
    guest.cpu.set_deadline(min(guest.cpu.now() + 1000, (1 << 64) - 1))
    assert guest.cpu.run().kind in StopKind
