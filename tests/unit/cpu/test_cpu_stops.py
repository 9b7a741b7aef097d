"""A stop request, whoever makes it, loses nothing and does nothing twice: callbacks, virtual time, SYSCALL."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from emu.cpu import StopKind
from emu.cpu.engine import library
from emu.cpu.registers import RIP
from tests.fuzzing import times
from tests.unit.cpu.cpu_harness import CODE, HANDLERS, HLT, STACK, Guest
from tests.unit.cpu.test_cpu_hostile import HANDLERS_OF_ALL_KINDS, program

BLOCK_HOOK, INSTRUCTION_HOOK = 8, 4  # UC_HOOK_BLOCK and UC_HOOK_CODE
START = CODE + 8
ENTRY = HANDLERS + 0x800
RDTSC = b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0"  # rdtsc; shl rdx, 32; or rax, rdx
SYSCALL, SYSENTER = b"\x0f\x05", b"\x0f\x34"
SINGLE_STEP = b"\x9c\x48\x81\x0c\x24\x00\x01\x00\x00\x9d"  # pushfq; or qword [rsp], TF; popfq
TF, BS = 0x100, 1 << 14


def set_msr(number: int, value: int) -> bytes:
    return (
        b"\xb9" + struct.pack("<I", number) + b"\xb8" + struct.pack("<I", value & 0xFFFFFFFF)
        + b"\xba" + struct.pack("<I", value >> 32) + b"\x0f\x30"
    )  # fmt: skip


def system_calls(mask: int = 0) -> bytes:
    """Enable SYSCALL and SYSENTER to ENTRY."""
    return (
        set_msr(0xC0000080, 0x901) + set_msr(0xC0000081, 8 << 32) + set_msr(0xC0000082, ENTRY)
        + set_msr(0xC0000084, mask) + set_msr(0x174, 8) + set_msr(0x175, STACK - 0x100) + set_msr(0x176, ENTRY)
    )  # fmt: skip


def to_halt(guest: Guest) -> int:
    """Run until HLT with interrupts off; how many stops that were asked for came before."""
    stops = 0
    while (stop := guest.cpu.run()).kind is StopKind.REQUESTED:
        stops += 1
    assert stop.kind is StopKind.HALT
    return stops


def stop_at_out(guest: Guest) -> None:
    def out(port: int, size: int, value: int) -> None:
        guest.out.append((port, value))
        guest.cpu.request_stop()

    guest.cpu.on_port_write = out


# Callbacks behind a stop request


@pytest.mark.parametrize("clock", [False, True])
def test_time_stamps_behind_a_stop_request_are_virtual_and_grow(guest: Guest, clock: bool) -> None:
    stop_at_out(guest)
    keep = b"\x49\x89\xc0"  # mov r8, rax
    guest.long(b"\xe6\x80" + RDTSC + keep + RDTSC + b"\x49\x89\xc1\xe6\x81\xeb\x00" + RDTSC + HLT)
    if clock:
        guest.cpu.set_deadline(1 << 40)
    assert to_halt(guest) == 1
    registers = guest.cpu.registers()
    begin = guest.cpu.now() - registers["rax"] + 1 if clock else 1
    assert registers["r9"] == registers["r8"] + 1
    assert registers["r8"] <= begin + 100
    assert registers["r9"] < registers["rax"] < registers["r9"] + 100
    assert [port for port, _ in guest.out] == [0x80, 0x81]


@pytest.mark.parametrize("before", [b"\x0f\x31", b"\xe6\x80", b"\xe4\x80"], ids=["rdtsc", "out", "in"])
@pytest.mark.parametrize("call", [SYSCALL, SYSENTER], ids=["syscall", "sysenter"])
@pytest.mark.parametrize("clock", [False, True])
def test_a_system_call_behind_a_stop_request_is_carried_out(
    guest: Guest, before: bytes, call: bytes, clock: bool
) -> None:
    stop_at_out(guest)
    guest.cpu.on_port_read = lambda port, size: guest.cpu.request_stop() or 0
    guest.put(ENTRY, b"\x41\xff\xc4" + HLT)  # inc r12d
    guest.long(system_calls() + b"\xeb\x00" + before + call + b"\x41\xff\xc5" + HLT)  # inc r13d, which must not come
    if clock:
        guest.cpu.set_deadline(1 << 40)
    to_halt(guest)
    registers = guest.cpu.registers()
    assert (registers["r12"], registers["r13"]) == (1, 0)


@pytest.mark.parametrize("mask", [0, TF], ids=["trapped", "masked"])
def test_single_step_over_syscall_traps_by_the_flags_that_syscall_leaves(guest: Guest, mask: int) -> None:
    # Intel SDM volume 2, SYSCALL: RFLAGS are masked before the next instruction; R11 keeps them as they were.
    guest.gate64(1, HANDLERS)
    # The handler notes RIP behind the trap, and the first trap is the one of the NOP; it goes on.
    guest.put(
        HANDLERS, b"\x4c\x8b\x3c\x24" + b"\x41\xff\xc6" + b"\x0f\x21\xf0" + b"\x48\xcf"
    )  # r15 = RIP; inc r14d; mov rax, dr6
    guest.put(ENTRY, b"\xeb\x00\x0f\x21\xf0" + HLT)  # jmp +0; mov rax, dr6; hlt
    guest.long(system_calls(mask) + SINGLE_STEP + SYSCALL + HLT)
    stop = guest.cpu.run()
    assert (stop.kind, stop.rip) == (StopKind.HALT, ENTRY + 6)
    registers = guest.cpu.registers()
    assert registers["r11"] & TF
    if mask:
        assert registers["r14"] == 0
        assert not registers["rax"] & BS
        return
    assert registers["r14"] == 3  # behind SYSCALL and behind both instructions
    assert registers["r15"] == ENTRY + 5
    assert registers["rax"] & BS


def test_single_step_over_sysenter_traps_behind_the_entry(guest: Guest) -> None:
    # SYSENTER leaves TF alone (Intel SDM volume 2).
    guest.gate64(1, HANDLERS)
    guest.put(HANDLERS, b"\x4c\x8b\x3c\x24" + b"\x41\xff\xc6" + b"\x48\x81\x64\x24\x10\xff\xfe\xff\xff" + b"\x48\xcf")
    guest.put(ENTRY, HLT)
    guest.long(system_calls() + SINGLE_STEP + SYSENTER + HLT)
    stop = guest.cpu.run()
    assert (stop.kind, stop.rip) == (StopKind.HALT, ENTRY + 1)
    registers = guest.cpu.registers()
    assert (registers["r14"], registers["r15"]) == (1, ENTRY)


def test_an_exception_behind_a_stop_request_is_delivered_and_the_clock_still_starts(guest: Guest) -> None:
    guest.gate64(6, HANDLERS)
    guest.put(HANDLERS, b"\x41\xff\xc4" + RDTSC + HLT)
    assert guest.run_long(RDTSC + b"\x0f\x0b").kind is StopKind.HALT
    assert guest.cpu.registers()["r12"] == 1
    assert 64 < guest.cpu.now() < 200


# Others who look on


@pytest.fixture
def watched(guest: Guest) -> Callable[[int], list[tuple[int, int]]]:
    """Installs a native hook of a kind; the addresses and sizes that it saw."""
    callbacks = []

    def watch(kind: int) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)
        callbacks.append(signature(lambda uc, address, size, user: seen.append((address, size))))
        address = ctypes.cast(callbacks[-1], ctypes.c_void_p).value
        assert address is not None
        guest.cpu.add_native_hook(kind, address, 0)
        return seen

    return watch


@pytest.mark.parametrize("clock", [False, True])
def test_hooks_of_others_see_each_block_and_instruction_once_however_often_it_is_stopped(
    guest: Guest, watched: Callable[[int], list[tuple[int, int]]], clock: bool
) -> None:
    blocks, instructions = watched(BLOCK_HOOK), watched(INSTRUCTION_HOOK)
    stop_at_out(guest)
    guest.long(b"\xb9\x05\x00\x00\x00" + b"\xe6\x80\xff\xc3\xff\xc9\x75\xf8" + HLT)
    if clock:
        guest.cpu.set_deadline(30)
    stops = 0
    while (stop := guest.cpu.run()).kind is not StopKind.HALT:
        stops += 1
        if stop.kind is StopKind.TIMER:
            guest.cpu.set_deadline(guest.cpu.now() + 1)
    assert stops > 4
    turn = [START + 5, START + 7, START + 9, START + 11]
    assert [address for address, _ in blocks] == [CODE] + [START + 5] * 4 + [START + 13]
    assert [address for address, _ in instructions] == [CODE, START] + turn * 5 + [START + 13]
    assert guest.cpu.registers()["rbx"] == 5


def test_a_hook_can_stop_before_the_block_that_it_is_told_of(guest: Guest) -> None:
    seen = []

    def on_block(uc: int, address: int, size: int, user: int) -> None:
        seen.append(address)
        if len(seen) == 3:
            guest.cpu.stop_before_block()

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)(on_block)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    guest.cpu.add_native_hook(BLOCK_HOOK, address, 0)
    guest.long(b"\xb9\x05\x00\x00\x00\xff\xc3\xff\xc9\x75\xfa" + HLT)
    guest.cpu.set_deadline(1 << 40)
    assert guest.cpu.run().kind is StopKind.REQUESTED
    assert guest.cpu.registers()["rbx"] == 2
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 5
    assert guest.cpu.now() == 8 + 11 + 4 * 6 + 1


def test_a_block_that_a_hook_enters_again_is_charged_once(guest: Guest) -> None:
    # As the laboratory does when it puts hooks on a block's instructions.
    write = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
        library.function("uc_reg_write")
    )
    seen: list[int] = []

    def on_block(uc: int, address: int, size: int, user: int) -> None:
        seen.append(address)
        if len(seen) in (1, 3, 4):
            assert write(uc, RIP, ctypes.byref(ctypes.c_uint64(address))) == 0

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)(on_block)
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    guest.cpu.add_native_hook(BLOCK_HOOK, address, 0)
    guest.long(b"\xb9\x05\x00\x00\x00\xff\xc3\xff\xc9\x75\xfa" + HLT)
    guest.cpu.set_deadline(1 << 40)
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 5
    assert seen == [CODE] * 2 + [START + 5] * 6 + [START + 11]
    assert guest.cpu.now() == 8 + 11 + 4 * 6 + 1


@pytest.mark.parametrize("kind", [None, BLOCK_HOOK, INSTRUCTION_HOOK])
def test_a_clock_that_starts_at_a_stop_charges_the_next_block(
    guest: Guest, watched: Callable[[int], list[tuple[int, int]]], kind: int | None
) -> None:
    if kind is not None:
        watched(kind)
    stop_at_out(guest)
    guest.long(b"\xe6\x80\xeb\x00" + b"\xff\xc3" * 3 + HLT)
    assert guest.cpu.run().kind is StopKind.REQUESTED
    guest.cpu.set_deadline(1 << 40)
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.now() == 3 * 2 + 1


# HLT


def test_a_stop_request_does_not_halt_a_guest_that_has_halted_before(guest: Guest) -> None:
    guest.gate64(0x20, HANDLERS)
    guest.put(HANDLERS, b"\xff\xc2\x48\xcf")  # inc edx; iretq
    guest.long(b"\x31\xd2\xfb\xf4\xff\xc3\xeb\xfc")  # xor edx, edx; sti; hlt; again: inc ebx; jmp again
    assert guest.cpu.run().kind is StopKind.HALT
    guest.cpu.raise_interrupt(0x20)
    for _ in range(20):
        engine = guest.cpu._engine

        # The request comes where it used to do harm: after the last look at it, before the engine is entered.
        def asked_behind_the_look(look: Callable[[], bool] = engine.take_stop) -> bool:
            taken = look()
            if not taken:
                guest.cpu.request_stop()
            return taken

        engine.take_stop = asked_behind_the_look  # type: ignore[method-assign]
        guest.cpu.set_deadline(guest.cpu.now() + 100)
        assert guest.cpu.run().kind in (StopKind.REQUESTED, StopKind.TIMER)
        assert not guest.cpu.halted
        del engine.take_stop
        guest.cpu.run()
    assert not guest.cpu.halted


# Requests from another thread


@pytest.fixture
def before_uc_emu_start() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Has a function called each time when the engine is about to be entered, behind our own last look at requests."""
    start = library.function("uc_emu_start")
    arguments = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t)
    signature = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)
    replaced: list[tuple[Any, object]] = []

    def install(function: Callable[[], None]) -> None:
        def begin(*words: int) -> int:
            function()
            result: int = signature(start)(*words)
            return result

        callback = signature(begin)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        for area in writable_memory_of("_hooks.abi3.so"):
            while (at := bytes(area).find(struct.pack("<Q", start))) >= 0:
                pointer = ctypes.c_uint64.from_buffer(area, at)
                pointer.value = address or 0
                replaced.append((pointer, callback))
        assert replaced

    yield install
    for pointer, _ in replaced:
        pointer.value = start


