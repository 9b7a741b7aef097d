"""Delivery in C against delivery in Python: the same guest, the same memory, the same time, whoever delivers."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pytest

from emu.cpu import StopKind
from emu.cpu.engine import hooks, in_place
from emu.cpu.engine.layout import SEGMENT_SIZE, layout
from tests.fuzzing import times
from tests.unit.cpu.cpu_harness import (
    CODE,
    GDT,
    HANDLERS,
    HLT,
    IDT_POINTER,
    KERNEL_CODE,
    LTR,
    RAM,
    STACK,
    TABLES,
    TSS,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Guest,
)
from tests.unit.cpu.dirty_state import load, write_msr

WINDOW, TABLE, PAGES = 0x400000, 0x1F000, 0x200000
"""Eight pages with random rights; where their table, and their memory, are."""
ABSENT = 0x70000000
_STAR, _LSTAR, _FMASK, _EFER = 0xC0000081, 0xC0000082, 0xC0000084, 0xC0000080
_SELECTORS = (KERNEL_CODE, KERNEL_CODE, KERNEL_CODE, USER_CODE, 0, 4, 0x0C, 0x10, 0x18, 0x38, 0x40, 0x48, 0xFFF8)
_CODES = (0x00AF9B000000FFFF, 0x00AF9F000000FFFF, 0x00AFBB000000FFFF, 0x00AFFF000000FFFF, 0x00AF1B000000FFFF)
_STACKS = (STACK - 0x1000, STACK - 0x0FF8, 0x8000_0000_0000, 0xFFFF_8000_0000_0000, 0, 16)
_RETURNS = (
    b"\x48\xcf",  # iretq
    b"\x48\x83\xc4\x08\x48\xcf",  # add rsp, 8; iretq
    b"\x48\x83\x04\x24\x02\x48\xcf",  # add qword [rsp], 2; iretq
    b"\x48\x83\xc4\x08\x48\x83\x04\x24\x03\x48\xcf",
    b"\x48\x0f\x07",  # sysretq
    HLT,
    HLT,
)


def raising(random: Random) -> bytes:
    """One instruction that raises something, or may."""
    address = random.choice((ABSENT, WINDOW + 0x1000 * random.randrange(8) + random.randrange(0xFF0), 1 << 47))
    return random.choice(
        (
            b"\x0f\x0b",
            b"\xcc",
            b"\xcd" + bytes([random.randrange(256)]),
            b"\x31\xc9\xf7\xf1",
            b"\x66\xb8\x34\x12\x8e\xd8",  # mov ds, 1234h
            load(3, address) + b"\x48\x8b\x03",  # mov rax, [rbx]
            load(3, address) + b"\x48\x89\x03",
            load(3, address) + b"\xff\xd3",  # call rbx
            b"\x0f\x05",
            b"\x48\x0f\x05",
            b"\x0f\x34",
            b"\x9c\x58\x0d\x00\x01\x00\x00\x50\x9d\x90",  # set TF: single-step
            b"\x9c\x58\x0d\x00\x40\x00\x00\x50\x9d\x0f\x0b",  # set NT; ud2
            b"\xfa",
            b"\xfb",
        )
    )


def prepare(guest: Guest, random: Random) -> None:
    """Tables that are mostly right and wrong in every way, and a program that raises one thing after the other."""
    for vector in range(256):
        handler = HANDLERS + 16 * vector
        guest.put(handler, random.choice(_RETURNS))
        kind = random.choice((0x8E, 0x8E, 0x8E, 0xEE, 0xEE, 0x8F, 0xEF, 0x0E, 0x85, 0x9E))
        target = random.choice((handler,) * 9 + (1 << 47,))
        guest.gate64(vector, target, kind, random.choice((0, 0, 0, 0, 1, 2, 7)), random.choice(_SELECTORS))
    codes = [random.choice(_CODES) for _ in range(3)]
    guest.put(GDT + 0x40, struct.pack("<3Q", *codes))
    in_window = [WINDOW + 0x1000 * random.randrange(8) + 8 * random.randrange(512) for _ in range(6)]
    stacks = [random.choice((*_STACKS, *in_window)) for _ in range(10)]
    guest.put(TSS + 4, struct.pack("<3Q", *stacks[:3]))
    guest.put(TSS + 0x24, struct.pack("<7Q", *stacks[3:10]))
    guest.put(TABLES + 0x2000 + 16, struct.pack("<Q", TABLE | random.choice((7, 7, 3, 0x27))))
    rights = [random.choice((0, 1, 3, 7, 0x23, 0x63, 0x67)) for _ in range(8)]
    guest.put(TABLE, struct.pack("<8Q", *(PAGES + 0x1000 * n | right for n, right in enumerate(rights))))
    if random.random() < 0.2:
        guest.put(IDT_POINTER, struct.pack("<H", random.randrange(0x1000)))
    code = LTR + write_msr(_EFER, 0x500 | (random.random() < 0.8))
    code += write_msr(_STAR, random.choice((0x0013_0008_0000_0000, 0x001B_000B_0000_0000)))
    code += write_msr(_LSTAR, HANDLERS + 16 * random.randrange(256)) + write_msr(_FMASK, random.getrandbits(22))
    if random.random() < 0.6:
        code += b"\x0f\x20\xc0\x0d\x00\x00\x01\x00\x0f\x22\xc0"  # CR0.WP
    if random.random() < 0.6:
        frame = (USER_DATA, USER_STACK, random.choice((0x202, 0x3202, 0x3302)), USER_CODE, HANDLERS + 0x2000)
        code += b"".join(b"\x68" + struct.pack("<I", value) for value in frame) + b"\x48\xcf"
    program = b"".join(raising(random) for _ in range(6)) + HLT
    guest.put(HANDLERS + 0x2000, program)
    guest.long(code + program)
    guest.cpu.set_deadline(random.choice((200, 700, 100_000)))


def outcome(guest: Guest, random: Random) -> list[object]:
    """All that can be seen of a run with interrupts, stop by stop."""
    seen: list[object] = []
    for _ in range(12):
        stop = guest.cpu.run()
        seen += [stop, guest.cpu.now(), guest.cpu.last_exception, guest.cpu.registers()]
        seen += [guest.cpu.segment(name) for name in ("cs", "ss")]
        if stop.kind is StopKind.TIMER:
            guest.cpu.set_deadline(guest.cpu.now() + random.randrange(1, 2000))
        elif not guest.cpu.interrupts_enabled or stop.kind is not StopKind.HALT:
            break
        if guest.cpu.interrupts_enabled:
            guest.cpu.raise_interrupt(random.randrange(256))
    return [*seen, bytes(guest.memory[:RAM])]


@pytest.mark.fuzz
def test_random_tables_and_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMU_STOP_EVERY_BLOCK", raising=False)  # C leaves to Python what meets a stop
    by_python = total = 0
    for seed in range(times(100)):
        seen = []
        for native in (True, False):
            guest = Guest(native_delivery=native)
            calls = 0
            deliver = guest.cpu._delivery.deliver

            def counted(*arguments: Any) -> None:
                nonlocal calls
                calls += 1
                deliver(*arguments)  # noqa: B023 - called before the next round

            guest.cpu._delivery.deliver = counted  # type: ignore[assignment, method-assign]
            prepare(guest, Random(seed))
            seen.append(outcome(guest, Random(seed)))
            guest.close()
            if native:
                by_python += calls
            else:
                total += calls
        assert seen[0] == seen[1], f"seed {seed}"
    # Both ways were taken, or this compares nothing.
    assert total // 10 < by_python < total * 9 // 10


@pytest.mark.parametrize("native", [True, False])
def test_frames_are_reported_where_they_must_be(native: bool) -> None:
    """Whoever watches hears of each exception, and C delivers only if it can tell them itself."""
    guest = Guest(native_delivery=native)
    heard: list[int] = []
    guest.cpu.watch(heard.append, lambda gpa, data: None)
    guest.gate64(6, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.run_long(b"\x0f\x0b")
    assert heard == [CODE + 8]
    guest.close()


def test_a_build_of_the_library_that_does_not_go_on_is_left_to_python(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"eflags": 136, "hflags": 0, "segments": 0, "control": 0, "latch": 0, "error_code": 0, "is_software": 0}
    told = []
    monkeypatch.setattr(hooks, "know_delivery", lambda places, *, works: told.append(works))
    monkeypatch.setattr(in_place, "_tables_are_there", lambda *_: True)
    monkeypatch.setattr(in_place, "_goes_on", lambda *_: False)
    in_place.examine(guest.cpu._engine, guest.memory, bytes, known, SEGMENT_SIZE)
    assert told == [True, False]


def test_the_pinned_library_delivers_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    layout()
    monkeypatch.delenv("EMU_STOP_EVERY_BLOCK", raising=False)  # C leaves to Python what meets a stop
    guest = Guest()
    monkeypatch.setattr(guest.cpu._delivery, "deliver", lambda *_: pytest.fail("delivered in Python"))
    guest.gate64(6, HANDLERS)
    guest.put(HANDLERS, b"\x48\x83\x04\x24\x02\x48\xcf")
    stop = guest.run_long(b"\x0f\x0b" * 3 + HLT)
    assert stop.kind is StopKind.HALT
    assert guest.cpu.rip == CODE + 8 + 7
    guest.close()
