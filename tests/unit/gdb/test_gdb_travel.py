"""Back in time: every place in the past is as it was, stops are found in reverse, and nothing is said twice."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emu.cpu.debugging import BLOCK
from emu.gdb import travel
from emu.gdb.registers import REGISTERS
from tests.gdb_client import CODE, PMEM, Client
from tests.unit.gdb.debugged import Debugged, debugged

# mov rbx, PMEM; mov ecx, 6; loop: mov [rbx+rcx*8], rcx; mov al, 'A'-1; add al, cl; mov dx, 0x3f8; out dx, al;
# dec ecx; jnz loop; hlt
LOOP = bytes.fromhex("48bb0000000001000000b90600000048890ccbb04000c866baf803eeffc975eff4")
STORE = CODE + 15
PROLOGUE, TURN = 2, 7
FIRST = b"T05replaylog:begin;thread:01;"

Start = Callable[[bytes], tuple[Debugged, Client]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: bytes) -> tuple[Debugged, Client]:
            machine = stack.enter_context(debugged(tmp_path, code))
            client = machine.connect()
            stack.callback(client.close)
            return machine, client

        yield begin


@pytest.fixture(params=["one moment", "many moments"])
def moments(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many moments":
        monkeypatch.setattr(travel, "_FIRST_INTERVAL", BLOCK)
        monkeypatch.setattr(travel, "_NEAR", 2)


def look(gdb: Client) -> tuple[bytes, bytes]:
    """Registers and persistent memory."""
    return gdb.ask(b"g"), gdb.ask(b"m%x,40" % PMEM)


def turn(gdb: Client) -> int:
    """What RCX counts down."""
    number = next(n for n, register in enumerate(REGISTERS) if register.name == "rcx")
    return int.from_bytes(bytes.fromhex(gdb.ask(b"p%x" % number).decode()), "little")


@pytest.mark.usefixtures("moments")
def test_each_step_back_is_where_the_guest_was(start: Start) -> None:
    _, gdb = start(LOOP)
    was = [look(gdb)]
    for _ in range(PROLOGUE + 4 * TURN):
        gdb.ask(b"s")
        was.append(look(gdb))
    for expected in reversed(was[:-1]):
        assert gdb.ask(b"bs") == b"T05thread:01;"
        assert look(gdb) == expected
    assert gdb.ask(b"bs") == FIRST
    for expected in was[1:]:
        gdb.ask(b"s")
        assert look(gdb) == expected


@pytest.mark.usefixtures("moments")
def test_breakpoints_are_met_again_in_reverse(start: Start) -> None:
    _, gdb = start(LOOP)
    gdb.ask(b"Z0,%x,1" % STORE)
    was: dict[int, object] = {}
    for left in (6, 5, 4, 3):
        assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        assert turn(gdb) == left
        was[left] = look(gdb)
    for left in (4, 5, 6):
        assert gdb.ask(b"bc") == b"T05swbreak:;thread:01;"
        assert (gdb.rip, turn(gdb)) == (STORE, left)
        assert look(gdb) == was[left]
    assert gdb.ask(b"bc") == FIRST
    assert gdb.rip == CODE
    for left in (6, 5, 4, 3, 2, 1):
        assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        assert turn(gdb) == left
    assert gdb.ask(b"c") == b"W00"


@pytest.mark.usefixtures("moments")
def test_back_to_the_store_to_a_watched_word(start: Start) -> None:
    _, gdb = start(LOOP)
    gdb.ask(b"Z1,%x,1" % (CODE + len(LOOP) - 1))
    assert gdb.ask(b"c") == b"T05hwbreak:;thread:01;"
    gdb.ask(b"Z2,%x,8" % (PMEM + 4 * 8))
    assert gdb.ask(b"bc") == b"T05watch:%x;thread:01;" % (PMEM + 4 * 8)
    assert (gdb.rip, turn(gdb)) == (STORE, 4)
    assert gdb.ask(b"m%x,8" % (PMEM + 4 * 8)) == b"00" * 8
    assert gdb.ask(b"c") == b"T05watch:%x;thread:01;" % (PMEM + 4 * 8)
    assert gdb.ask(b"m%x,8" % (PMEM + 4 * 8)) == b"04" + b"00" * 7


@pytest.mark.usefixtures("moments")
def test_output_comes_once(start: Start) -> None:
    machine, gdb = start(LOOP)
    gdb.ask(b"Z0,%x,1" % STORE)
    for _ in range(4):
        gdb.ask(b"c")
    gdb.ask(b"bc")
    gdb.ask(b"bc")
    gdb.ask(b"z0,%x,1" % STORE)
    assert gdb.ask(b"c") == b"W00"
    assert machine.output == b"FEDCBA"


def test_what_the_debugger_changes_begins_a_new_past(start: Start) -> None:
    _, gdb = start(LOOP)
    for _ in range(5):
        gdb.ask(b"s")
    assert gdb.ask(b"M%x,1:7f" % PMEM) == b"OK"
    assert gdb.ask(b"bs") == FIRST
    here = look(gdb)
    gdb.ask(b"s")
    assert gdb.ask(b"bs") == b"T05thread:01;"
    assert look(gdb) == here


def test_what_is_typed_begins_a_new_past(start: Start) -> None:
    machine, gdb = start(LOOP)
    gdb.ask(b"s")
    com1 = machine.machine.devices["com1"]
    machine.machine.call(lambda: com1.receive(b"x"))  # type: ignore[attr-defined]  # COM1 is a UART
    assert gdb.ask(b"bs") == FIRST


def test_interrupts_come_at_the_same_instructions_again(start: Start) -> None:
    """The timer's handler counts; a count that came at another instruction would leave other registers."""
    gate, handler = 0x300000, CODE + 0x200
    setup = bytes.fromhex("48b8") + struct.pack("<Q", gate)  # mov rax, gate
    low = struct.pack("<HHBBH", handler & 0xFFFF, 0, 0, 0x8E, handler >> 16)
    code = (
        b"\x8c\xc9"  # mov ecx, cs
        + setup
        + b"\x48\xba" + low + b"\x48\xc1\xe1\x10\x48\x09\xca"  # mov rdx, gate; shl rcx, 16; or rdx, rcx
        + b"\x48\x89\x90\x00\x02\x00\x00"  # mov [rax + 0x20 * 16], rdx
        + b"\x66\xc7\x80\x00\x10\x00\x00\xff\x0f" + b"\x48\x89\x80\x02\x10\x00\x00"  # IDTR image
        + b"\x0f\x01\x98\x00\x10\x00\x00"  # lidt [rax + 0x1000]
        + bytes.fromhex("b011e620e6a0b020e621b028e6a1b004e621b002e6a1b001e621e6a1b0fee621b0ffe6a1")
        + bytes.fromhex("b034e643b0c8e640b000e640")  # channel 0, mode 2, 200 ticks
        + b"\xfb" + b"\x48\xff\xc3\xeb\xfb"  # sti; loop: inc rbx; jmp loop
    )  # fmt: skip
    isr = b"\x50\xb0\x20\xe6\x20\x58\x48\xff\x04\x25\x00\x00\x20\x00\x48\xcf"  # ack; inc qword [0x200000]; iretq
    _, gdb = start(code.ljust(0x200, b"\x90") + isr)
    gdb.ask(b"Z0,%x,1" % handler)
    seen = []
    for _ in range(4):
        assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        seen.append((gdb.ask(b"g"), gdb.ask(b"m200000,8")))
    for expected in reversed(seen[:-1]):
        assert gdb.ask(b"bc") == b"T05swbreak:;thread:01;"
        assert (gdb.ask(b"g"), gdb.ask(b"m200000,8")) == expected
    for expected in seen[1:]:
        gdb.ask(b"c")
        assert (gdb.ask(b"g"), gdb.ask(b"m200000,8")) == expected


