"""Virtual time, deadlines, time stamps and external interrupts."""

from __future__ import annotations

import struct
import time

import pytest

from emu.cpu import StopKind
from emu.errors import EmuError
from tests.unit.cpu.cpu_harness import CODE, HANDLERS, HLT, IDT, STACK, Guest

START = CODE + 8
SPIN = b"\xff\xc3\xeb\xfc"  # inc ebx; jmp back: 4 bytes, 4 ns a turn


def until_halt(guest: Guest, vector: int, period: int) -> list[tuple[StopKind, int]]:
    """A timer that raises ``vector`` every ``period`` ns until the guest halts for good; the log of stops."""
    log: list[tuple[StopKind, int]] = []
    guest.cpu.set_deadline(period)
    due = period
    while True:
        stop = guest.cpu.run()
        log.append((stop.kind, guest.cpu.now()))
        if stop.kind is StopKind.TIMER:
            guest.cpu.set_interrupt_pending(True)
            guest.cpu.set_deadline(None)
        elif stop.kind is StopKind.INTERRUPT_WINDOW:
            guest.cpu.set_interrupt_pending(False)
            guest.cpu.raise_interrupt(vector)
            due = guest.cpu.now() + period
            guest.cpu.set_deadline(due)
        elif stop.kind is StopKind.HALT and stop.interrupts_enabled:
            guest.cpu.advance_to(due)
        else:
            return log


# Time


def test_time_stands_still_until_a_clock_is_needed(guest: Guest) -> None:
    guest.run_long(b"\xb9\x00\x01\x00\x00\xff\xc9\x75\xfc" + HLT)
    assert guest.cpu.now() == 0


def test_deadline_stops_at_the_first_block_at_or_after_it(guest: Guest) -> None:
    guest.long(SPIN)
    guest.cpu.set_deadline(1000)
    assert guest.cpu.run().kind is StopKind.TIMER
    # 12 bytes of first block, then 4 a turn; the block that reaches 1000 is charged but not yet executed.
    assert guest.cpu.now() == 1000
    assert guest.cpu.registers()["rbx"] == (1000 - 12) // 4
    assert guest.cpu.run().kind is StopKind.TIMER
    guest.cpu.set_deadline(2000)
    assert guest.cpu.run().kind is StopKind.TIMER
    assert guest.cpu.now() == 2000
    assert guest.cpu.registers()["rbx"] == (2000 - 12) // 4


def test_stopping_often_does_not_change_time(guest: Guest) -> None:
    def turns(steps: list[int]) -> tuple[int, int]:
        guest.long(SPIN)
        begin = guest.cpu.now()
        for step in steps:
            guest.cpu.set_deadline(begin + step)
            assert guest.cpu.run().kind is StopKind.TIMER
        return guest.cpu.registers()["rbx"], guest.cpu.now() - begin

    assert turns(list(range(100, 4001, 100))) == turns([4000])


def test_stop_requests_do_not_change_time(guest: Guest) -> None:
    guest.long(b"\xe6\x10" + b"\xff\xc3\xeb\xfa")  # out; inc ebx; jmp
    guest.cpu.set_deadline(4000)
    while guest.cpu.run().kind is not StopKind.TIMER:
        pass
    plain = guest.cpu.registers()["rbx"], guest.cpu.now()

    other = Guest()
    other.long(b"\xe6\x10" + b"\xff\xc3\xeb\xfa")
    other.cpu.on_port_write = lambda port, size, value: other.cpu.request_stop()
    other.cpu.set_deadline(4000)
    stops = 0
    while other.cpu.run().kind is not StopKind.TIMER:
        stops += 1
    assert stops > 100
    assert (other.cpu.registers()["rbx"], other.cpu.now()) == plain
    other.close()


def test_deadline_in_the_past_stops_at_once(guest: Guest) -> None:
    guest.long(SPIN)
    guest.cpu.set_deadline(0)
    assert guest.cpu.run().kind is StopKind.TIMER
    assert guest.cpu.registers()["rbx"] == 0
    guest.cpu.set_deadline(None)
    guest.cpu.request_stop()
    assert guest.cpu.run().kind is StopKind.REQUESTED


