"""What the laboratory makes of a Linux guest's words, and of whose stores count."""

from __future__ import annotations

import signal
import struct
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from emu import guest
from emu.api.crashes import linux_request
from emu.errors import Status, UsageError
from emu.linux.cpio import Tree, files
from emu.linux.protocol import KILLED, Message, Role, Stage
from emu.machine import Exit
from emu.persistence.lab.linux import CodePages, Talk, begin
from emu.persistence.lab.stacks import _Wanted, _Watch
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind, Store
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import build
from emu.persistence.report.programs import ProgramSymbols, _segments, build_id
from emu.persistence.report.symbols import load_symbols
from emu.units import PAGE

KERNEL, PROGRAM = 0xFFFFFFFF81000000, 0x401000
LINE = 0x1_0000_0000


class Machine:
    """Takes down how it is ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[object, ...]] = []
        self.stops = 0
        self.cpu = SimpleNamespace(request_stop=self._stop)

    def _stop(self) -> None:
        self.stops += 1

    def end(self, request: tuple[object, ...]) -> None:
        self.ends.append(tuple(request))


def talk(role: Role = Role.RECOVERY) -> tuple[Talk, Machine, bytearray]:
    printed = bytearray()
    made, machine = Talk(printed.extend, role), Machine()
    made.machine = machine  # type: ignore[assignment] # as far as the talk goes
    return made, machine, printed


@pytest.mark.parametrize(
    ("argument", "reason", "status", "code"),
    [
        (0, "exit-status", 0, 0),
        (3, "exit-status", 7, 3),
        (128, "exit-status", 1, 128),
        (KILLED | signal.SIGSEGV, "signal", Status.GUEST_CRASHED, signal.SIGSEGV),
    ],
)
def test_a_command_ends_the_machine(argument: int, reason: str, status: int, code: int) -> None:
    made, machine, _ = talk()
    made.said(Message.ENDED, argument)
    ((said, how, value, detail, _),) = machine.ends
    assert (said, how, value) == (reason, status, code)
    assert ("SIGSEGV" in str(detail)) == (reason == "signal")


def test_a_status_that_is_not_zero_never_becomes_one_that_is() -> None:
    for status in range(1, 256):
        made, machine, _ = talk()
        made.said(Message.ENDED, status)
        assert machine.ends[0][1] != 0


def test_a_mount_that_fails_is_named() -> None:
    made, machine, _ = talk()
    made.said(Message.FAILED, ord(Stage.MOUNT) | 117 << 8)
    assert machine.ends[0][:3] == ("mount-failed", Status.GUEST_CRASHED, 117)


@pytest.mark.parametrize("reason", ["mount-failed", "no-device", "init-failed"])
def test_a_guest_that_does_not_come_to_its_command_is_refused(tmp_path: Path, reason: str) -> None:
    """Nothing was recorded, so there is nothing to judge."""
    made, _, _ = talk()
    machine, scene = MagicMock(), MagicMock(folder=tmp_path)
    end = Exit(reason, Status.GUEST_CRASHED, 117, detail="init ended with error 117")
    with pytest.raises(UsageError, match="did not come to its command: init ended with error 117"):
        begin(machine, scene, made, lambda _reached: end)


def test_an_oops_is_no_end_of_the_command() -> None:
    made, machine, printed = talk()
    made.outputs.serial(b"[    1.25] BUG: kernel NULL pointer dereference, address: 0\r\n")
    assert machine.ends[0][0] == "oops"
    assert "NULL pointer dereference" in str(machine.ends[0][3])
    assert b"BUG" in printed


def test_a_setup_that_has_ended_still_unmounts() -> None:
    made, machine, _ = talk(Role.SETUP)
    made.said(Message.ENDED, 0)
    assert not machine.ends


def test_the_message_that_is_awaited_stops_the_machine() -> None:
    made, machine, _ = talk()
    reached = made.await_message(Message.SNAPSHOT, Role.WORKLOAD)
    made.said(Message.MOUNTED, 0)
    assert not reached
    made.said(Message.SNAPSHOT, 0)
    assert reached
    assert machine.stops == 1
    assert made.role() == Role.WORKLOAD


@pytest.mark.parametrize(("execute", "recover"), [(None, "true"), ("true", None)])
def test_both_commands_are_needed(execute: str | None, recover: str | None) -> None:
    with pytest.raises(UsageError, match="needs --exec" if execute is None else "needs --recover"):
        linux_request(execute=execute, recover=recover, setup=None, kernel=None, file_system=None, added=())


# Whose stores can be lost


def one(pc: int, at: int, value: int) -> Store:
    return Store(LINE + at, bytes([value]) * 8, False, False, pc)


def eager(events: list[Event], rules: Rules) -> list[int]:
    return [point.eager for point in build(events, rules).points]


def test_with_scope_program_the_kernels_stores_are_never_lost() -> None:
    fence = Fence(FenceKind.SFENCE, False, PROGRAM)
    flushes = [Flush(LINE, FlushKind.CLWB, PROGRAM), Flush(LINE + 64, FlushKind.CLWB, KERNEL)]
    events: list[Event] = [one(PROGRAM, 0, 1), one(KERNEL, 64, 2), *flushes, fence]
    assert eager(events, Rules())[0] == 4
    assert eager(events, Rules(trusted_from=1 << 47))[0] == 2


def test_a_store_by_the_kernel_takes_along_what_waits_in_its_line() -> None:
    events = [one(PROGRAM, 0, 1), one(KERNEL, 8, 2)]
    points = build(events, Rules(trusted_from=1 << 47)).points
    assert [(point.event, point.eager) for point in points] == [(1, 2), (2, 1)]


def test_the_kernels_own_stores_make_no_crash_points() -> None:
    events = [one(KERNEL, 64 * n, 1) for n in range(20)]
    assert [point.event for point in build(events, Rules(trusted_from=1 << 47)).points] == [20]


# Names


def test_names_come_from_the_file_that_a_page_of_code_is_of() -> None:
    image = guest.find("commit-noflush")
    assert image is not None
    path = Path(image.path)
    data = path.read_bytes()
    symbols = load_symbols(str(path))
    start, _, name = next(entry for entry in symbols._functions if entry[2] == "main")
    tree = Tree()
    tree.file(str(path), data, executable=True)
    offset = data.find(_code_at(data, start))
    content = data[offset & -PAGE :][:PAGE].ljust(PAGE, b"\0")
    loaded = 0x7F00_0000_0000
    found = ProgramSymbols({loaded: frozenset([content])}, tree.archive(), None)
    place = found.find(loaded + offset % PAGE)
    assert place == symbols.find(start)
    assert place.symbol == name
    assert found.find(loaded + PAGE).symbol == ""


def test_programs_at_one_address_are_told_apart_or_not_named() -> None:
    tree, first_pages = Tree(), {}
    for name in ("commit-noflush.elf", "linux-init", "list-broken.elf"):
        path = Path(guest.__file__).with_name("images") / name
        data = path.read_bytes()
        tree.file(str(path), data, executable=True)
        first = next(segment for segment in _segments(data) if segment.kind == 1 and segment.flags & 1)
        # A page of functions: the first of an image is what starts it.
        first_pages[name] = data[first.offset + PAGE :][:PAGE].ljust(PAGE, b"\0")
    named, without, other = first_pages.values()

    def name_at(*contents: bytes) -> str:
        return ProgramSymbols({PROGRAM: frozenset(contents)}, tree.archive(), None).find(PROGRAM + 0x20).symbol

    assert name_at(named)
    assert name_at(without) == ""
    assert name_at(named, without) == name_at(named)
    assert name_at(other) not in ("", name_at(named))
    assert name_at(named, other) == ""


def test_stripped_code_is_named_by_its_file_and_the_place_in_it() -> None:
    tree, path = Tree(), Path(guest.__file__).with_name("images") / "linux-init"
    data = path.read_bytes()
    tree.file(str(path), data, executable=True)
    first = next(segment for segment in _segments(data) if segment.kind == 1 and segment.flags & 1)
    start = first.offset & -PAGE
    content = data[start : start + PAGE].ljust(PAGE, b"\0")
    found = ProgramSymbols({PROGRAM: frozenset([content])}, tree.archive(), None)
    assert found.find(PROGRAM + 0x20).symbol == f"linux-init+{first.address + start - first.offset + 0x20:#x}"
    assert found.find(PROGRAM + PAGE).symbol == ""


def test_headers_that_claim_more_than_there_is_are_read_as_far_as_that() -> None:
    """A program is anybody's: segments of 2^62 bytes, as many as can be said, and notes without end."""
    header = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<QQIHHH", 64, 0, 0, 64, 56, 0xFFFF)
    load, note = (struct.pack("<IIQQQQ", kind, 1, 0, 0, 0, 1 << 62).ljust(56, b"\0") for kind in (1, 4))
    data = header.ljust(64, b"\0") + (load + note) * 600 + bytes(64 * PAGE)
    tree, page = Tree(), b"\x90" * PAGE
    tree.file("/bin/bomb", data, executable=True)
    assert ProgramSymbols({PROGRAM: frozenset([page])}, tree.archive(), None).find(PROGRAM).symbol == ""
    assert build_id(data) == ""


