"""Breakpoints, steps and watched memory: each stop is exact, none is lost or comes twice; the guest sees nothing."""

from __future__ import annotations

import struct
from random import Random

import pytest

from emu.cpu import Stop, StopKind
from emu.cpu.debugging import BLOCK, READ, WRITE, Debugging, Watch
from tests.fuzzing import times
from tests.unit.cpu.cpu_harness import CODE, HANDLERS, HLT, STACK, Guest
from tests.unit.cpu.test_cpu_hostile import HANDLERS_OF_ALL_KINDS, program
from tests.unit.cpu.test_cpu_stops import ENTRY, system_calls

START = CODE + 8
DATA = 0x200000
IRETQ = b"\x48\xcf"
NOP = b"\x90"
INTO_DATA = b"\xbf" + struct.pack("<I", DATA)  # mov edi, DATA
ABSENT = 0x4000_0000  # no page table maps it


def debugged(guest: Guest) -> Debugging:
    return Debugging(guest.cpu)


def run(guest: Guest) -> Stop:
    """As ``Cpu.run``, past the stops of the self-test."""
    while (stop := guest.cpu.run()).kind is StopKind.REQUESTED:
        pass
    return stop


def places(guest: Guest, debugging: Debugging, most: int = 10_000) -> list[tuple[str, int]]:
    """Where and why the guest stops, until it halts for good."""
    found: list[tuple[str, int]] = []
    while len(found) < most and (stop := run(guest)).kind in (StopKind.BREAKPOINT, StopKind.STEP, StopKind.WATCH):
        found.append((str(stop.kind), stop.rip))
        debugging.go_on(stop)
    return found


def steps(guest: Guest, debugging: Debugging) -> list[int]:
    found = []
    debugging.stop_at(0)
    while (stop := run(guest)).kind is StopKind.STEP:
        found.append(stop.rip)
        debugging.stop_at(debugging.place + 1)
        debugging.go_on(stop)
    return found


def test_a_breakpoint_stops_before_its_instruction_each_time_once(guest: Guest) -> None:
    loop = b"\xb9\x05\x00\x00\x00" + b"\x48\xff\xc0" + b"\xff\xc9" + b"\x75\xf9"  # 5 times inc rax
    guest.long(loop + HLT)
    debugging = debugged(guest)
    inside = START + 5
    debugging.set_breakpoints([inside])
    for count in range(5):
        stop = run(guest)
        assert (stop.kind, stop.rip) == (StopKind.BREAKPOINT, inside)
        assert guest.cpu.registers()["rax"] == count
        debugging.go_on(stop)
    assert run(guest).kind is StopKind.HALT
    assert guest.cpu.registers()["rax"] == 5


def test_a_breakpoint_where_the_guest_stands_counts_unless_it_goes_on_from_there(guest: Guest) -> None:
    guest.long(NOP + HLT)
    debugging = debugged(guest)
    debugging.set_breakpoints([CODE])
    assert run(guest).kind is StopKind.BREAKPOINT
    assert run(guest).rip == CODE


def test_each_step_is_one_instruction(guest: Guest) -> None:
    guest.long(NOP + b"\x48\xff\xc0" + b"\xeb\x00" + NOP + HLT)
    assert steps(guest, debugged(guest)) == [CODE, START, START + 1, START + 4, START + 6, START + 7]


def test_rep_is_stepped_turn_by_turn_and_done_once(guest: Guest) -> None:
    fill = INTO_DATA + b"\xb9\x03\x00\x00\x00" + b"\xb0\x5a" + b"\xf3\xaa"  # rep stosb, 3 bytes
    guest.long(fill + HLT)
    debugging = debugged(guest)
    rep = START + 12
    stepped = steps(guest, debugging)
    assert stepped.count(rep) == 4  # three turns, and one that finds nothing left
    assert guest.memory[DATA : DATA + 4] == b"ZZZ\0"