def test_deadline_set_by_a_callback(guest: Guest) -> None:
    guest.cpu.on_port_write = lambda port, size, value: guest.cpu.set_deadline(500)
    assert guest.run_long(b"\xe6\x10" + SPIN).kind is StopKind.TIMER
    assert guest.cpu.registers()["rbx"] > 50


def test_advance_never_goes_back(guest: Guest) -> None:
    guest.cpu.advance_to(500)
    guest.cpu.advance_to(100)
    assert guest.cpu.now() == 500


@pytest.mark.parametrize("instruction", [b"\x0f\x31", b"\x0f\x01\xf9"], ids=["rdtsc", "rdtscp"])
def test_time_stamp_is_virtual_time_and_always_grows(guest: Guest, instruction: bytes) -> None:
    guest.cpu.advance_to(0x5_0000_0000)
    read = instruction + b"\x48\xc1\xe2\x20\x48\x09\xd0"  # shl rdx, 32; or rax, rdx
    # r8 = first; spin 1000 turns; rax = second
    code = read + b"\x49\x89\xc0" + b"\xb9\xe8\x03\x00\x00\xff\xc9\x75\xfc" + read + HLT
    assert guest.run_long(code).kind is StopKind.HALT
    registers = guest.cpu.registers()
    assert registers["r8"] == 0x5_0000_0001
    assert 4000 <= registers["rax"] - registers["r8"] <= 4100
    assert guest.run_long(read + b"\x49\x89\xc0" + read + HLT).kind is StopKind.HALT
    registers = guest.cpu.registers()
    assert registers["rax"] > registers["r8"]


def test_rdtscp_gives_the_processor_number(guest: Guest) -> None:
    set_aux = b"\xb9\x03\x01\x00\xc0\xb8\x07\x00\x00\x00\x31\xd2\x0f\x30"
    guest.run_long(set_aux + b"\x0f\x01\xf9" + HLT)
    assert guest.cpu.registers()["rcx"] == 7


def test_clock_read_by_a_device_starts_time(guest: Guest) -> None:
    seen: list[int] = []

    def read(port: int, size: int) -> int:
        seen.append(guest.cpu.now())
        return int(len(seen) > 50)

    guest.cpu.on_port_read = read
    guest.run_long(b"\xe4\x40\xa8\x01\x74\xfa" + HLT)  # in al, 40h; test al, 1; jz back
    assert seen[0] == 0
    assert seen[-1] > seen[10] > 0


def test_real_time_follows_the_host() -> None:
    guest = Guest(real_time=True)
    guest.long(SPIN)
    begin = time.monotonic_ns()
    guest.cpu.set_deadline(guest.cpu.now() + 20_000_000)
    assert guest.cpu.run().kind is StopKind.TIMER
    assert time.monotonic_ns() - begin >= 20_000_000
    guest.close()


# Interrupts


