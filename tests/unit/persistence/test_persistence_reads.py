"""Recovery that reads across two pages which lie apart in the NVDIMM, in all ways there are: each choice is seen."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.config import BackendConfig, BackendKind
from emu.guest.litmus import Step, assemble
from emu.persistence.lab.explore import Limits, Run
from emu.persistence.lab.investigation import Question, investigate
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.model.events import Fence, Store
from emu.units import PAGE
from tests.unit.persistence.paged_guest import (
    AT,
    BASE,
    BEHIND,
    PRESENT,
    SCRATCH,
    SHOW,
    SIZE,
    STACK,
    TABLES,
    WINDOW,
    image,
    machine,
    set_registers,
)

# Name: how many bytes are read, how many of them before the border, by what instruction from [rdi], and how these bytes
# get to [rsi].
LOADS = {
    "mov": (8, 4, "488b07", "488906"),
    "mov r32": (4, 2, "8b07", "8906"),
    "add": (8, 4, "31c0480307", "488906"),
    "and to memory": (8, 4, "48c7c0ffffffff482107", "488b07488906"),
    "xchg": (8, 4, "488707", "488906"),
    "movbe": (8, 4, "480f38f007", "480f38f106"),
    "movbe r16": (2, 1, "660f38f007", "660f38f106"),
    "push": (8, 4, "ff37", "8f06"),
    "pop": (8, 4, "4889fc58", "488906"),
    "popf": (8, 4, "4889fc9d", "488b07488906"),
    "leave": (8, 4, "4889fdc9", "48892e"),
    "enter": (8, 4, "488d6f08c8000002", "488b07488906"),
    "bt, far away": (4, 2, "4881ef00001000b8100080000fa307", "0f92c0c1e0108906"),
    "crc32": (8, 4, "31c0f2480f38f107", "488b07488906"),
    "lods": (8, 4, "4887fe48ad4887fe", "488906"),
    "movs": (8, 4, "4887fe48a5", ""),
    "rep movs": (8, 4, "4887feb908000000f3a4", ""),
    "cmps": (8, 4, "4887fe48a7", "488b46f8488947f8"),
    "scas": (8, 4, "48af", "488b47f8488906"),
    "lock xadd": (8, 4, "31c0f0480fc107", "488906"),
    "lock cmpxchg": (8, 4, "b8ffffff7ff0480fb10f", "488906"),
    "lock cmpxchg8b": (8, 4, "b8ffffff7ff00fc70f", "8906895604"),
    "fld m32": (4, 2, "d907", "d91e"),
    "fld m64": (8, 4, "dd07", "dd1e"),
    "fld m80": (10, 5, "db2f", "db3e"),
    "fild m16": (2, 1, "df07", "df1e"),
    "fild m32": (4, 2, "db07", "db1e"),
    "fild m64": (8, 4, "df2f", "df3e"),
    "fbld": (10, 5, "df27", "df36"),
    "fadd": (8, 4, "d9eedc07", "dd1e"),
    "fldcw": (2, 1, "d92f", "668b07668906"),
    "fldenv": (28, 1, "d927", "668b07668906"),
    "frstor": (108, 54, "dd27", "dd36"),
    "movq mm": (8, 4, "0f6f07", "0f7f06"),
    "movq xmm": (8, 4, "f30f7e07", "660fd606"),
    "movups": (16, 8, "0f1007", "0f1106"),
    "movdqu": (16, 5, "f30f6f07", "f30f7f06"),
    "lddqu": (16, 8, "f20ff007", "f30f7f06"),
    "movhps": (8, 4, "0f1607", "0f1706"),
    "movsd": (8, 4, "f20f1007", "f20f1106"),
    "pinsrq": (8, 4, "66480f3a220700", "660fd606"),
    "lgdt": (10, 5, "0f0117", "0f0106"),
    "ldmxcsr": (4, 1, "0fae17", "0fae1e"),
}  # fmt: skip
AREAS = {
    "fxrstor": (416, 176, "0fae0f", "0fae06"),
    # CR4.OSXSAVE, XCR0 = 3
    "xrstor": (576, 192, "0f20e00d000004000f22e031c931d2b8030000000f01d10fae2f", "0fae06"),
}
"""As LOADS; but not every byte need be read."""


@contextmanager
def recovery(path: Path, content: bytes, *, record: bool = False) -> Iterator[MachineRecovery]:
    path.write_bytes(content)
    made = MachineRecovery(machine(path), record=record, keep_shown=True)
    try:
        yield made
    finally:
        made.close()


def run(made: MachineRecovery, memory: Mapping[int, int]) -> tuple[Run, dict[int, int]]:
    """A recovery that finds ``memory``, and zeros, in an NVDIMM of which nothing is known; and what it read."""
    whole: dict[int, int] = {}
    for address, value in memory.items():
        whole[address & -8] = whole.get(address & -8, 0) | value << 8 * (address % 8)
    ran = made.run(frozenset(range(BASE, BASE + SIZE // 2, 8)), lambda unit, mask: whole.get(unit, 0) & mask)
    found: dict[int, int] = {}
    for unit, mask, value in ran.reads:
        for byte in range(8):
            if mask >> 8 * byte & 0xFF:
                assert unit + byte not in found
                found[unit + byte] = value >> 8 * byte & 0xFF
    return ran, found


@pytest.mark.parametrize("record", [False, True], ids=["plain", "recorded"])
def test_both_pages_of_a_load_are_asked_for(tmp_path: Path, record: bool) -> None:
    loads = LOADS | AREAS
    window = [BASE + page * PAGE for page in range(2 * len(loads))]
    random.Random(0).shuffle(window)
    code, places = b"", {}
    for number, (name, (size, before, load, keep)) in enumerate(loads.items()):
        border = WINDOW + (2 * number + 1) * PAGE
        first, second = window[2 * number : 2 * number + 2]
        places[name] = first + PAGE - before, second, second + size - before
        code += b"\xdb\xe3" + set_registers(rdi=border - before, rsi=SCRATCH, rsp=STACK, rcx=0)
        code += bytes.fromhex(load + keep) + set_registers(rsi=SCRATCH + before - 1)
        code += bytes.fromhex("66baf803 8a06ee 8a4601ee")  # what was loaded around the border goes to the serial port
    with recovery(tmp_path / "guest.bin", image(code, window), record=record) as made:
        for choice in range(4):
            memory, shown = dict[int, int](), b""
            for number, (start, second, _) in enumerate(places.values()):
                last, first = (number + choice) & 1, (number + choice) >> 1 & 1
                memory |= {start & -PAGE | PAGE - 1: last, second: first}
                shown += bytes((0 if "bt" in list(loads)[number] else last, first))
            memory[places["xrstor"][1] + 512 - 192] = 2  # XSTATE_BV: the area holds the SSE registers
            ran, found = run(made, memory)
            assert ran.verdict.ok, ran.verdict
            expected = set[int]()
            for name, (start, second, end) in places.items():
                border = start & -PAGE | PAGE - 1
                assert (found[border], found[second]) == (memory[border], memory[second]), name
                touched = {*range(start, border + 1), *range(second, end)}
                assert name in AREAS or touched <= found.keys(), name
                expected |= touched
            assert found.keys() <= expected
            assert made.shown == shown


def little(address: int, value: int, size: int = 8) -> dict[int, int]:
    return {address + n: byte for n, byte in enumerate(value.to_bytes(size, "little"))}


TABLE, DATA = BASE + 0x10000, BASE + 0x20000


@pytest.mark.parametrize("record", [False, True], ids=["plain", "recorded"])
@pytest.mark.parametrize("level", range(3))
def test_what_page_walks_read_is_asked_for(tmp_path: Path, level: int, record: bool) -> None:
    """Of three levels of page tables the last ones are in the NVDIMM, in pages whose content is in doubt."""
    linear = 1 << 39
    tables = [TABLE, TABLE + PAGE, TABLE + 2 * PAGE][level:]
    own = [0x210000, 0x211000, 0x212000][:level]
    path = [*own, *tables, DATA]
    code = set_registers(rdi=TABLES + 8, rax=path[0] | PRESENT) + bytes.fromhex("488907")
    for table, below in zip(own, path[1:], strict=False):
        code += set_registers(rdi=table, rax=below | PRESENT) + bytes.fromhex("488907")
    code += set_registers(rdi=linear + 5) + bytes.fromhex("8a07") + SHOW
    entries: dict[int, int] = {}
    for table, below in zip(tables, path[level + 1 :], strict=True):
        entries |= little(table, below | PRESENT)
    with recovery(tmp_path / "guest.bin", image(code, []), record=record) as made:
        for value in (1, 2):
            ran, found = run(made, entries | {DATA + 5: value})
            assert ran.verdict.ok, ran.verdict
            assert made.shown == bytes([value])
            assert found == entries | {DATA + 5: value}
        ran, found = run(made, entries | little(tables[-1], 0))
        assert ran.verdict.reason == "triple-fault"
        assert found.keys() == entries.keys()


def test_a_page_that_is_mapped_anew_is_read_where_it_is(tmp_path: Path) -> None:
    """The translation for the other privilege is not dropped by the guest: either page may be read, and is noted."""
    # The pages in use have different places in the TLB, which keep them.
    number, other = 3, DATA + PAGE
    entry = TABLES + 4 * PAGE + 8 * number
    code = bytes.fromhex("0f20e00d000020000f22e0 0f01cb") + set_registers(rdi=WINDOW + number * PAGE)  # CR4.SMAP; stac
    code += bytes.fromhex("8a07") + SHOW
    code += set_registers(rsi=entry, rax=other | PRESENT) + bytes.fromhex("488906")
    code += bytes.fromhex("0f01ca 8a4708") + SHOW  # clac
    code += bytes.fromhex("0f01cb 8a4710") + SHOW
    memory = {DATA: 1, other + 8: 2, DATA + 16: 3, other + 16: 4}
    with recovery(tmp_path / "guest.bin", image(code, [0] * number + [DATA])) as made:
        ran, found = run(made, memory)
        assert ran.verdict.ok
        assert (found[DATA], found[other + 8]) == (1, 2)
        (last,) = set(found) - {DATA, other + 8}
        assert made.shown == bytes((1, 2, memory[last]))


IDT, GDT, FRAME = BASE + 0x4000, BASE + 0x5000, BASE + 0x6000
CODE64 = 0x00AF9B000000FFFF


@pytest.mark.parametrize("record", [False, True], ids=["plain", "recorded"])
def test_what_the_delivery_of_an_exception_reads_is_asked_for_and_what_it_stores_is_known(
    tmp_path: Path, record: bool
) -> None:
    """Gate, descriptor and stack are in the NVDIMM. The handler shows of its frame what lies across two pages."""
    tables = 0x220000
    code = set_registers(rdi=tables, rax=0x0FFF | IDT << 16 & (1 << 64) - 1) + bytes.fromhex("488907")
    code += set_registers(rdi=tables + 8, rax=IDT >> 48) + bytes.fromhex("488907")
    code += set_registers(rdi=tables + 16, rax=0x00FF | GDT << 16 & (1 << 64) - 1) + bytes.fromhex("488907")
    code += set_registers(rdi=tables + 24, rax=GDT >> 48) + bytes.fromhex("488907")
    code += set_registers(rdi=tables, rsp=WINDOW + PAGE + 16) + bytes.fromhex("0f011f 0f015710 0f0b")  # lidt lgdt ud2
    shows = bytes.fromhex("8a0424") + SHOW + bytes.fromhex("8a442408") + SHOW + bytes.fromhex("8a442418") + SHOW
    content = image(code, [FRAME + PAGE, FRAME], behind=shows + b"\xf4")
    gate = struct.pack("<HHBBHII", BEHIND & 0xFFFF, 8, 0, 0x8E, BEHIND >> 16, 0, 0)
    tracked = {IDT + 16 * 6 + n: byte for n, byte in enumerate(gate)} | little(GDT + 8, CODE64)
    with recovery(tmp_path / "guest.bin", content, record=record) as made:
        ran, found = run(made, tracked)
        assert ran.verdict.ok, ran.verdict
        assert found == tracked
        rip = AT + len(code) - 2
        assert made.shown == bytes((rip & 0xFF, 8, 16))
        ran, found = run(made, tracked | little(GDT + 8, 0))
        assert ran.verdict.reason == "triple-fault"


def test_what_iretq_and_loads_of_segments_read_is_asked_for(tmp_path: Path) -> None:
    code = set_registers(rdi=0x220000, rax=0x00FF | GDT << 16 & (1 << 64) - 1) + bytes.fromhex("488907 66c747080000")
    code += bytes.fromhex("0f0117") + set_registers(rsp=WINDOW + PAGE - 20) + bytes.fromhex("48cf")  # lgdt; iretq
    shows = bytes.fromhex("b810000000 8ed8 b02a") + SHOW  # mov eax, 16; mov ds, eax; mov al, 42
    content = image(code, [FRAME + PAGE, FRAME], behind=shows + b"\xf4")
    frame = struct.pack("<5Q", BEHIND, 8, 2, STACK, 16)
    at = [FRAME + 2 * PAGE - 20 + n if n < 20 else FRAME + n - 20 for n in range(len(frame))]
    tracked = dict(zip(at, frame, strict=True))
    tracked |= little(GDT + 8, CODE64) | little(GDT + 16, 0x00CF93000000FFFF)
    with recovery(tmp_path / "guest.bin", content) as made:
        ran, found = run(made, tracked)
        assert ran.verdict.ok, ran.verdict
        assert made.shown == b"\x2a"
        assert found == tracked


def test_code_that_recovery_changes_is_this_runs(tmp_path: Path) -> None:
    """In RAM, before it is executed for the first time."""
    code = set_registers(rdi=BEHIND, rsi=DATA) + bytes.fromhex(
        "8a06 84c0 7403 884701 ffe7"  # mov al, [rsi]; test al, al; jz; the code's operand is AL; jump to the code
    )
    changed = bytes.fromhex("b000 e6f4 f4")  # mov al, 0; out 0xf4, al
    with recovery(tmp_path / "guest.bin", image(code, [], behind=changed)) as made:
        for value in (1, 0, 3, 0, 2):
            ran, found = run(made, {DATA: value})
            assert found == {DATA: value}
            assert ran.verdict.code == value


def test_code_that_recovery_writes_into_the_nvdimm_is_this_runs(tmp_path: Path) -> None:
    place = BASE + 0x7000
    code = set_registers(rdi=place, rsi=DATA) + bytes.fromhex(
        "8a06 84c0 7501 f4"  # mov al, [rsi]; test al, al; jnz; hlt
        "c607b0 884701 c74702e6f4f4f4 ffe7"  # in the NVDIMM: mov al, what was read; out 0xf4, al; hlt; hlt
    )
    with recovery(tmp_path / "guest.bin", image(code, [])) as made:
        for value in (1, 3, 0, 2, 0):
            ran, found = run(made, {DATA: value})
            assert found == {DATA: value}
            assert (ran.verdict.code or 0) == value


@pytest.mark.parametrize("record", [False, True], ids=["plain", "recorded"])
def test_what_is_fetched_as_code_is_asked_for(tmp_path: Path, record: bool) -> None:
    """Two instructions on two pages that lie apart in the NVDIMM; between runs only what they load changes."""
    first, second = BASE + 5 * PAGE, BASE + 2 * PAGE
    start = WINDOW + PAGE - 4
    code = set_registers(rdi=start) + b"\xff\xe7"  # jmp rdi
    with recovery(tmp_path / "guest.bin", image(code, [first, second]), record=record) as made:
        for value in (0x11223344, 0x55667788, 0x11223344):
            fetched = b"\xb8" + struct.pack("<I", value) + SHOW + b"\xf4"  # mov eax, value
            at = [first + PAGE - 4 + n if n < 4 else second + n - 4 for n in range(len(fetched))]
            memory = dict(zip(at, fetched, strict=True))
            ran, found = run(made, memory)
            assert ran.verdict.ok, ran.verdict
            assert made.shown == bytes([value & 0xFF])
            assert found.items() >= memory.items()
            # A recorded run looks further ahead, as processors do.
            assert len(found) <= len(memory) + (15 if record else 0)
        ran, found = run(made, {first + PAGE - 4: 0x0F, first + PAGE - 3: 0x0B})  # ud2
        assert ran.verdict.reason == "triple-fault"


def test_instructions_that_are_shown_as_others_are_asked_for(tmp_path: Path) -> None:
    """LOCK before MOV is an undefined instruction, which the engine would execute as MOV."""
    place = BASE + 3 * PAGE
    code = set_registers(rdi=place, rsi=SCRATCH) + b"\xff\xe7"
    moves, plain = bytes.fromhex("f08906 f4"), bytes.fromhex("908906 f4")
    with recovery(tmp_path / "guest.bin", image(code, [])) as made:
        for content, ends in ((plain, "halt"), (moves, "triple-fault"), (plain, "halt")):
            ran, found = run(made, dict(enumerate(content, place)))
            assert ran.verdict.reason == ends
            assert found.items() >= {place: content[0], place + 1: content[1]}.items()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_verdict_that_depends_on_code_in_doubt(tmp_path: Path, depth: int) -> None:
    """The operand of an instruction and the flag that says it is there; no flush between them. Recovery executes it."""
    work, check = tmp_path / "work.bin", tmp_path / "check.bin"
    first, flag = 0x1000, 0
    written = bytes.fromhex("b001 e6f4 f4")  # mov al, 1; out 0xf4, al; hlt
    patch = Step("store", first + 1, b"\0")
    work.write_bytes(
        assemble((Step("store", first, written.ljust(8, b"\x90")), Step("CW", first), Step("SF"), patch,
                  Step("store", flag, b"\1")), BASE)
    )  # fmt: skip
    # Without the flag there is nothing to execute: cmp byte [rdi], 0; je to hlt; jmp rsi
    code = set_registers(rdi=BASE + flag, rsi=BASE + first) + bytes.fromhex("803f00 7402 ffe6")
    check.write_bytes(image(code, []))
    question = Question(machine(work), machine(check), limits=Limits(depth=depth))
    with investigate(question) as answer:
        assert answer.complete
        (failure,) = answer.failures
        assert failure.lost == (3,)
        assert failure.contents[BASE + first] & 0xFFFF == 0x01B0
        endings = {(ended.ok, ended.code) for outcome in answer.outcomes for ended in outcome.endings}
        assert endings == {(True, None), (True, 0), (False, 1)}


@pytest.mark.parametrize("name", ["movs", "fld m80", "lock xadd"])
def test_the_verdict_is_that_of_all_memories(tmp_path: Path, name: str) -> None:
    """Two bytes are stored, neither flushed; recovery reads both at once, and fails if the second is there alone."""
    first, second = BASE + 5 * PAGE, BASE + 2 * PAGE
    _, before, load, keep = LOADS[name]
    last = first + PAGE - 1
    work, check = tmp_path / "work.bin", tmp_path / "check.bin"
    work.write_bytes(assemble((Step("store", last - BASE, b"\1"), Step("store", second - BASE, b"\1")), BASE))
    code = set_registers(rdi=WINDOW + PAGE - before, rsi=SCRATCH, rsp=STACK, rcx=0) + bytes.fromhex(load + keep)
    code += set_registers(rsi=SCRATCH + before - 1) + bytes.fromhex("668b06 663d0001 0f94c0 e6f4")
    check.write_bytes(image(code, [first, second]))
    fails = set()
    for memory in ((0, 0), (0, 1), (1, 0), (1, 1)):
        stored = tmp_path / "stored"
        stored.write_bytes(bytes(SIZE))
        with stored.open("r+b") as file:
            for address, value in zip((last, second), memory, strict=True):
                file.seek(address - BASE)
                file.write(bytes([value]))
        backend = BackendConfig(id="m", kind=BackendKind.FILE, path=str(stored), size=SIZE)
        plain = MachineRecovery(machine(check, backend))
        try:
            if not plain.run(frozenset(), lambda unit, mask: 0).verdict.ok:
                fails.add(memory)
        finally:
            plain.close()
    with investigate(Question(machine(work), machine(check))) as answer:
        assert answer.complete
        assert answer.exploration.executed == 4
        assert fails == {(0, 1)}
        (failure,) = answer.failures
        assert failure.lost == (0,)
        assert failure.contents[last & -8] >> 56 == 0
        assert failure.contents[second] & 0xFF == 1


def test_recoveries_of_one_process_are_watched_each_by_itself(tmp_path: Path) -> None:
    codes = [set_registers(rdi=WINDOW + PAGE - 4) + bytes.fromhex(load) for load in ("488b07", "8a07")]
    window = [DATA, DATA + 7 * PAGE]
    with (
        recovery(tmp_path / "one.bin", image(codes[0], window)) as one,
        recovery(tmp_path / "other.bin", image(codes[1], window), record=True) as other,
    ):
        for _ in range(2):
            assert run(one, {})[1].keys() == {*range(DATA + PAGE - 4, DATA + PAGE), *range(window[1], window[1] + 4)}
            assert run(other, {})[1].keys() == {DATA + PAGE - 4}


def test_what_the_pointer_to_an_inner_stack_reads_is_asked_for(tmp_path: Path) -> None:
    """The task state is in the NVDIMM, across pages that lie apart; IST 1 is used."""
    idt, gdt, tables, tss = 0x220000, 0x230000, 0x240000, WINDOW + PAGE - 0x28
    code = b""
    descriptor = 0x0000890000000067 | (tss & 0xFFFFFF) << 16 | tss >> 24 << 56
    gate = BEHIND & 0xFFFF | 8 << 16 | 0x8E01 << 32 | BEHIND >> 16 << 48
    for address, value in {
        gdt + 8: CODE64, gdt + 16: descriptor, gdt + 24: 0, idt + 16 * 6: gate, idt + 16 * 6 + 8: 0,
        tables: 0xFF | gdt << 16, tables + 8: 0, tables + 16: 0xFFF | idt << 16, tables + 24: 0,
    }.items():  # fmt: skip
        code += set_registers(rdi=address, rax=value) + bytes.fromhex("488907")
    code += set_registers(rdi=tables) + bytes.fromhex("0f0117 0f015f10 b810000000 0f00d8 0f0b")  # lgdt; lidt; ltr; ud2
    pages = [DATA, DATA + 7 * PAGE]
    places = [*range(pages[0] + PAGE - 4, pages[0] + PAGE), *range(pages[1], pages[1] + 4)]
    shows = bytes.fromhex("4889e0 c1e80c") + SHOW + b"\xf4"  # mov rax, rsp; shr eax, 12
    with recovery(tmp_path / "guest.bin", image(code, pages, behind=shows)) as made:
        for stack in (STACK, STACK + 4 * PAGE):
            pointer = dict(zip(places, struct.pack("<Q", stack), strict=True))
            ran, found = run(made, pointer)
            assert ran.verdict.ok, ran.verdict
            assert found == pointer
            assert made.shown == bytes([stack // PAGE - 1 & 0xFF])


@pytest.mark.parametrize(
    ("code", "size", "offset"),
    [("f0480fb10f", 8, 0), ("f0480fb10f", 8, -3), ("f00fb10f", 4, -2), ("f00fc70f", 8, -4), ("f0480fc70f", 16, 0)],
    ids=["cmpxchg", "across pages", "of 32 bits", "cmpxchg8b across pages", "cmpxchg16b"],
)
def test_whether_a_compare_and_swap_fails_is_decided_by_what_it_reads(
    tmp_path: Path, code: str, size: int, offset: int
) -> None:
    """Not by what was in memory before that was asked for: the trace has the store of one that succeeds."""
    pages = [DATA, DATA + 7 * PAGE]
    start, half = WINDOW + PAGE + offset, size // 2 if "c70f" in code else size
    old = 0x0807060504030201 & (1 << 8 * half) - 1
    high = 0 if half == size else old + 1
    text = set_registers(rdi=start, rax=old, rdx=high, rcx=9, rbx=7) + bytes.fromhex(code)
    places = [pages[(at - WINDOW) // PAGE] + at % PAGE for at in range(start, start + size)]
    content = (old.to_bytes(half, "little") + high.to_bytes(half, "little"))[:size]
    with recovery(tmp_path / "guest.bin", image(text, pages), record=True) as made:
        for changed in (None, size - 1, 0, None):
            memory = dict(zip(places, content, strict=True))
            if changed is not None:
                memory[places[changed]] ^= 0x80
            ran, found = run(made, memory)
            assert found == memory
            (fence,) = (event for _, event in ran.trace if isinstance(event, Fence))
            stored = {store.address + at for _, store in ran.trace if isinstance(store, Store)
                      for at in range(len(store.data))}  # fmt: skip
            assert fence.failed == (changed is not None)
            assert stored == (set(places) if changed is None else set())
