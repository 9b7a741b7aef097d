"""Images of all kinds: told apart, placed, refused with a reason."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.boot import Kind, LoadPlan, MemoryRange, load
from emu.entry import Long64, Protected32
from emu.errors import UsageError
from tests.unit.boot.boot_images import HIGHEST, MAP, RSDP, elf, flat_multiboot, multiboot_header

CODE = b"\xfa\xf4"


def plan(image: bytes, **changes: Any) -> LoadPlan:
    arguments: dict[str, Any] = {
        "name": "test.bin",
        "cmdline": "a=1",
        "memory_map": MAP,
        "rsdp_address": RSDP,
        "highest_address": HIGHEST,
    }
    return load(image, **arguments | changes)


def protected(made: LoadPlan) -> Protected32:
    assert isinstance(made.entry, Protected32)
    return made.entry


def long(made: LoadPlan) -> Long64:
    assert isinstance(made.entry, Long64)
    return made.entry


def memory_of(made: LoadPlan, size: int = 1 << 21) -> bytearray:
    """The start of guest memory, full of garbage before the plan is carried out."""
    memory = bytearray(b"\xaa" * size)
    for segment in made.segments:
        memory[segment.gpa : segment.end] = bytes(segment.data).ljust(segment.size, b"\0")
    return memory


def string_at(memory: bytearray, at: int) -> str:
    return memory[at : memory.index(0, at)].decode()


# Multiboot


def test_multiboot_by_address_fields() -> None:
    made = plan(flat_multiboot(CODE, bss_end=0x102000))
    assert made.kind is Kind.MULTIBOOT
    assert isinstance(made.entry, Protected32)
    assert (made.entry.eip, made.entry.eax) == (0x100020, 0x2BADB002)
    memory = memory_of(made)
    assert memory[0x100020:0x100022] == CODE
    assert not any(memory[0x100022:0x102000])
    assert memory[0x102000] == 0xAA


def test_multiboot_header_may_come_late_in_the_file() -> None:
    made = plan(flat_multiboot(CODE, before=b"#" * 4092))
    assert bytes(made.segments[0].data[32:]) == CODE


@pytest.mark.parametrize("bits", [32, 64])
def test_multiboot_in_elf(bits: int) -> None:
    image = elf([(0x100000, CODE, 0x3000), (0x200000, b"data", 4)], bits=bits, head=multiboot_header(3))
    made = plan(image)
    assert made.kind is Kind.MULTIBOOT
    assert protected(made).eip == 0x100000
    assert [(s.gpa, s.size) for s in made.segments[:2]] == [(0x100000, 0x3000), (0x200000, 4)]


def test_multiboot_elf_linked_high_is_entered_at_its_load_address() -> None:
    made = plan(elf([(0x100000, CODE, 2)], bits=64, virtual=0xFFFFFFFF80000000, head=multiboot_header(0)))
    assert protected(made).eip == 0x100000


def test_multiboot_information() -> None:
    made = plan(flat_multiboot(CODE))
    memory, info = memory_of(made), protected(made).ebx
    assert info == 0x9000
    flags, lower, upper, _boot, text = struct.unpack_from("<5I", memory, info)
    assert flags & 0x245 == 0x245
    assert (lower, upper) == (0x9FC00 // 1024, 31 * 1024)
    assert string_at(memory, text) == "test.bin a=1"
    length, table = struct.unpack_from("<II", memory, info + 44)
    ranges = [struct.unpack_from("<IQQI", memory, table + 24 * n) for n in range(length // 24)]
    assert ranges == [(20, item.base, item.size, item.kind) for item in MAP]
    assert string_at(memory, struct.unpack_from("<I", memory, info + 64)[0]) == "emu"


def test_loader_structures_avoid_an_image_in_low_memory() -> None:
    made = plan(flat_multiboot(CODE * 8000, load=0x8000, entry=0x8020))
    spans = sorted((segment.gpa, segment.end) for segment in made.segments)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
    assert protected(made).ebx >= 0x8000 + 32 + 16000


def test_image_with_both_headers_boots_as_multiboot() -> None:
    image = elf([(0x100000, CODE, 2)], note=0x100000, head=multiboot_header(0))
    assert plan(image).kind is Kind.MULTIBOOT


def test_magic_with_a_wrong_checksum_is_no_header() -> None:
    assert plan(struct.pack("<III", 0x1BADB002, 0, 0)).kind is Kind.FLAT


def test_magic_beyond_8_kib_is_no_header() -> None:
    assert plan(flat_multiboot(before=bytes(8192))).kind is Kind.FLAT


# PVH


@pytest.mark.parametrize("bits", [32, 64])
def test_pvh_note(bits: int) -> None:
    made = plan(elf([(0x100000, b"\x90" + CODE, 0x1000)], bits=bits, note=0x100001))
    assert made.kind is Kind.PVH
    memory = memory_of(made)
    assert protected(made).eip == 0x100001
    start_info_is_right(memory, protected(made).ebx)


def start_info_is_right(memory: bytearray, at: int) -> None:
    magic, version, flags, modules, _mods, text, rsdp, table, count, _ = struct.unpack_from("<4I4QII", memory, at)
    assert (magic, version, flags, modules, rsdp) == (0x336EC578, 1, 0, 0, RSDP)
    assert string_at(memory, text) == "a=1"
    ranges = [struct.unpack_from("<QQII", memory, table + 24 * n) for n in range(count)]
    assert ranges == [(item.base, item.size, item.kind, 0) for item in MAP]


# Flat


def walk(memory: bytearray, cr3: int, address: int) -> tuple[int, bool]:
    """(physical address, executable), by the rules of 4-level paging."""
    table, executable = cr3, True
    for shift in (39, 30, 21, 12):
        (entry,) = struct.unpack_from("<Q", memory, table + (address >> shift & 511) * 8)
        assert entry & 1, f"{address:#x} is not mapped"
        executable = executable and not entry >> 63
        if shift == 12 or entry & 0x80:
            base = entry & 0x000FFFFFFFFFF000 & ~((1 << shift) - 1)
            return base | address & (1 << shift) - 1, executable
        table = entry & 0x000FFFFFFFFFF000
    raise AssertionError


@pytest.mark.parametrize("size", [1, 4096, 4097, 0x100000, 0x500001])
def test_flat_image_alone_is_executable(size: int) -> None:
    made = plan(b"\x90" * size)
    assert made.kind is Kind.FLAT
    assert isinstance(made.entry, Long64)
    assert made.entry.rip == 0x100000
    memory, end = memory_of(made, 0x700000), 0x100000 + size
    for address in (0x100000, end - 1):
        assert walk(memory, long(made).cr3, address) == (address, True)
    border = -(-end // 4096) * 4096
    for address in (0, 0x9000, 0xFFFFF, border, 0x1FFFFFF, 1 << 32, HIGHEST - 1):
        assert walk(memory, long(made).cr3, address) == (address, False)


def test_flat_entry_has_a_stack_a_gdt_and_the_start_info() -> None:
    made = plan(b"\xf4")
    entry = made.entry
    assert isinstance(entry, Long64)
    assert entry.rsp % 16 == 0
    stack = next(segment for segment in made.segments if segment.end == entry.rsp)
    assert stack.size >= 16 * 1024
    assert entry.rsp <= 0x100000
    memory = memory_of(made)
    start_info_is_right(memory, entry.rdi)
    assert struct.unpack_from("<3Q", memory, entry.gdt[0])[1] >> 53 & 1, "selector 8 is 64-bit code"


def test_flat_leaves_the_first_mebibyte_behind_the_image_alone() -> None:
    made = plan(b"\x90" * 5000)
    assert all(segment.end <= 0x100000 for segment in made.segments[1:])


def test_flat_tables_stay_small_for_a_distant_device_window() -> None:
    made = plan(b"\xf4", highest_address=1 << 43)
    assert sum(segment.size for segment in made.segments) < 512 * 1024
    assert walk(memory_of(made), long(made).cr3, (1 << 43) - 1)[1] is False


def test_static_elf_is_entered_as_a_flat_image_at_its_own_entry() -> None:
    made = plan(elf([(0x100000, b"\x90" + CODE, 3), (0x203000, b"x" * 50, 0x2000)], entry=0x100001))
    assert made.kind is Kind.FLAT
    assert isinstance(made.entry, Long64)
    assert (long(made).rip, long(made).rsp) == (0x100001, long(plan(CODE)).rsp)
    memory = memory_of(made, 0x700000)
    assert memory[0x100000:0x100003] == b"\x90" + CODE
    assert memory[0x203000:0x205000] == (b"x" * 50).ljust(0x2000, b"\0")
    start_info_is_right(memory, made.entry.rdi)
    executable = (0x100000, 0x203000, 0x204FFF)
    for address in (0, 0xFFFFF, *executable, 0x101000, 0x202FFF, 0x205000, 1 << 32):
        assert walk(memory, long(made).cr3, address) == (address, address in executable)


def test_data_of_a_static_elf_is_not_executable() -> None:
    image = bytearray(elf([(0x100000, CODE, 2), (0x101000, b"x", 1)]))
    assert image[64 + 56 + 4] == 7  # flags of the second segment: readable and writable is 6
    image[64 + 56 + 4] = 6
    made = plan(bytes(image))
    memory = memory_of(made, 0x700000)
    assert walk(memory, long(made).cr3, 0x100000) == (0x100000, True)
    assert walk(memory, long(made).cr3, 0x101000) == (0x101000, False)


# Refusals


def test_an_elf_that_asks_for_an_interpreter_is_no_guest() -> None:
    image = bytearray(elf([(0x100000, CODE, 2), (0x101000, b"/lib/ld.so", 10)]))
    image[64 + 56] = 3  # the type of the second program header: PT_INTERP
    with pytest.raises(UsageError, match="no static executable for a bare machine"):
        plan(bytes(image))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (b"", "empty"),
        (elf([(0x100000, CODE, 2)], bits=32), "neither a Multiboot header nor a PVH note, and not of 64 bits"),
        (elf([(0x100000, CODE, 2)], owner=b"GNU\0", note_kind=1, note=0), "no static executable for a bare machine"),
        (elf([(0x100000, CODE, 2)], kind=3), "no static executable for a bare machine"),
        (elf([(0x100000, CODE, 2)], virtual=0x1000), "no static executable for a bare machine"),
        (elf([(0x100000, CODE, 2)], flags=6), "in no executable segment"),
        (elf([(0x100000, CODE, 2)], entry=0x100002), "in no executable segment"),
        (elf([(0x90000, CODE, 2)], entry=0x90000), "both load at 0x90000"),
        (elf([(0x100000, CODE, 2)], note=0x100000)[:-1], "the file has"),
        (elf([(0x100000, CODE, 2)], note=0x100000)[:60], "cut short"),
        (elf([(0x100000, CODE, 2)], note=0x100000)[:100], "program headers"),
        (elf([(0x100000, CODE, 1 << 40)], note=0x100000), "not in RAM"),
        (elf([(0x100000, CODE, 1)], note=0x100000), "more bytes in the file"),
        (elf([(0x100000, CODE, 2)], note=0x200000), "entry point 0x200000"),
        (elf([(0xE0000, CODE, 2)], note=0xE0000), "ACPI"),
        (elf([(0x100000, CODE, 9), (0x100004, CODE, 2)], note=0x100000), "both load at 0x100004"),
        (elf([], note=0x100000), "nothing to load"),
        (b"\x7fELF" + bytes(60), "little-endian"),
        (elf([(0x100000, CODE, 2)]).replace(b"\x02\x00\x3e\x00", b"\x02\x00\xb7\x00"), "machine 183"),
        (flat_multiboot(load=0x4000000, entry=0x4000020), "not in RAM"),
        (flat_multiboot(entry=0x100400), "entry point"),
        (flat_multiboot(bss_end=0x100001), "before the data"),
        (flat_multiboot(bss_end=0xFFFFFFFF), "not in RAM"),
        (flat_multiboot(CODE)[:-1], "of them"),
        (flat_multiboot(CODE)[:20], "address fields are cut short"),
        (multiboot_header(0x10000, 0x100000, 0x200000, 0, 0, 0), "does not fit the header"),
        (multiboot_header(0) + CODE, "not ELF"),
        (multiboot_header(0x8) + CODE, "features 0x8"),
        (b"\x90" * 0x2000000, "not in RAM"),
        (bytes(0x202) + b"HdrS", "setup header is cut short"),
    ],
)
def test_what_cannot_boot_is_refused_with_the_reason(image: bytes, says: str) -> None:
    with pytest.raises(UsageError, match="(?s)test.bin.*" + says) as caught:
        plan(image)
    assert caught.value.remedy


@pytest.mark.parametrize("cmdline", ["x" * 4096, "a\0b"])
def test_bad_command_line_is_refused(cmdline: str) -> None:
    with pytest.raises(UsageError, match="command line"):
        plan(b"\xf4", cmdline=cmdline)


def test_device_window_beyond_the_tables_is_refused() -> None:
    with pytest.raises(UsageError, match="page tables end"):
        plan(b"\xf4", highest_address=1 << 50)


def test_image_that_leaves_no_low_memory_is_refused() -> None:
    with pytest.raises(UsageError, match="no room"):
        plan(flat_multiboot(bytes(0x9EF00 - 0x1000), load=0x1000, entry=0x1020))


def test_machine_without_low_memory_is_refused() -> None:
    with pytest.raises(UsageError, match=r"not in RAM|no room"):
        plan(b"\xf4", memory_map=[MemoryRange(0x100000, 0x100000)])


# Hostile images


SEEDS = [
    flat_multiboot(CODE, bss_end=0x102000),
    elf([(0x100000, CODE, 2)], bits=32, head=multiboot_header(0)),
    elf([(0x100000, CODE, 2), (0x200000, b"x" * 50, 99)], note=0x100000),
    elf([(0x100000, CODE, 2)], bits=32, note=0x100000),
    elf([(0x100000, CODE, 2), (0x200000, b"x" * 50, 99)]),
]


def never_anything_but_a_usage_error(image: bytes) -> None:
    try:
        made = plan(image)
    except UsageError as exc:
        assert len(str(exc)) < 500
    else:
        assert all(0 <= segment.gpa < segment.end <= 0x2000000 for segment in made.segments)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_load_or_are_refused(image: bytes) -> None:
    never_anything_but_a_usage_error(image)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)), max_size=8
    ),
    st.integers(0, 400) | st.none(),
)
def test_mutated_images_load_or_are_refused(seed: bytes, changes: list[tuple[int, int]], cut: int | None) -> None:
    image = bytearray(seed)
    for at, value in changes:
        image[at % len(image)] = value
    never_anything_but_a_usage_error(bytes(image[:cut]))