def test_interrupt_waits_until_the_guest_enables_interrupts(guest: Guest) -> None:
    guest.gate64(0x20, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc2\x48\xcf")  # inc edx; iretq
    guest.long(b"\x31\xd2" + b"\xff\xc3" * 3 + b"\xeb\x00\xfb\x90\x90\xeb\x00" + HLT)
    guest.cpu.set_interrupt_pending(True)
    stop = guest.cpu.run()
    assert stop.kind is StopKind.INTERRUPT_WINDOW
    # STI holds interrupts back for one instruction.
    assert stop.rip == START + 2 + 6 + 2 + 1 + 1
    guest.cpu.set_interrupt_pending(False)
    guest.cpu.raise_interrupt(0x20)
    rip, _cs, flags = guest.quads(STACK - 40, 3)
    assert (rip, flags & 0x200) == (stop.rip, 0x200)
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.registers()["rdx"] == 1


def test_sti_hlt_halts_before_the_interrupt(guest: Guest) -> None:
    guest.gate64(0x20, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc2\x48\xcf")
    guest.long(b"\x31\xd2\xfa\xfb\xf4\xff\xc3\xfa" + HLT)
    guest.cpu.set_interrupt_pending(True)
    stop = guest.cpu.run()
    # The instruction behind STI is HLT: it is executed, and the pending interrupt ends it at once.
    assert stop.kind is StopKind.INTERRUPT_WINDOW
    assert guest.cpu.halted
    assert stop.rip == START + 5
    guest.cpu.set_interrupt_pending(False)
    guest.cpu.raise_interrupt(0x20)
    assert not guest.cpu.halted
    stop = guest.cpu.run()
    assert (stop.kind, stop.interrupts_enabled) == (StopKind.HALT, False)
    assert (guest.cpu.registers()["rdx"], guest.cpu.registers()["rbx"]) == (1, 1)


def test_load_of_ss_holds_interrupts_back(guest: Guest) -> None:
    guest.long(b"\xb8\x10\x00\x00\x00\xfb\x90\x8e\xd0\x90\x90\xeb\x00" + HLT)
    guest.cpu.set_deadline(0)
    guest.cpu.run()
    guest.cpu.set_deadline(None)
    guest.cpu.set_interrupt_pending(True)
    assert guest.cpu.run().rip in (START + 7, START + 10)
    assert guest.cpu.interrupts_enabled


def test_interrupt_request_from_a_callback(guest: Guest) -> None:
    guest.gate64(0x21, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc2\x48\xcf")
    guest.cpu.on_port_write = lambda port, size, value: guest.cpu.set_interrupt_pending(True)
    assert guest.run_long(b"\x31\xd2\xfb\xe6\x10\xeb\x00\x90" + HLT).kind is StopKind.INTERRUPT_WINDOW


def test_periodic_timer_wakes_an_idle_guest_and_runs_the_same_every_time() -> None:
    def trace() -> tuple[list[tuple[StopKind, int]], dict[str, int]]:
        guest = Guest()
        guest.gate64(0x20, HANDLERS)
        guest.put(HANDLERS, b"\xff\xc2\x48\xcf")
        # idle: sti; hlt; cmp edx, 20; jb idle; cli; hlt
        guest.long(b"\x31\xd2\xfb\xf4\x83\xfa\x14\x72\xf9\xfa" + HLT)
        log = until_halt(guest, 0x20, 1_000_000)
        registers = guest.cpu.registers()
        guest.close()
        return log, registers

    first = trace()
    assert first[1]["rdx"] == 20
    assert first[0][-1][1] >= 20_000_000
    assert trace() == first


def test_interrupts_into_a_busy_guest_lose_nothing(guest: Guest) -> None:
    guest.gate64(0x20, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc2\x48\xcf")
    # 20000 turns of: push rcx; inc rbx; pop rcx; loop
    guest.long(b"\x31\xd2\x31\xdb\xb9\x20\x4e\x00\x00\xfb\x51\x48\xff\xc3\x59\xff\xc9\x75\xf7\xfa" + HLT)
    until_halt(guest, 0x20, 777)
    registers = guest.cpu.registers()
    assert registers["rbx"] == 20000
    assert registers["rsp"] == STACK
    assert registers["rdx"] > 100


def test_interrupt_without_a_handler_is_a_general_protection_fault(guest: Guest) -> None:
    guest.put(IDT, bytes(4096))
    guest.gate64(13, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\xfb\x90" + HLT)
    guest.cpu.raise_interrupt(0x20)
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.quads(STACK - 48, 1) == [0x20 << 3 | 3]


@pytest.mark.parametrize("vector", [-1, 256, 0x20])
def test_interrupt_that_cannot_be_taken_is_refused(guest: Guest, vector: int) -> None:
    guest.run_long(HLT)
    with pytest.raises(EmuError, match="cannot take it"):
        guest.cpu.raise_interrupt(vector)


def test_interrupt_in_protected_mode(guest: Guest) -> None:
    guest.put(IDT, bytes(4096))
    guest.gate32(0x20, HANDLERS)
    guest.put(HANDLERS, b"\x42\xcf")  # inc edx; iret
    jump = b"\xea" + struct.pack("<IH", CODE + 14 + 7, 0x18)
    guest.run_protected(jump + b"\x31\xd2\xfb\xf4\xfa" + HLT)
    guest.cpu.raise_interrupt(0x20)
    assert guest.cpu.run().interrupts_enabled is False
    assert guest.cpu.registers()["rdx"] == 1
