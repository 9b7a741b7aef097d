"""A debugger's packets, answered by a machine that runs: stops, memory, registers, ends, and rubbish."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emu.errors import UsageError
from emu.gdb.packets import encode
from emu.gdb.registers import REGISTERS, description
from emu.gdb.server import address
from emu.host.sockets import TcpAddress, UnixAddress
from emu.machine import RunState
from tests.gdb_client import CODE, PATIENCE_S, PMEM, RIP, Client
from tests.unit.gdb.debugged import Debugged, debugged

HLT = b"\xf4"
# mov rbx, PMEM; mov eax, 7; mov [rbx], rax; inc rax; mov [rbx+64], rax; hlt
STORES = bytes.fromhex("48bb0000000001000000b80700000048890348ffc048894340f4")
FIRST, SECOND, END = CODE + 15, CODE + 21, CODE + 25
LOOP = b"\x48\xff\xc0\xeb\xfb"  # inc rax; jmp back
SAY_3 = b"\xb0\x03\xe6\xf4\xeb\xfe"  # mov al, 3; out 0xf4, al; jmp $
REBOOT = b"\x66\xba\xf9\x0c\xb0\x06\xee\xeb\xfe"  # mov dx, 0xcf9; mov al, 6; out dx, al; jmp $
INVALID = b"\x90\x0f\x0b"

Start = Callable[..., tuple[Debugged, Client]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: bytes, *, paused: bool = True) -> tuple[Debugged, Client]:
            machine = stack.enter_context(debugged(tmp_path, code, paused=paused))
            client = machine.connect()
            stack.callback(client.close)
            return machine, client

        yield begin


def test_a_session_begins_before_the_first_instruction_in_the_64_bit_layout(start: Start) -> None:
    _, gdb = start(STORES)
    assert gdb.ask(b"?").startswith(b"T05")
    assert gdb.rip == CODE
    assert gdb.ask(b"qXfer:features:read:target.xml:0,3fff") == b"l" + description()
    assert len(gdb.ask(b"g")) == 2 * sum(register.size for register in REGISTERS)


def test_steps(start: Start) -> None:
    _, gdb = start(STORES)
    places = []
    for _ in range(5):
        assert gdb.ask(b"vCont;s:1") == b"T05thread:01;"
        places.append(gdb.rip)
    assert places == [CODE + 10, FIRST, FIRST + 3, SECOND, END]


@pytest.mark.parametrize(("kind", "word"), [(b"0", b"swbreak"), (b"1", b"hwbreak")])
def test_a_breakpoint(start: Start, kind: bytes, word: bytes) -> None:
    _, gdb = start(STORES)
    assert gdb.ask(b"Z%s,%x,1" % (kind, SECOND)) == b"OK"
    assert gdb.ask(b"c") == b"T05%s:;thread:01;" % word
    assert gdb.rip == SECOND
    assert gdb.ask(b"z%s,%x,1" % (kind, SECOND)) == b"OK"
    assert gdb.ask(b"c") == b"W00"


def test_a_watchpoint_on_persistent_memory(start: Start) -> None:
    machine, gdb = start(STORES)
    assert gdb.ask(b"Z2,%x,8" % (PMEM + 64)) == b"OK"
    assert gdb.ask(b"c") == b"T05watch:%x;thread:01;" % (PMEM + 64)
    assert gdb.rip == END
    assert gdb.ask(b"m%x,8" % (PMEM + 64)) == b"0800000000000000"
    assert machine.machine.state is RunState.DEBUG


def test_memory_is_read_as_far_as_it_is_mapped_and_written_whole_or_not_at_all(start: Start) -> None:
    machine, gdb = start(STORES)
    end = 16 << 20
    assert gdb.ask(b"m%x,10" % (end - 4)) == b"00" * 4
    assert gdb.ask(b"m%x,4" % end) == b"E01"
    assert gdb.ask(b"M%x,8:%s" % (end - 4, b"ff" * 8)) == b"E01"
    assert gdb.ask(b"m%x,4" % (end - 4)) == b"00" * 4
    assert gdb.ask(b"X%x,3:a#b" % PMEM) == b"OK"
    assert machine.machine.memory.read(PMEM, 3) == b"a#b"


def test_code_that_the_debugger_writes_is_executed(start: Start) -> None:
    _, gdb = start(LOOP)
    gdb.ask(b"s")
    assert gdb.ask(b"M%x,3:%s" % (CODE, b"f4f4f4")) == b"OK"
    gdb.ask(b"s")  # jmp back
    assert gdb.ask(b"c") == b"W00"


@pytest.mark.parametrize("name", ["rax", "r15", "rip", "eflags", "st3", "fctrl", "xmm7", "mxcsr"])
def test_a_register_is_written(start: Start, name: str) -> None:
    _, gdb = start(STORES)
    number = next(n for n, register in enumerate(REGISTERS) if register.name == name)
    value = {"eflags": (0x46).to_bytes(4, "little"), "mxcsr": (0x1F00).to_bytes(4, "little")}.get(
        name, (0x123).to_bytes(REGISTERS[number].size, "little")
    )
    before = gdb.ask(b"g")
    assert gdb.ask(b"P%x=%s" % (number, value.hex().encode())) == b"OK"
    assert gdb.ask(b"p%x" % number) == value.hex().encode()
    assert gdb.ask(b"G" + before) == b"OK"
    assert gdb.ask(b"g") == before


def test_control_registers_are_shown_and_take_what_can_be(start: Start) -> None:
    _, gdb = start(STORES)
    number = next(n for n, register in enumerate(REGISTERS) if register.name == "cr0")
    assert int.from_bytes(bytes.fromhex(gdb.ask(b"p%x" % number).decode()), "little") & 0x80000001 == 0x80000001
    assert gdb.ask(b"P%x=%s" % (number, b"00" * 8)) == b"E01"
    cr2 = number + 1
    assert gdb.ask(b"P%x=%s" % (cr2, b"1234" + b"00" * 6)) == b"OK"
    assert gdb.ask(b"p%x" % cr2) == b"1234" + b"00" * 6


def test_ctrl_c_stops_a_guest_that_runs(start: Start) -> None:
    _, gdb = start(LOOP)
    gdb.send(b"c")
    gdb.interrupt()
    assert gdb.receive() == b"T02thread:01;"
    assert gdb.rip in (CODE, CODE + 3)


def test_a_guest_that_runs_stops_when_a_debugger_comes(start: Start) -> None:
    machine, gdb = start(LOOP, paused=False)
    assert machine.machine.paused
    assert gdb.ask(b"?").startswith(b"T05")


def test_the_guests_end_is_told(start: Start) -> None:
    machine, gdb = start(SAY_3)
    assert gdb.ask(b"c") == b"W07"
    assert machine.ended().status == 7


def test_a_guest_that_dies_can_be_looked_at_and_then_ends(start: Start) -> None:
    machine, gdb = start(INVALID)
    assert gdb.ask(b"c") == b"T0bthread:01;"
    assert gdb.rip == CODE + 1
    assert gdb.ask(b"c") == b"W06"
    assert machine.ended().reason == "triple-fault"


def test_a_breakpoint_that_is_stepped_over_into_a_fault_is_not_met_again_behind_the_handler(start: Start) -> None:
    """gdb takes a breakpoint away, steps, and puts it back; the store faults, and is tried again."""
    absent, handler, frame = 0x7000_0000_0000, CODE + 0x100, 0x300000
    gate = struct.pack("<HHBBHII", handler & 0xFFFF, 0x8, 0, 0x8E, handler >> 16, 0, 0)
    code = bytes.fromhex("48bb") + struct.pack("<Q", absent)  # mov rbx, absent
    code += bytes.fromhex("0f011c25") + struct.pack("<I", frame)  # lidt [frame]
    store = CODE + len(code)
    code += bytes.fromhex("488903f4")  # mov [rbx], rax; hlt
    fix = (
        bytes.fromhex("4883c408bb") + struct.pack("<I", frame) + bytes.fromhex("48cf")
    )  # add rsp, 8; mov ebx, frame; iretq
    _, gdb = start(code.ljust(0x100, b"\x90") + fix)
    gdb.ask(b"X%x,a:" % frame + struct.pack("<HQ", 0xFFF, frame + 0x1000))
    gdb.ask(b"s")
    selector = int.from_bytes(bytes.fromhex(gdb.ask(b"p12").decode()), "little")
    gdb.ask(b"X%x,10:" % (frame + 0x1000 + 14 * 16) + gate[:2] + struct.pack("<H", selector) + gate[4:])
    gdb.ask(b"Z0,%x,1" % store)
    assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
    gdb.ask(b"z0,%x,1" % store)
    assert gdb.ask(b"s") == b"T05thread:01;"
    assert gdb.rip == handler
    gdb.ask(b"Z0,%x,1" % store)
    assert gdb.ask(b"c") == b"W00"


def test_a_breakpoint_outlives_a_reset(start: Start) -> None:
    _, gdb = start(REBOOT)
    gdb.ask(b"Z0,%x,1" % (CODE + 4))
    for _ in range(3):
        assert gdb.ask(b"c") == b"T05swbreak:;thread:01;"
        assert gdb.rip == CODE + 4


def test_kill_ends_the_run_and_detach_lets_it_go_on(start: Start, tmp_path: Path) -> None:
    machine, gdb = start(LOOP)
    gdb.send(b"k")
    assert machine.ended().reason == "quit"
    assert gdb.receive() == b""


def test_after_a_detach_the_guest_goes_on_past_breakpoints(start: Start) -> None:
    machine, gdb = start(SAY_3)
    gdb.ask(b"s")
    gdb.ask(b"bs")
    gdb.ask(b"Z0,%x,1" % (CODE + 2))
    assert gdb.ask(b"D") == b"OK"
    assert machine.ended().status == 7


def test_when_the_debugger_is_lost_the_guest_stays_and_another_one_may_come(start: Start) -> None:
    machine, gdb = start(STORES)
    gdb.ask(b"s")
    gdb.close()
    again = machine.connect()
    assert again.rip == CODE + 10
    again.close()


def test_monitor_words(start: Start) -> None:
    _, gdb = start(STORES)
    assert "monitor nvdimm" in gdb.monitor("help")
    assert "2 MiB at physical 0x100000000 to 0x1001fffff" in gdb.monitor("nvdimm")
    assert "there is no command 'frobnicate'" in gdb.monitor("frobnicate")
    gdb.ask(b"s")
    gdb.monitor("reset")
    assert gdb.rip == CODE


def test_a_debugger_that_loses_patience_without_acknowledgements_gets_no_answer_twice(start: Start) -> None:
    _, gdb = start(STORES)
    assert gdb.ask(b"qC") == b"QC01"
    gdb.socket.sendall(b"-")
    assert gdb.ask(b"?") == b"T05thread:01;"


def test_with_acknowledgements_a_lost_answer_is_sent_again(start: Start) -> None:
    machine, gdb = start(STORES)
    gdb.close()
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(PATIENCE_S)
        plain.connect(str(machine.path))
        plain.sendall(encode(b"qC"))
        answer = b"+" + encode(b"QC01")
        assert take(plain, len(answer)) == answer
        plain.sendall(b"-")
        assert take(plain, len(answer) - 1) == answer[1:]
        plain.sendall(b"$qC#00")
        assert take(plain, 1) == b"-"


def take(connection: socket.socket, size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        piece = connection.recv(size - len(taken))
        assert piece
        taken += piece
    return taken


_LETTERS = st.sampled_from([bytes([letter]) for letter in b"?gGpPmMXZzcsCSHTqQvR!"])
_RUNNING = (b"c", b"C", b"s", b"S", b"vCont", b"D", b"k", b"vKill")
_END = b"qC"
"""What is asked behind each packet, to see where its answers end; so it cannot be one of them."""


_PACKETS = st.lists(
    st.builds(
        bytes.__add__,
        _LETTERS,
        st.binary(max_size=30) | st.from_regex(rb"[0-9a-f]{1,20}[,:=;][0-9a-f:]*", fullmatch=True),
    ).filter(lambda packet: not packet.startswith((*_RUNNING, _END))),
    max_size=8,
)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One machine for all inputs."""
    with debugged(tmp_path_factory.mktemp("fuzz"), STORES) as machine:
        client = machine.connect()
        yield client
        client.close()