def _code_at(data: bytes, address: int) -> bytes:
    for segment in _segments(data):
        if segment.kind == 1 and 0 <= address - segment.address < segment.size:
            return data[segment.offset + address - segment.address :][:64]
    raise AssertionError("the function lies in no segment")


def test_files_of_an_archive() -> None:
    tree = Tree()
    tree.file("/a/b", b"12345", executable=True)
    tree.link("/c", "/a/b")
    assert list(files(tree.archive())) == [("/a/b", b"12345")]


def test_code_is_kept_as_it_was_and_the_kernels_is_not() -> None:
    pages = CodePages()
    pages.see(PROGRAM + 0xFFE, 4, lambda address, size: b"\x90" * size)
    pages.see(KERNEL, 4, lambda address, size: b"\x90" * size)
    assert sorted(pages.pages) == [PROGRAM, PROGRAM + PAGE]
    assert pages.instruction(PROGRAM + 8) == "nop"
    pages.see(PROGRAM, 1, lambda address, size: b"\xcc" * size)
    assert pages.instruction(PROGRAM + 8) == ""


ENTERED, CODE = 0x401234, b"\x90" * 0x232 + b"\x0f\x05"
KERNEL_STACK = 0xFFFF_C900_0000_8000


@pytest.mark.parametrize(
    ("cs", "rip", "seen_at"),
    [
        (0x33, ENTERED, ENTERED - 2),
        (0x33, ENTERED + 4, ENTERED + 4),
        (0, 0, None),
        (0x10, ENTERED, None),
        (0x33, 0x9000, None),
    ],
    ids=["a system call", "a page fault", "a kernel thread", "an interrupt of the kernel", "code that was never seen"],
)
def test_what_the_kernel_stores_is_shown_where_the_program_entered_it(cs: int, rip: int, seen_at: int | None) -> None:
    """Documentation/arch/x86/kernel-stacks.rst: a thread's stack ends with what the entry has kept."""
    end = KERNEL_STACK + 0x4000
    kept = struct.pack("<21Q", *range(15), 1, rip, cs, 0x202, 0x7FFE_0000, 0x2B)
    memory = {end - len(kept): kept, ENTERED & -PAGE: CODE.ljust(PAGE, b"\xcc"), 0x7FFE_0000: bytes(PAGE)}

    def read_linear(address: int, size: int) -> bytes:
        for start, data in memory.items():
            if 0 <= address - start <= len(data) - size:
                return data[address - start : address - start + size]
        raise UsageError("nothing is there", "look elsewhere")

    registers = {"rsp": KERNEL_STACK + 0x1F00, "rip": KERNEL}
    cpu = SimpleNamespace(registers=lambda: registers, read_linear=read_linear)
    watch = _Watch(SimpleNamespace(cpu=cpu), MagicMock(), {KERNEL: [_Wanted(0, 0, False)]}, {ENTERED & -PAGE})  # type: ignore[arg-type]
    found = watch._look(KERNEL)
    if seen_at is None:
        assert (found.pc, found.registers, found.pages) == (KERNEL, registers, None)
    else:
        assert (found.pc, found.registers["rsp"], found.registers["rbx"]) == (seen_at, 0x7FFE_0000, 5)
        assert found.pages == {ENTERED & -PAGE: memory[ENTERED & -PAGE]}
        assert found.stack == bytes(PAGE)