def test_a_step_into_a_fault_stops_at_the_handler(guest: Guest) -> None:
    guest.gate64(14, HANDLERS)
    guest.put(HANDLERS, b"\x48\x83\xc4\x08" + b"\x48\x83\x04\x24\x03" + IRETQ)  # skip the instruction
    guest.long(b"\xbf" + struct.pack("<I", ABSENT) + b"\x48\x89\x07" + HLT)
    store = START + 5
    assert steps(guest, debugged(guest)) == [
        CODE, START, store, HANDLERS, HANDLERS + 4, HANDLERS + 9, store + 3,
    ]  # fmt: skip


def test_a_breakpoint_at_an_instruction_that_faults_is_met_once(guest: Guest) -> None:
    guest.gate64(14, HANDLERS)
    guest.put(HANDLERS, b"\x48\x83\xc4\x08" + b"\xbf" + struct.pack("<I", DATA) + IRETQ)  # now rdi is right
    guest.long(b"\xbf" + struct.pack("<I", ABSENT) + b"\x48\x89\x07" + HLT)
    debugging = debugged(guest)
    debugging.set_breakpoints([START + 5, HANDLERS])
    assert places(guest, debugging) == [("breakpoint", START + 5), ("breakpoint", HANDLERS)]


def test_a_breakpoint_where_nothing_can_be_fetched_comes_before_the_fault(guest: Guest) -> None:
    """gdb calls functions of the guest with a return address on the stack, which is no code."""
    guest.gate64(14, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.long(b"\xb8" + struct.pack("<I", ABSENT) + b"\xff\xe0")  # mov eax, ABSENT; jmp rax
    debugging = debugged(guest)
    debugging.set_breakpoints([ABSENT])
    stop = run(guest)
    assert (stop.kind, stop.rip) == (StopKind.BREAKPOINT, ABSENT)
    debugging.go_on(stop)
    assert run(guest).kind is StopKind.HALT
    assert guest.cpu.rip == HANDLERS + 1


def test_a_breakpoint_at_rep_is_met_once_and_one_at_a_jump_to_itself_each_time(guest: Guest) -> None:
    guest.long(INTO_DATA + b"\xb9\x03\x00\x00\x00" + b"\xf3\xaa" + b"\xeb\xfe")
    debugging = debugged(guest)
    rep = START + 10
    debugging.set_breakpoints([rep, rep + 2])
    assert places(guest, debugging, 4) == [("breakpoint", rep), *[("breakpoint", rep + 2)] * 3]


def test_a_breakpoint_at_rep_is_met_once_although_an_interrupt_comes_between_its_turns(guest: Guest) -> None:
    guest.gate64(0x40, HANDLERS)
    guest.put(HANDLERS, IRETQ)
    guest.long(b"\xfb" + INTO_DATA + b"\xb9\x05\x00\x00\x00" + b"\xf3\xaa" + HLT)
    debugging = debugged(guest)
    rep = START + 11
    debugging.set_breakpoints([rep])
    debugging.go_on(run(guest))
    debugging.stop_at(debugging.place // BLOCK * BLOCK + 2 * BLOCK)
    assert run(guest).kind is StopKind.STEP
    debugging.stop_at(None)
    guest.cpu.set_interrupt_pending(True)
    assert run(guest).kind is StopKind.INTERRUPT_WINDOW
    assert guest.cpu.registers()["rcx"] == 3
    guest.cpu.raise_interrupt(0x40)
    guest.cpu.set_interrupt_pending(False)
    assert run(guest).kind is StopKind.HALT
    assert guest.memory[DATA : DATA + 6] == bytes(5) + b"\0"
    assert guest.cpu.registers()["rcx"] == 0


def test_an_instruction_that_overwrites_itself_begins_once(guest: Guest) -> None:
    store = b"\xc6\x05\xff\xff\xff\xff\x77"  # mov byte [rip - 1], 0x77: its own operand
    guest.long(store + HLT)
    debugging = debugged(guest)
    debugging.set_breakpoints([START])
    assert places(guest, debugging) == [("breakpoint", START)]


def test_a_block_whose_code_has_changed_is_as_long_as_it_is_now() -> None:
    """It ended at a jump, of which the guest makes NOPs. Places are the same with stops everywhere and with none."""
    code = bytes.fromhex("bf02000000 eb00 ffc3 eb00 ffc1 66c705f3ffffff9090 ffcf 75ed f4")
    ends = []
    for stepped in (False, True):
        machine = Guest()
        machine.long(code)
        debugging = debugged(machine)
        if stepped:
            assert len(steps(machine, debugging)) == 17
        assert run(machine).kind is StopKind.HALT
        ends.append(debugging.place // BLOCK)
        machine.close()
    assert ends[0] == ends[1]


def test_syscall_is_one_step_to_the_kernel(guest: Guest) -> None:
    guest.put(ENTRY, HLT)
    guest.long(system_calls() + b"\x0f\x05" + NOP)
    stepped = steps(guest, debugged(guest))
    assert stepped[-2:] == [START + len(system_calls()), ENTRY]


STORES = {
    "mov": b"\x48\x89\x07",
    "mov across units": b"\x48\x89\x47\xfc",
    "byte": b"\x88\x47\x03",
    "movnti": b"\x48\x0f\xc3\x07",
    "movups": b"\x0f\x11\x47\xf8",
    "movaps": b"\x0f\x29\x07",
    "fstp": b"\xd9\xe8\xdd\x1f",
    "lock xadd": b"\xf0\x48\x0f\xc1\x07",
    "xchg": b"\x48\x87\x07",
    "stosq": b"\x48\xab",
    "push": b"\x48\x89\xfc\x48\x83\xc4\x08\x50",  # mov rsp, rdi; add rsp, 8; push rax
    "cmpxchg16b": b"\x48\x31\xd2\x48\x0f\xc7\x0f",
}


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_watch_stops_behind_the_instruction_that_stored(guest: Guest, store: bytes) -> None:
    guest.long(INTO_DATA + b"\xb8\x77\x00\x00\x00" + store + b"\x90" + HLT)
    debugging = debugged(guest)
    debugging.set_watches([Watch(DATA, 8, WRITE)])
    assert places(guest, debugging) == [("watch", START + 10 + len(store))]


def test_watched_loads_and_stores_are_told_apart(guest: Guest) -> None:
    guest.long(INTO_DATA + b"\x48\x8b\x07" + b"\x48\x89\x07" + b"\x48\x8b\x47\x08" + HLT)
    load, store = START + 5, START + 8
    for access, expected in ((READ, [store]), (WRITE, [store + 3]), (READ | WRITE, [store, store + 3])):
        guest.long(INTO_DATA + b"\x48\x8b\x07" + b"\x48\x89\x07" + b"\x48\x8b\x47\x08" + HLT)
        debugging = debugged(guest)
        debugging.set_watches([Watch(DATA, 8, access)])
        assert [rip for _, rip in places(guest, debugging)] == expected, load
        debugging.set_watches([])


def test_rep_stops_behind_the_turn_that_stored(guest: Guest) -> None:
    guest.long(INTO_DATA + b"\xb9\x08\x00\x00\x00" + b"\xf3\xaa" + HLT)
    debugging = debugged(guest)
    debugging.set_watches([Watch(DATA + 2, 2, WRITE)])
    for left in (5, 4):
        stop = run(guest)
        assert stop.kind is StopKind.WATCH
        assert guest.cpu.registers()["rcx"] == left
        debugging.go_on(stop)
    assert run(guest).kind is StopKind.HALT


def test_a_store_that_faults_behind_a_watched_load_is_reported_once_when_it_is_done(guest: Guest) -> None:
    # movsq from watched memory to an absent page; the handler lets it go to present memory instead.
    guest.gate64(14, HANDLERS)
    guest.put(HANDLERS, b"\x48\x83\xc4\x08" + b"\xbf" + struct.pack("<I", DATA + 0x100) + IRETQ)
    guest.long(b"\xbe" + struct.pack("<I", DATA) + b"\xbf" + struct.pack("<I", ABSENT) + b"\x48\xa5" + HLT)
    debugging = debugged(guest)
    debugging.set_watches([Watch(DATA, 8, READ)])
    assert places(guest, debugging) == [("watch", START + 12)]


def test_what_an_exception_pushes_is_watched_too(guest: Guest) -> None:
    guest.gate64(3, HANDLERS, 0xEE)
    guest.put(HANDLERS, IRETQ)
    guest.long(b"\xcc" + HLT)
    debugging = debugged(guest)
    debugging.set_watches([Watch(STACK - 8, 8, WRITE)])
    assert places(guest, debugging) == [("watch", HANDLERS)]


def test_an_interrupt_that_comes_at_a_stop_waits_for_the_block_as_without_a_debugger(guest: Guest) -> None:
    guest.gate64(0x40, HANDLERS)
    guest.put(HANDLERS, b"\x48\xff\xc3" + IRETQ)
    guest.long(b"\xfb" + NOP + NOP + NOP + b"\xeb\x00" + HLT)
    debugging = debugged(guest)
    at, behind = START + 2, START + 6
    debugging.set_breakpoints([at])
    stop = run(guest)
    assert stop.rip == at
    guest.cpu.set_interrupt_pending(True)
    debugging.go_on(stop)
    stop = run(guest)
    assert (stop.kind, stop.rip) == (StopKind.INTERRUPT_WINDOW, behind)
    guest.cpu.raise_interrupt(0x40)
    guest.cpu.set_interrupt_pending(False)
    assert run(guest).kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 1


def test_what_an_interrupt_pushes_is_watched_too(guest: Guest) -> None:
    guest.gate64(0x40, HANDLERS)
    guest.put(HANDLERS, IRETQ)
    guest.long(b"\xfb" + NOP + NOP + HLT)
    debugging = debugged(guest)
    debugging.set_watches([Watch(STACK - 8, 8, WRITE)])
    guest.cpu.set_interrupt_pending(True)
    assert run(guest).kind is StopKind.INTERRUPT_WINDOW
    guest.cpu.raise_interrupt(0x40)
    guest.cpu.set_interrupt_pending(False)
    assert places(guest, debugging) == [("watch", HANDLERS)]


def test_a_reset_forgets_a_stop(guest: Guest) -> None:
    guest.long(NOP + HLT)
    debugging = debugged(guest)
    debugging.set_breakpoints([START])
    debugging.go_on(run(guest))
    guest.long(NOP + HLT)
    assert run(guest).rip == START


# A SYSENTER that faults inside a block, a jump into a block's last instruction, a block that changes itself.
_TOLD_APART = (167, 243, 322)


@pytest.mark.fuzz
@pytest.mark.parametrize("seed", [*_TOLD_APART, *range(times(17))])
def test_random_programs_run_alike_without_a_debugger_and_with_one_whole_and_step_by_step(seed: int) -> None:
    """Registers, memory and time; and places are the same with stops at every instruction and with none."""
    ends, placed = [], []
    for way in ("plain", "whole", "stepped"):
        random, machine = Random(seed), Guest()
        try:
            for vector in range(256):
                machine.gate64(vector, HANDLERS + 8 * vector, random.choice((0x8E, 0xEE)))
                machine.put(HANDLERS + 8 * vector, random.choice(HANDLERS_OF_ALL_KINDS))
            machine.long(program(random))
            machine.cpu.set_deadline(3_000)
            if way != "plain":
                debugging = debugged(machine)
            if way == "stepped":
                debugging.set_watches([Watch(STACK - 0x1000, 0x1000, WRITE)])
                debugging.stop_at(0)
            while (stop := run(machine)).kind in (StopKind.STEP, StopKind.WATCH):
                debugging.stop_at(debugging.place + 1)
                debugging.go_on(stop)
            fields = dict(machine.cpu.save().fields)
            del fields["last_block"]  # where the last announcement was, which may be an instruction's
            ends.append((stop, fields, bytes(machine.memory)))
            if way != "plain":
                placed.append(debugging.place // BLOCK)
        finally:
            machine.close()
    for end in ends[1:]:
        assert end[:2] == ends[0][:2]
        assert end[2] == ends[0][2]
    assert placed[0] == placed[1]
