"""The log of a recorded run explains the memory that the run left, whatever stored there; else there is no verdict."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import capstone
import pytest

from emu.cli.main import main
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.cpu.engine._trace import lib
from emu.cpu.instructions import NON_TEMPORAL
from emu.cpu.sites import PAGING, SPECIALS, SiteKind
from emu.errors import Status
from emu.machine import Exit, Machine
from emu.persistence.lab import log_events, recorder
from emu.persistence.lab.explained import UnexplainedMemory
from emu.persistence.lab.investigation import Question, investigate
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.workload import Workload, record
from emu.persistence.model.columns import Events, Writer
from emu.persistence.model.events import Event, Fence, LabelWrite, Store, WriteBack, WriteBackKind
from emu.units import MIB, PAGE
from tests.fuzzing import times
from tests.random_stores import BASE, LARGE, PRESENT, SIZE, TABLES, Programs, scattered

CODE = 0x100000
HALT = b"\xf4"
ACCESSED, DIRTY = 0x20, 0x40


def run(tmp_path: Path, code: bytes, content: bytes | None = None, **options: object) -> Workload:
    image = tmp_path / "guest.bin"
    image.write_bytes(code)
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=SIZE)
    if content is not None:
        file = tmp_path / "pool.img"
        file.write_bytes(content)
        backend = BackendConfig(id="m", path=str(file), size=len(content))
    config = MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)
    return record(config, **options)  # type: ignore[arg-type]


def stores(workload: Workload) -> list[tuple[int, bytes]]:
    return [(event.address - BASE, event.data) for event in workload.events if isinstance(event, Store)]


# Random programs


def instructions(code: bytes) -> dict[int, tuple[list[str], str]]:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found, at = {}, 0
    while at < len(code):
        for address, length, mnemonic, operands in decoder.disasm_lite(code[at:], CODE + at):
            found[address] = (mnemonic.split(), operands)
            at = address - CODE + length
        if at < len(code):  # an encoding of SFENCE that Capstone does not know
            assert code[at : at + 2] == b"\x0f\xae"
            at += 3
    return found


def check_events(events: Sequence[Event], code: bytes) -> None:
    """Each store names the instruction that made it, in program order, and is what that instruction makes."""
    known, last = instructions(code), 0
    for event in events:
        if isinstance(event, Store):
            words, operands = known[event.pc]
            assert event.pc >= last, f"{words} {operands} at {event.pc:#x} after {last:#x}"
            assert event.nt == (words[-1] in NON_TEMPORAL), words
            assert event.locked == ("lock" in words or (words[-1] == "xchg" and "[" in operands)), words
            last = event.pc


@pytest.mark.fuzz
@pytest.mark.parametrize("first", range(0, times(60), 20))
def test_random_programs(tmp_path: Path, first: int) -> None:
    made = 0
    for seed in range(first, first + 20):
        code = Programs(seed).program(60)
        workload = run(tmp_path, code)
        assert (workload.ended.reason, workload.doubts) == ("halt", ()), seed
        check_events(workload.events, code)
        made += len(stores(workload))
    assert made > 800


@pytest.mark.fuzz
@pytest.mark.parametrize("first", range(0, times(40), 20))
def test_random_programs_under_scattered_pages(tmp_path: Path, first: int) -> None:
    """Stores that cross a page go on anywhere; and the page tables, which the CPU marks, are in the NVDIMM too."""
    for seed in range(first, first + 20):
        code = Programs(seed).program(60, cr3=BASE + TABLES)
        workload = run(tmp_path, code, scattered(random.Random(seed)))
        assert workload.ended.reason == "halt", (seed, workload.ended)
        marks = [data for offset, data in stores(workload) if offset >= TABLES]
        assert marks
        assert all(data[0] & ACCESSED for data in marks)


# What no instruction's hook sees

RAX, RSP = 0, 4
HANDLERS, IDT, POINTERS, USER_CODE = CODE + 0x800, CODE + 0x1000, CODE + 0x2000, CODE + 0x3000
GDT, TSS, STACK = 0x8000, 0x9000, 0x6000  # offsets in the NVDIMM
KERNEL, DATA, TASK, CODE_32, USER, USER_DATA = 0x08, 0x10, 0x18, 0x28, 0x30, 0x38
DESCRIPTORS = {
    KERNEL: 0x00AF9A000000FFFF,
    DATA: 0x00CF92000000FFFF,
    TASK: 0x0000890000000067 | (BASE + TSS & 0xFFFFFF) << 16,
    TASK + 8: BASE + TSS >> 32,
    CODE_32: 0x00CF9A000000FFFF,
    USER: 0x00AFFA000000FFFF,
    USER_DATA: 0x00CFF2000000FFFF,
}
LGDT, LIDT = (bytes((0x0F, 0x01, 0x04 | which << 3, 0x25)) + struct.pack("<I", POINTERS + 16 * (which - 2))
              for which in (2, 3))  # fmt: skip
RELOAD_CS = (
    b"\x6a" + bytes([KERNEL]) + b"\x48\x8d\x05\x03\x00\x00\x00\x50\x48\xcb"
)  # push; lea rax, behind; push; retfq


def mov(register: int, value: int) -> bytes:
    return bytes((0x48, 0xB8 | register)) + struct.pack("<Q", value)


def guest(code: bytes, *, handler: bytes = HALT, user: bytes = b"") -> bytes:
    """An image that executes ``code``; every exception and interrupt ends in ``handler``."""
    gate = struct.pack("<HHBBHII", HANDLERS & 0xFFFF, KERNEL, 0, 0x8E, HANDLERS >> 16, 0, 0)
    pointers = struct.pack("<HQ6xHQ6x", 0x7F, BASE + GDT, 0xFFF, IDT)
    return code.ljust(0x800, b"\x90") + handler.ljust(0x800, b"\x90") + gate * 256 + pointers.ljust(0x1000) + user


def content(tables: dict[int, dict[int, int]] | None = None) -> bytes:
    """An NVDIMM with a GDT, a task state segment whose stack is in it, and page tables (at TABLES, by their number)."""
    made = bytearray(2 * SIZE)
    for selector, descriptor in DESCRIPTORS.items():
        struct.pack_into("<Q", made, GDT + selector, descriptor)
    struct.pack_into("<Q", made, TSS + 4, BASE + STACK)
    for number, entries in (tables or {}).items():
        for at, entry in entries.items():
            struct.pack_into("<Q", made, TABLES + number * PAGE + 8 * at, entry)
    return bytes(made)


def table(number: int) -> int:
    return BASE + TABLES + number * PAGE


def everything_for_the_user(present: int) -> dict[int, dict[int, int]]:
    """Linear 0-2 MiB as it is, and the first 2 MiB of the NVDIMM at 4 GiB and at 1 GiB."""
    large = {0: BASE | present | LARGE}
    return {
        0: {0: table(1) | present},
        1: {0: table(2) | present, 1: table(3) | present, 4: table(4) | present},
        2: {0: present | LARGE},
        3: large,
        4: {**large, 1: BASE + SIZE | present | LARGE},
    }


ENTER = LGDT + mov(RSP, CODE + 0x7F0) + RELOAD_CS + LIDT
TO_NVDIMM_STACK = mov(RSP, BASE + 0x1000)


def test_exception_frames(tmp_path: Path) -> None:
    """INT3, and UD2 that its handler steps over, with a stack in the NVDIMM."""
    code = ENTER + TO_NVDIMM_STACK
    trap = CODE + len(code) + 1
    workload = run(tmp_path, guest(code + b"\xcc" + HALT, handler=b"\x48\xcf"), content())
    assert workload.ended.reason == "halt"
    flags, stack = 0x2, (BASE + 0x1000, DATA)
    (frame,) = [data for offset, data in stores(workload) if offset == 0x1000 - 40]
    rip, selector, found, rsp, _ = struct.unpack("<5Q", frame)
    assert (rip, selector, found & ~0xD4, rsp) == (trap, KERNEL, flags, stack[0])
    step_over = b"\x48\x83\x04\x24\x02\x48\xcf"  # add qword ptr [rsp], 2; iretq
    workload = run(tmp_path, guest(code + b"\x0f\x0b" + HALT, handler=step_over), content())
    assert workload.ended.reason == "halt"
    assert [offset for offset, _ in stores(workload)][-2:] == [0x1000 - 40, 0x1000 - 40]
    assert stores(workload)[-1][1] == struct.pack("<Q", trap + 1)


def test_marks_in_descriptors(tmp_path: Path) -> None:
    """A load of DS marks its descriptor as accessed, LTR the task as busy."""
    load = b"\xb8\x10\x00\x00\x00\x8e\xd8" + b"\xb8\x18\x00\x00\x00\x0f\x00\xd8"
    workload = run(tmp_path, guest(ENTER + load + HALT), content())
    assert workload.ended.reason == "halt"
    assert [(offset, data[-3]) for offset, data in stores(workload)] == [(GDT + DATA + 4, 0x93), (GDT + TASK + 4, 0x8B)]


def test_marks_in_page_tables_come_before_the_store(tmp_path: Path) -> None:
    code = mov(RAX, table(0)) + b"\x0f\x22\xd8" + mov(1, BASE + 0x40) + b"\x48\x89\x01" + HALT
    workload = run(tmp_path, code, content(everything_for_the_user(PRESENT)))
    found = stores(workload)
    assert found[-1] == (0x40, struct.pack("<Q", table(0)))
    marks = {offset: data[0] for offset, data in found[:-1]}
    assert marks[TABLES + 4 * PAGE] == PRESENT | LARGE | ACCESSED | DIRTY
    assert marks[TABLES] == PRESENT | ACCESSED


def test_frames_and_marks_of_a_delivery(tmp_path: Path) -> None:
    """The stack of the exception lies in a page that nothing has touched: the delivery marks it, then stores."""
    code = ENTER + mov(RAX, table(0)) + b"\x0f\x22\xd8" + mov(RSP, BASE + SIZE + 2 * MIB) + b"\xcc" + HALT
    workload = run(tmp_path, guest(code), content(everything_for_the_user(PRESENT)))
    assert workload.ended.reason == "halt"
    *_, mark, frame = stores(workload)
    assert (mark[0], mark[1][0]) == (TABLES + 4 * PAGE + 8, PRESENT | LARGE | ACCESSED | DIRTY)
    assert (frame[0], len(frame[1])) == (2 * SIZE - 40, 40)


def test_code_of_32_bits(tmp_path: Path) -> None:
    """PUSHA, pushes of segments and a far call, with a stack in the NVDIMM, at 1 GiB."""
    narrow = CODE + 0x400
    to_32 = b"\x68" + struct.pack("<I", CODE_32) + b"\x68" + struct.pack("<I", narrow) + b"\x48\xcb"
    code = (ENTER + mov(RAX, table(0)) + b"\x0f\x22\xd8" + to_32).ljust(0x400, b"\x90")
    far = b"\x9a" + struct.pack("<IH", narrow + 0x40, CODE_32)
    code += b"\xb8\x10\x00\x00\x00\x8e\xd0\xbc\x00\x10\x00\x40"  # ss = data; esp = 1 GiB + 4096
    code += (b"\x60\x66\x60\x06\x66\x06" + far).ljust(0x34, b"\x90") + HALT
    workload = run(tmp_path, guest(code), content(everything_for_the_user(PRESENT)))
    assert (workload.ended.reason, workload.ended.detail) == ("halt", "")
    found = [(offset, len(data)) for offset, data in stores(workload) if offset < 0x1000]
    assert found == [(0xFE0, 32), (0xFD0, 16), (0xFCC, 4), (0xFCA, 2), (0xFC2, 8)]


# An instruction that faults has done nothing


@pytest.mark.parametrize(
    "code",
    [
        b"\xf0\x48\xff\x00",  # lock inc qword ptr [rax]
        b"\x48\x87\x00",  # xchg
        b"\x0f\xae\x38",  # clflush
        b"\x66\x0f\xae\x38",  # clflushopt
        b"\x66\x0f\xae\x30",  # clwb
        b"\x66\x0f\xae\xf8",  # pcommit: #UD
        b"\x0f\x38\xf9\x08",  # movdiri: #UD
        b"\x66\x0f\x38\xf8\x08",  # movdir64b: #UD
        b"\xf0\x0f\xae\x38",  # clflush with LOCK: #UD
        b"\xf3\x0f\xae\x38",  # with REP: #UD
    ],
)
def test_what_faults_is_no_event(tmp_path: Path, code: bytes) -> None:
    absent = mov(RAX, 3 << 30)
    before = b"\x0f\xae\xf8"
    tables = mov(RAX, table(0)) + b"\x0f\x22\xd8"
    workload = run(
        tmp_path, guest(ENTER + tables + before + absent + code + b"\xf8"), content(everything_for_the_user(PRESENT))
    )
    assert workload.ended.reason == "halt"
    assert [type(event) for event in workload.events if not isinstance(event, Store)] == [Fence]
    assert not workload.doubts


def test_wbinvd_is_for_the_kernel(tmp_path: Path) -> None:
    enter_user = b"".join(b"\x68" + struct.pack("<I", value) for value in (USER_DATA | 3, 0, 2, USER | 3, USER_CODE))
    code = ENTER + mov(RAX, table(0)) + b"\x0f\x22\xd8" + b"\xb8\x18\x00\x00\x00\x0f\x00\xd8" + enter_user + b"\x48\xcf"
    workload = run(tmp_path, guest(code, user=b"\x0f\x09\xf4"), content(everything_for_the_user(7)))
    assert workload.ended.reason == "halt"
    assert not any(isinstance(event, WriteBack) for event in workload.events)
    offset, frame = stores(workload)[-1]
    error, rip = struct.unpack_from("<2Q", frame)
    assert (offset, error, rip) == (STACK - 48, 0, USER_CODE)


# A log that is wrong


PROGRAM = mov(3, BASE) + b"\x48\x89\x03\x48\x89\x43\x40" + HALT  # mov rbx, NVDIMM; mov [rbx], rax; mov [rbx + 64], rax


def spoil(change: Callable[[Store], list[Store]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the recorder report ``change(store)`` for the store at offset 64."""
    honest, in_columns = log_events.numbered_events, log_events.columns

    def spoilt(numbered: Iterable[tuple[int, Event]]) -> Iterator[tuple[int, Event]]:
        for number, event in numbered:
            if isinstance(event, Store) and event.address == BASE + 64:
                yield from ((number, other) for other in change(event))
            else:
                yield number, event

    def spoilt_columns(log: bytes, label_writes: Sequence[LabelWrite] = ()) -> tuple[Events, array[int]]:
        events, entries = in_columns(log, label_writes)
        written, found = Writer(), list(spoilt(zip(entries, events, strict=True)))
        for _, event in found:
            written.append(event)
        return written.events(), array("Q", (entry for entry, _ in found))

    monkeypatch.setattr(recorder, "numbered_events", lambda *log: spoilt(honest(*log)))
    monkeypatch.setattr(recorder, "columns", spoilt_columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda store: [], "at offset 0x40 of NVDIMM 0 it says 0x00, the memory holds 0x88, no logged store"),
        (
            lambda store: [store._replace(data=store.data[::-1])],
            "0x11, the memory holds 0x88, last stored by the instruction at 0x100017 .event 1.",
        ),
        (lambda store: [store._replace(data=store.data[:7])], "at offset 0x47 of NVDIMM 0 it says 0x00"),
        (lambda store: [store, store._replace(address=BASE + 0x1000)], "at offset 0x1000 of NVDIMM 0 it says 0x88"),
    ],
)
def test_a_wrong_log_gives_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Store], list[Store]], message: str
) -> None:
    spoil(change, monkeypatch)
    with pytest.raises(UnexplainedMemory, match=message) as caught:
        run(tmp_path, mov(RAX, 0x1122334455667788) + PROGRAM)
    assert caught.value.status == Status.BUG