@given(packets=_PACKETS)
@example(
    packets=[b"m0,ffffffff", b"mffffffffffffffff,8", b"Z0,ffffffffffffffff,2", b"qRcmd,6", b"G00", b"P", b"qXfer:x"]
)
@settings(max_examples=60, deadline=None)
def test_any_packets_are_answered(session: Client, packets: list[bytes]) -> None:
    for packet in packets:
        session.send(packet)
        session.send(_END)
        answers = [session.receive()]
        while answers[-1] != b"QC01":  # behind the answer, and what a monitor command says
            answers.append(session.receive())
            assert answers[-1] != b"", packet
        assert len(answers) >= 2, packet


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (":1234", TcpAddress("127.0.0.1", 1234)),
        ("tcp::1234", TcpAddress("127.0.0.1", 1234)),
        ("tcp::1234,server,nowait", TcpAddress("127.0.0.1", 1234)),
        ("tcp:localhost:5", TcpAddress("localhost", 5)),
        ("unix:a.sock", UnixAddress("a.sock")),
        ("unix:a.sock,server=on,wait=off", UnixAddress("a.sock")),
    ],
)
def test_where_gdb_connects(text: str, where: object) -> None:
    assert address(text) == where


@pytest.mark.parametrize("text", ["1234", "", ":x", "unix:", "dev:/dev/tty", ":99999999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an address to listen at"):
        address(text)


def test_the_registers_of_the_layout_are_gdbs() -> None:
    assert [register.name for register in REGISTERS[: RIP + 2]] == [
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "eflags",
    ]  # fmt: skip
