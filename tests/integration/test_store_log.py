"""The log that translated code writes and the one that hooks write are the same, whatever the guest does."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu import board, guest
from emu.cpu import store_log
from emu.guest.litmus import assemble, catalogue
from emu.persistence.lab import recorder
from emu.persistence.lab.workload import record
from emu.persistence.model.events import Flush, Store
from emu.units import MIB
from tests.fuzzing import times
from tests.random_stores import BASE
from tests.store_logs import compare, compare_random, configured

CODE = 0x100000
HALT = b"\xf4"
PRESENT, LARGE, NO_EXECUTE = 3, 0x80, 1 << 63
RAX, RCX, RDX, RBX, RDI = 0, 1, 2, 3, 7
STORE = b"\x48\x89\x03"  # mov [rbx], rax


def mov(register: int, value: int) -> bytes:
    return bytes((0x48, 0xB8 | register)) + struct.pack("<Q", value)


def write(address: int, value: int) -> bytes:
    """Store ``value`` at ``address`` of RAM."""
    return mov(RDI, address) + mov(RCX, value) + b"\x48\x89\x0f"


def test_code_writes_the_log_here() -> None:
    """Everything below would pass with two logs of hooks."""
    assert store_log.is_available()


ROUNDS = {"bench-alu": "1000", "bench-call": "10", "bench-copy": "20", "bench-store": "2000"}


@pytest.mark.parametrize("name", sorted(image.name for image in guest.images() if image.name != "echo"))
def test_bundled_guests(name: str) -> None:
    found = guest.find(name)
    assert found is not None
    compare(configured(Path(found.path), cmdline=ROUNDS.get(name, "")), event_limit=1 << 12)


@pytest.mark.parametrize("part", range(4))
def test_litmus_guests(part: int, tmp_path: Path) -> None:
    image, events = tmp_path / "guest.bin", 0
    for test in catalogue()[part::4]:
        image.write_bytes(assemble(test.steps, BASE))
        events += len(compare(configured(image)).events)
    assert events > 50


@pytest.mark.fuzz
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("part", range(2))
def test_random_programs(part: int, paged: bool, tmp_path: Path) -> None:
    events = 0
    for seed in range(part * times(20), (part + 1) * times(20)):
        events += len(compare_random(seed, tmp_path, paged=paged).events)
    assert events > 1000


def in_pages(tables: dict[int, dict[int, int]], body: bytes) -> bytes:
    """An image that executes ``body`` with these page tables of its own, from 8 MiB on, and the first 16 MiB as is."""

    def table(number: int) -> int:
        return 8 * MIB + 0x1000 * number

    made = b"".join(
        write(table(number) + 8 * at, entry) for number, entries in tables.items() for at, entry in entries.items()
    )
    low = b"".join(write(table(2) + 8 * at, at << 21 | PRESENT | LARGE) for at in range(8))
    roots = write(table(0), table(1) | PRESENT) + write(table(1), table(2) | PRESENT)
    return made + low + roots + mov(RAX, table(0)) + b"\x0f\x22\xd8" + body + HALT


def stores(image: Path) -> list[tuple[int, bytes]]:
    workload = compare(configured(image))
    assert workload.ended.reason == "halt"
    return [(event.address - BASE, event.data) for event in workload.events if isinstance(event, Store)]


def test_a_page_that_changes_its_place(tmp_path: Path) -> None:
    """One linear page is the NVDIMM's first, then RAM, then the NVDIMM's third, then its first again by an alias."""
    first, third, ram = BASE | PRESENT, BASE + 0x2000 | PRESENT, 12 * MIB | PRESENT
    tables = 8 * MIB
    entry, alias = tables + 0x4000, tables + 0x4008
    again = b"\x0f\x01\x3b"  # invlpg [rbx]
    body = mov(RBX, 1 << 30)
    for place, value in ((first, 0x11), (ram, 0x22), (third, 0x33)):
        body += write(entry, place) + again + mov(RAX, value) + STORE + b"\x66\x0f\xae\x33"  # clwb [rbx]
    body += write(alias, first) + mov(RBX, (1 << 30) + 0x1000) + mov(RAX, 0x44) + STORE
    # Across the border of two linear pages that are the third and the first.
    body += mov(RBX, (1 << 30) + 0xFFD) + mov(RAX, 0x8877665544332211) + STORE
    image = tmp_path / "guest.bin"
    image.write_bytes(in_pages({1: {1: tables + 0x3000 | PRESENT}, 3: {0: tables + 0x4000 | PRESENT}}, body))
    assert stores(image) == [
        (0, struct.pack("<Q", 0x11)),
        (0x2000, struct.pack("<Q", 0x33)),
        (0, struct.pack("<Q", 0x44)),
        (0, bytes.fromhex("4455667788")),
        (0x2FFD, bytes.fromhex("112233")),
    ]
    flushes = [event.address - BASE for event in record(configured(image)).events if isinstance(event, Flush)]
    assert flushes == [0, 0x2000]


def test_address_spaces_that_differ(tmp_path: Path) -> None:
    """The same linear page is the NVDIMM under one CR3 and RAM under another, and back."""
    tables = 8 * MIB
    other = tables + 0x8000
    body = mov(RBX, 1 << 30)
    spaces = {1: {1: BASE | PRESENT | LARGE}}
    body += write(other, other + 0x1000 | PRESENT) + write(other + 0x1000, tables + 0x2000 | PRESENT)
    body += write(other + 0x1008, PRESENT | LARGE)
    for number, root in enumerate((tables, other, tables, other, tables)):
        body += mov(RAX, root) + b"\x0f\x22\xd8" + mov(RAX, number) + STORE
    image = tmp_path / "guest.bin"
    image.write_bytes(in_pages(spaces, body))
    assert stores(image) == [(0, struct.pack("<Q", number)) for number in (0, 2, 4)]


def test_pages_that_share_a_window(tmp_path: Path) -> None:
    """Linear pages so far apart that they meet in the log's table, small and large, stored to in turn."""
    tables = 8 * MIB
    small = {0: BASE + 0x1000 | PRESENT | NO_EXECUTE}  # so that the TLB's victims are found again
    places = [1 << 30, (1 << 30) + (256 << 20), (1 << 30) + (512 << 20)]
    directory = {
        0: tables + 0x4000 | PRESENT,
        128: BASE | PRESENT | LARGE | NO_EXECUTE,
        256: 0xC00000 | PRESENT | LARGE | NO_EXECUTE,
    }
    body = b""
    for number in range(12):
        body += mov(RBX, places[number % 3] + 8 * number) + mov(RAX, number) + STORE
    image = tmp_path / "guest.bin"
    image.write_bytes(in_pages({1: {1: tables + 0x3000 | PRESENT}, 3: directory, 4: small}, body))
    assert stores(image) == [
        (8 * number + (0x1000 if number % 3 == 0 else 0), struct.pack("<Q", number))
        for number in range(12)
        if number % 3 < 2
    ]