def test_the_guest_runs_in_whole_blocks_while_it_is_debugged(tmp_path: Path) -> None:
    """Also with a breakpoint that is not met, and without a debugger; a step is one instruction all the same."""
    spin = bytes.fromhex("48ffc1" + "90" * 28 + "ebdf")  # loop: inc rcx; 28 times nop; jmp loop
    with debugged(tmp_path, spin, paused=False) as running:
        machine, debugging = running.machine, running.machine.debug()

        def looked() -> tuple[int, int]:
            return machine.call(lambda: (debugging.place // BLOCK, machine.cpu.registers()["rcx"]))

        def whole() -> bool:
            before, turns = looked()
            while (now := looked())[1] < turns + 1000:
                time.sleep(0.01)
            return abs((now[0] - before) - (now[1] - turns)) <= 1 and not machine.call(lambda: debugging._engine.single)

        assert whole()
        gdb = running.connect()
        gdb.ask(b"Z0,%x,1" % (CODE + 0x800))
        gdb.ask(b"s")
        here = look(gdb)
        before = gdb.rip
        gdb.ask(b"s")
        assert gdb.rip - before in (1, 3, -31)
        assert gdb.ask(b"bs").startswith(b"T05")
        assert look(gdb) == here
        gdb.send(b"c")
        assert whole()
        gdb.interrupt()
        gdb.receive()
        assert gdb.ask(b"D") == b"OK"
        assert whole()
        gdb.close()