def writable_memory_of(library_name: str) -> list[Any]:
    """Arrays over the memory of a loaded library's own variables: its mapped data and the zeros that follow it."""
    areas, ours = [], False
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, _, _, _, *name = line.split(maxsplit=5)
        ours = name[0].endswith(library_name) if name else ours
        if ours and access.startswith("rw"):
            begin, end = (int(text, 16) for text in span.split("-"))
            areas.append((ctypes.c_ubyte * (end - begin)).from_address(begin))
        if not name:
            ours = False
    return areas


@pytest.mark.parametrize("clock", [False, True])
def test_a_request_that_comes_while_the_engine_is_entered_is_not_lost(
    guest: Guest, before_uc_emu_start: Callable[[Callable[[], None]], None], clock: bool
) -> None:
    """Unicorn forgets, when it begins, what was asked of it before."""
    guest.long(b"\xeb\xfe")  # again: jmp again
    if clock:
        guest.cpu.set_deadline(1 << 62)
    guest.cpu.request_stop()
    guest.cpu.run()  # the callbacks of a clock are installed
    late: list[bool] = []

    def in_another_thread(function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    before_uc_emu_start(lambda: in_another_thread(guest.cpu.request_stop))
    rescue = threading.Timer(10, lambda: (late.append(True), guest.cpu.request_stop()))
    rescue.start()
    try:
        assert guest.cpu.run().kind is StopKind.REQUESTED
    finally:
        rescue.cancel()
    assert not late


@pytest.mark.parametrize("clock", [False, True])
def test_a_loop_of_one_block_is_charged_right_whenever_another_thread_stops_it(guest: Guest, clock: bool) -> None:
    guest.long(b"\xb9\x80\x84\x1e\x00" + b"\xff\xc3\xff\xc9\x75\xfa" + HLT)  # 2,000,000 turns of 6 bytes
    if clock:
        guest.cpu.set_deadline(1 << 40)
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            guest.cpu.request_stop()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        while (stop := guest.cpu.run()).kind is StopKind.REQUESTED:
            pass
    finally:
        done.set()
        thread.join()
    assert stop.kind is StopKind.HALT
    assert guest.cpu.registers()["rbx"] == 2_000_000
    assert guest.cpu.now() == (8 + 11 + 6 * 1_999_999 + 1 if clock else 0)


# A stop in every block changes nothing


def hostile(guest: Guest, random: Random) -> None:
    """Anything at all, under a deadline."""
    for vector in range(256):
        guest.gate64(vector, HANDLERS + 8 * vector, random.choice((0x8E, 0xEE, 0x8F, 0)), random.choice((0, 0, 0, 1)))
        guest.put(HANDLERS + 8 * vector, random.choice(HANDLERS_OF_ALL_KINDS))
    (guest.long if random.random() < 0.7 else guest.protected)(program(random))
    guest.cpu.set_deadline(20_000)


# out; in; rdtsc; rdtscp; int 80h; syscall; jmp +0; inc; push, pop; a store; rep stosb; cpuid; pause; sti, nop, cli;
# a loop of three turns.
_STEPS = (
    "e680", "e480", "0f31", "0f01f9", "cd80", "0f05", "eb00", "41ffc4", "5059", "4489242500001200",
    "b903000000bf10001200f3aa", "0fa2", "f390", "fb90fa", "b90300000041ffc5ffc975f9",
)  # fmt: skip


def orderly(guest: Guest, random: Random) -> None:
    """A program that ends by itself; time begins with the first time stamp."""
    guest.gate64(0x80, HANDLERS)
    guest.put(HANDLERS, b"\x41\xff\xc6\x48\xcf")  # inc r14d; iretq
    guest.put(ENTRY, b"\x41\xff\xc7\xff\xe1")  # inc r15d; jmp rcx
    guest.long(system_calls() + bytes.fromhex("".join(random.choices(_STEPS, k=80))) + HLT)


def outcome(prepare: Callable[[Guest, Random], None], seed: int) -> tuple[Any, ...]:
    """A random program's stops, ports, state and memory."""
    guest, random = Guest(), Random(seed)
    prepare(guest, random)
    reads: list[int] = []

    def read(port: int, size: int) -> int:
        reads.append(port)
        guest.cpu.invalidate(0, 1)
        return random.getrandbits(32)

    guest.cpu.on_port_read = read
    stops = []
    for _ in range(40):
        stop = guest.cpu.run()
        stops.append((stop, guest.cpu.now()))
        if stop.kind is not StopKind.HALT or not guest.cpu.interrupts_enabled:
            break
        guest.cpu.raise_interrupt(random.randrange(256))
    state = guest.cpu.save()
    # Without a clock there is no block hook to see blocks; nothing depends on the last one then.
    fields = {k: v for k, v in state.fields.items() if state.fields["clock_started"] or k != "last_block"}
    result = stops, reads, guest.out, fields, bytes(guest.memory)
    guest.close()
    return result


@pytest.mark.parametrize("prepare", [hostile, orderly])
@pytest.mark.fuzz
@pytest.mark.parametrize("seed", range(times(40)))
def test_random_programs_are_the_same_with_a_stop_in_every_block(
    monkeypatch: pytest.MonkeyPatch, seed: int, prepare: Callable[[Guest, Random], None]
) -> None:
    monkeypatch.delenv("EMU_STOP_EVERY_BLOCK", raising=False)
    plain = outcome(prepare, seed)
    monkeypatch.setenv("EMU_STOP_EVERY_BLOCK", "1")
    assert outcome(prepare, seed) == plain


def test_the_self_test_stops_in_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMU_STOP_EVERY_BLOCK", "1")
    guest = Guest()
    guest.cpu.shows_self_test = True
    guest.long(b"\xb9\x05\x00\x00\x00" + b"\xeb\x00" * 200 + HLT)
    assert to_halt(guest) >= 10
    guest.close()


def test_a_block_that_overwrites_itself_is_charged_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> tuple[int, int]:
        guest = Guest()
        # again: mov byte [rip + over], cl, which is the operand of: mov al, 0; add ebx, eax; dec ecx; jnz again
        code = b"\xb9\x40\x00\x00\x00\x31\xc0\x31\xdb\xeb\x00\x88\x0d\x01\x00\x00\x00\xb0\x00\x01\xc3\xff\xc9\x75\xf2"
        guest.long(code + HLT)
        guest.cpu.set_deadline(1 << 40)
        to_halt(guest)
        result = guest.cpu.registers()["rbx"], guest.cpu.now()
        guest.close()
        return result

    monkeypatch.delenv("EMU_STOP_EVERY_BLOCK", raising=False)
    plain = run()
    assert plain[0] == sum(range(1, 65))
    monkeypatch.setenv("EMU_STOP_EVERY_BLOCK", "1")
    assert run() == plain