def test_the_command_ends_with_status_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(lambda store: [], monkeypatch)
    image, pool = tmp_path / "guest.bin", tmp_path / "pool.img"
    image.write_bytes(mov(RAX, 1) + PROGRAM)
    for words in (["crash"], ["run", "--power-fail-at", "1"], ["run", "--power-fail-at", "5"]):
        assert main([*words, str(image), "--nvdimm", f"file={pool},size=2M"]) == 8
        told = capfd.readouterr()
        assert told.out == ""
        assert "does not explain the memory: at offset 0x40 of NVDIMM 0" in told.err
        assert not pool.exists() or not any(pool.read_bytes())


@pytest.mark.parametrize("by_hooks", [False, True])
@pytest.mark.parametrize("reload", [True, False])
def test_page_tables_that_are_linked_without_a_load_of_cr3(tmp_path: Path, reload: bool, by_hooks: bool) -> None:
    """A limit of hooks that the docs name: they look for tables when CR3 is loaded. What they miss ends in status 8."""
    tables = 0x400000  # in RAM: PML4, its PDPT, that one's page directory

    def put(address: int, value: int) -> bytes:
        return mov(RAX, value) + b"\x48\x89\x04\x25" + struct.pack("<I", address)  # mov [address], rax

    def load_cr3() -> bytes:
        return mov(RAX, tables) + b"\x0f\x22\xd8"

    code = (
        put(tables, tables + PAGE | PRESENT) + put(tables + PAGE, tables + 2 * PAGE | PRESENT)
        + put(tables + 2 * PAGE, PRESENT | LARGE) + put(tables + 2 * PAGE + 16, tables | PRESENT | LARGE)
        + load_cr3() + put(tables + PAGE + 8 * 4, BASE + TABLES | PRESENT)  # 4 GiB: a page directory in the NVDIMM
        + (load_cr3() if reload else b"")
        + mov(3, BASE) + b"\x48\x89\x43\x40" + HALT  # mov [rbx + 40h], rax
    )  # fmt: skip
    content = bytes(TABLES) + struct.pack("<Q", BASE | PRESENT | LARGE) + bytes(SIZE - 8)
    if by_hooks and not reload:
        with pytest.raises(UnexplainedMemory, match=f"at offset {TABLES:#x}"):
            run(tmp_path, code, content, by_hooks=True)
    else:
        assert (TABLES, bytes([PRESENT | LARGE | ACCESSED | DIRTY])) in [
            (offset, data[:1]) for offset, data in stores(run(tmp_path, code, content, by_hooks=by_hooks))
        ]