def test_a_store_that_comes_from_below(tmp_path: Path) -> None:
    """Of the last two of three equal instructions only the second half lies in the NVDIMM: they are three stores."""
    tables = 8 * MIB
    directory = {0: tables + 0x4000 | PRESENT}
    small = {0: 12 * MIB | PRESENT, 1: BASE | PRESENT}
    loop = b"\xf3\x0f\x7f\x03\x48\x89\xd3\xff\xc9\x75\xf5"  # movdqu [rbx], xmm0; mov rbx, rdx; dec ecx; jnz
    body = mov(RBX, (1 << 30) + 0x1010) + mov(RDX, (1 << 30) + 0xFF8) + mov(RCX, 3) + loop
    image = tmp_path / "guest.bin"
    image.write_bytes(in_pages({1: {1: tables + 0x3000 | PRESENT}, 3: directory, 4: small}, body))
    assert stores(image) == [(0x10, bytes(16)), (0, bytes(8)), (0, bytes(8))]


def test_compare_and_swap_across_pages(tmp_path: Path) -> None:
    """Whether it fails is seen by the pages that follow each other for the guest, not in memory."""
    tables = 8 * MIB
    small = {0: BASE + 0x1000 | PRESENT, 1: BASE | PRESENT}
    body = mov(RBX, (1 << 30) + 0xFFF) + mov(RAX, 0x44332211) + b"\x89\x03"  # mov [rbx], eax
    body += mov(RCX, 0x88776655) + b"\xf0\x0f\xb1\x0b"  # lock cmpxchg [rbx], ecx
    image = tmp_path / "guest.bin"
    image.write_bytes(in_pages({1: {1: tables + 0x3000 | PRESENT}, 3: {0: tables + 0x4000 | PRESENT}, 4: small}, body))
    assert stores(image)[2:] == [(0, b"\x66\x77\x88"), (0x1FFF, b"\x55")]