def test_recorded_recoveries_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "guest.bin"
    image.write_bytes(b"\x48\xa1" + struct.pack("<Q", BASE) + PROGRAM)  # mov rax, [NVDIMM], which is in doubt
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=SIZE)
    config = MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)
    recovery = MachineRecovery(config, record=True)
    try:
        for value in (7, 9):
            found = recovery.run(frozenset((BASE,)), lambda unit, mask, value=value: value)  # type: ignore[misc]
            assert [event.data[0] for _, event in found.trace if isinstance(event, Store)] == [value, value]
        spoil(lambda store: [], monkeypatch)
        with pytest.raises(UnexplainedMemory, match="at offset 0x40 of NVDIMM 0 it says 0x00, the memory holds 0x09"):
            recovery.run(frozenset((BASE,)), lambda unit, mask: 9)
    finally:
        recovery.close()


def test_a_store_that_nobody_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found wherever it is: all pages that were written to are compared, and the kernel says which those are."""
    honest = Machine.run

    def run_and_store(machine: Machine, timeout: float | None = None) -> Exit:
        machine.nvdimms[0].backend.mapping.view[SIZE - 1] = 7
        return honest(machine, timeout)

    monkeypatch.setattr(Machine, "run", run_and_store)
    with pytest.raises(UnexplainedMemory, match="at offset 0x1fffff of NVDIMM 0 it says 0x00, the memory holds 0x07"):
        run(tmp_path, PROGRAM)


def test_numbers_that_c_knows_too() -> None:
    assert SPECIALS.index(PAGING) == lib.EMU_SPECIAL_PAGING
    assert [int(kind) for kind in (SiteKind.FLUSH, SiteKind.REP, SiteKind.SPECIAL)] == [
        lib.EMU_SITE_FLUSH, lib.EMU_SITE_REP, lib.EMU_SITE_SPECIAL,
    ]  # fmt: skip
    assert SPECIALS[: len(WriteBackKind)] == tuple(WriteBackKind)


# Recovery reads as the workload stored


@pytest.mark.parametrize("places", [(BASE + 5 * PAGE, BASE + 2 * PAGE), (8 * MIB, BASE + 2 * PAGE), (BASE, 8 * MIB)])
def test_recovery_reads_across_scattered_pages(tmp_path: Path, places: tuple[int, int]) -> None:
    """A number that lies on two pages, of the NVDIMM or of RAM, is stored and never flushed. Recovery accepts all of it
    or nothing, so it fails where only one half persisted, and where one half is in RAM.
    """
    tables = CODE + 0x1000

    def page_table(entries: dict[int, int]) -> bytes:
        return b"".join(struct.pack("<Q", entries.get(number, 0)) for number in range(512))

    number, flag = mov(RAX, 0x1122334455667788), mov(3, BASE + PAGE - 4)
    work = number + b"\x48\x89\x03" + b"\x48\xc7\x83\x04\x10\x00\x00\x01\x00\x00\x00" + HALT  # mov [rbx], rax; flag
    judge = (
        b"\x48\x8b\x03\x48\x85\xc0\x74\x1b"  # mov rax, [rbx]; test; jz good
        + mov(1, 0x1122334455667788) + b"\x48\x39\xc8\x74\x0c"  # cmp rax, rcx; je good
        + b"\xb8\x01\x00\x00\x00\x66\xba\xf4\x00\xef\x90\x90"
        + HALT
    )  # fmt: skip
    load = mov(RAX, tables) + b"\x0f\x22\xd8" + flag
    # The flag, in the page behind, says that this is a recovery.
    branch = b"\x48\x83\xbb\x04\x10\x00\x00\x00\x0f\x85" + struct.pack("<i", len(work))
    code = (load + branch + work + judge).ljust(0x1000, b"\x90")
    code += page_table({0: tables + 0x1000 | PRESENT})
    code += page_table({0: tables + 0x2000 | PRESENT, 4: tables + 0x3000 | PRESENT})
    code += page_table({0: PRESENT | LARGE})
    code += page_table({0: tables + 0x4000 | PRESENT})
    code += page_table({0: places[0] | PRESENT, 1: places[1] | PRESENT, 2: BASE + 9 * PAGE | PRESENT})
    image = tmp_path / "guest.bin"
    image.write_bytes(code)
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=SIZE)
    config = MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=16 * MIB)
    answer = investigate(Question(config, config))
    assert answer.complete
    assert answer.failed
    halves = sum(place >= BASE for place in places)
    read = {result.leaf.verdict.ok for result in answer.exploration.results if result.leaf.verdict is not None}
    assert read == {True, False}
    assert answer.exploration.executed == 1 + 2**halves