def test_rep_twice(tmp_path: Path) -> None:
    """Executed twice at the same place, it is two stores, although the second goes on where the first ended."""
    image = tmp_path / "guest.bin"
    loop = b"\xb9\x03\x00\x00\x00\xf3\x48\xab\xff\xca\x75\xf4"  # mov ecx, 3; rep stosq; dec edx; jnz
    image.write_bytes(mov(RAX, 0) + mov(RDI, BASE) + mov(RDX, 2) + loop + HALT)
    assert stores(image) == [(0, bytes(24)), (24, bytes(24))]


def test_rep_that_faults(tmp_path: Path) -> None:
    """REP STOSQ runs into an absent page; the handler maps it, storing nothing in the NVDIMM, and it goes on."""
    tables, idt, pointers, handler = 8 * MIB, 9 * MIB, 0x900000 + 0x1000, 0x900000 + 0x2000
    directory, second = tables + 0x3000, tables + 0x4008
    gate = struct.pack("<HHBBHII", handler & 0xFFFF, 8, 0, 0x8E, handler >> 16, 0, 0)
    map_it = write(second, BASE + 0x1000 | PRESENT)
    handle = b"\x51\x57" + map_it + b"\x5f\x59\x48\x83\xc4\x08\x48\xcf"  # push rcx; push rdi ... add rsp, 8; iretq
    put = [(idt + 14 * 16 + at, gate[at : at + 8]) for at in (0, 8)]
    put += [(handler + at, handle[at : at + 8].ljust(8, b"\x90")) for at in range(0, len(handle), 8)]
    put += [(pointers, struct.pack("<HIxx", 0xFFF, idt)), (pointers + 8, bytes(8))]
    body = b"".join(write(address, int.from_bytes(data, "little")) for address, data in put)
    body += b"\x0f\x01\x1c\x25" + struct.pack("<I", pointers)  # lidt
    body += mov(RDI, (1 << 30) + 0xFE8) + mov(RCX, 6) + b"\x31\xc0\xf3\x48\xab"
    image = tmp_path / "guest.bin"
    pages = {1: {1: directory | PRESENT}, 3: {0: tables + 0x4000 | PRESENT}, 4: {0: BASE | PRESENT}}
    image.write_bytes(in_pages(pages, body))
    assert stores(image) == [(0xFE8, bytes(24)), (0x1000, bytes(24))]


@pytest.mark.parametrize("limit", [0, 1, 7, 100])
def test_a_full_log_is_full_at_the_same_place(limit: int, tmp_path: Path) -> None:
    image = tmp_path / "guest.bin"
    loop = STORE + b"\xf3\x48\xab\x48\x83\xe9\xfc\xeb\xf4"  # rep stosq; sub rcx, -4; jmp
    image.write_bytes(mov(RBX, BASE) + mov(RDI, BASE + 64) + mov(RCX, 3) + loop)
    ours = compare(configured(image), event_limit=limit)
    assert ours.ended.reason == recorder.TRACE_FULL
    assert len(ours.events) <= limit


@pytest.mark.parametrize("event", [0, 1, 5, 40])
def test_power_fails_at_the_same_event(event: int) -> None:
    found = guest.find("alloc-fixed")
    assert found is not None
    config = configured(Path(found.path))
    ours, theirs = (record(config, upto=event, by_hooks=by_hooks) for by_hooks in (False, True))
    assert len(ours.events) == event
    assert (ours.events, ours.ended) == (theirs.events, theirs.ended)


def test_two_recordings_at_once(tmp_path: Path) -> None:
    """One has its log written by code, the other by hooks; both are right."""
    image = tmp_path / "guest.bin"
    image.write_bytes(mov(RBX, BASE) + mov(RAX, 7) + STORE + HALT)
    config = configured(image)
    with board.build(config, board.Outputs()) as one, board.build(config, board.Outputs()) as two:
        recordings = [recorder.Recording(machine) for machine in (one, two)]
        assert [recording.start() for recording in recordings] == [True, False]
        for machine, recording in zip((one, two), recordings, strict=True):
            machine.run()
            assert list(recording.events()) == [Store(BASE, struct.pack("<Q", 7), False, False, CODE + 20)]
            machine.cpu.close()
        for recording in recordings:
            recording.tracer.close()


def test_another_build_of_unicorn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where code cannot write the log, hooks do."""
    monkeypatch.setattr(store_log, "is_available", lambda: False)
    image = tmp_path / "guest.bin"
    image.write_bytes(mov(RBX, BASE) + STORE + HALT)
    with board.build(configured(image), board.Outputs()) as machine:
        recording = recorder.Recording(machine)
        assert recording.start() is False
        machine.run()
        assert [type(event) for event in recording.events()] == [Store]
        machine.cpu.close()
        recording.tracer.close()
