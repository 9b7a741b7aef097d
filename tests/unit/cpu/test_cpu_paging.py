"""Page walks in every paging mode, against tables written by hand."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cpu import StopKind
from emu.cpu import registers as r
from emu.cpu.paging import PageFault, Paging
from emu.entry import Long64
from tests.unit.cpu.cpu_harness import CODE, CODE32, GDT, HANDLERS, HLT, TABLES, Guest

PRESENT_ALL = 7
LONG = Paging(r.CR0_PG | r.CR0_PE | r.CR0_WP, 0x1000, r.CR4_PAE, True)
PAE = Paging(r.CR0_PG | r.CR0_PE | r.CR0_WP, 0x1020, r.CR4_PAE, False)
LEGACY = Paging(r.CR0_PG | r.CR0_PE | r.CR0_WP, 0x1000, r.CR4_PSE, False)


class Sparse:
    """Physical memory as a dictionary; the interface of PhysicalMemory that walks use."""

    def __init__(self, words: dict[int, int], size: int = 8) -> None:
        self.bytes: dict[int, int] = {}
        for at, value in words.items():
            self.write(at, value.to_bytes(size, "little"))

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.bytes.get(gpa + n, 0) for n in range(size))

    look_at = read

    def write(self, gpa: int, data: bytes) -> None:
        self.bytes.update({gpa + n: value for n, value in enumerate(data)})


def long_tables(leaf: int, level: int = 1) -> Sparse:
    """Linear 0x8080604567 (indices 1, 2, 3, 4): ``leaf`` at level 1 (4 KiB), 2 (2 MiB) or 3 (1 GiB)."""
    entries = {0x1008: 0x2007, 0x2010: 0x3007, 0x3018: 0x4007, 0x4020: 0x5007}
    at = {1: 0x4020, 2: 0x3018, 3: 0x2010}[level]
    return Sparse({**entries, at: leaf})


LINEAR = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x567


@pytest.mark.parametrize(
    ("level", "leaf", "physical"),
    [
        (1, 0x12345000 | 7, 0x12345567),
        (1, 0x8000_0000_1234_5007, 0x12345567),
        (2, 0x12200000 | 0x87, 0x12200000 | LINEAR & 0x1FFFFF),
        (3, 0x1_40000000 | 0x87, 0x1_40000000 | LINEAR & 0x3FFFFFFF),
    ],
    ids=["4 KiB", "no-execute", "2 MiB", "1 GiB"],
)
def test_four_levels(level: int, leaf: int, physical: int) -> None:
    assert LONG.translate(long_tables(leaf, level), LINEAR) == physical  # type: ignore[arg-type]


def test_five_levels() -> None:
    tables = Sparse({0x1000 + 8 * 5: 0x6007, 0x6008: 0x2007, 0x2010: 0x3007, 0x3018: 0x4007, 0x4020: 0x12345007})
    paging = Paging(LONG.cr0, 0x1000, r.CR4_PAE | r.CR4_LA57, True)
    assert paging.translate(tables, 5 << 48 | LINEAR) == 0x12345567  # type: ignore[arg-type]
    assert paging.canonical(5 << 48)
    assert not LONG.canonical(5 << 48)


def test_pae_without_long_mode() -> None:
    # The root's entries have no access bits; its address may be any multiple of 32.
    tables = Sparse({0x1020 + 8 * 2: 0x3001, 0x3018: 0x4007, 0x4020: 0x1_2345_5007})
    assert PAE.translate(tables, 2 << 30 | 3 << 21 | 4 << 12 | 0x567, user=True) == 0x1_2345_5567  # type: ignore[arg-type]


def test_32_bit_paging_with_4_kib_and_4_mib_pages() -> None:
    tables = Sparse({0x1000 + 4 * 3: 0x4007, 0x4000 + 4 * 5: 0x00777007, 0x1000 + 4 * 4: 0x0240_0087 | 3 << 13}, 4)
    assert LEGACY.translate(tables, 3 << 22 | 5 << 12 | 0x89) == 0x777089  # type: ignore[arg-type]
    assert LEGACY.translate(tables, 4 << 22 | 0x12345) == 0x3_0241_2345  # type: ignore[arg-type]


def test_without_paging_addresses_are_physical_and_32_bits_wide() -> None:
    assert Paging(1, 0, 0, False).translate(Sparse({}), 0x1_0000_1234) == 0x1234  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("leaf", "write", "user", "error"),
    [
        (0, False, False, 0), (0, True, False, 2), (0, False, True, 4), (0x5005, True, False, 3),
        (0x5003, False, True, 5), (0x5005, True, True, 7),
    ],
)  # fmt: skip
def test_error_codes(leaf: int, write: bool, user: bool, error: int) -> None:
    with pytest.raises(PageFault) as caught:
        LONG.translate(long_tables(leaf), LINEAR, write=write, user=user)  # type: ignore[arg-type]
    assert (caught.value.address, caught.value.error_code) == (LINEAR, error)


def test_kernel_writes_read_only_pages_without_write_protection() -> None:
    paging = Paging(r.CR0_PG | r.CR0_PE, 0x1000, r.CR4_PAE, True)
    assert paging.translate(long_tables(0x5005), LINEAR, write=True) == 0x5567  # type: ignore[arg-type]


def test_accessed_and_dirty_bits_are_set_as_the_cpu_does() -> None:
    tables = long_tables(0x5007)
    LONG.translate(tables, LINEAR, mark=False)  # type: ignore[arg-type]
    assert tables.read(0x4020, 1) == b"\x07"
    LONG.translate(tables, LINEAR)  # type: ignore[arg-type]
    assert (tables.read(0x1008, 1), tables.read(0x4020, 1)) == (b"\x27", b"\x27")
    LONG.translate(tables, LINEAR, write=True)  # type: ignore[arg-type]
    assert (tables.read(0x1008, 1), tables.read(0x4020, 1)) == (b"\x27", b"\x67")


def test_access_over_a_page_border_uses_both_pages() -> None:
    tables = long_tables(0x5007)
    tables.write(0x4028, (0x9007).to_bytes(8, "little"))
    LONG.write(tables, (LINEAR & ~0xFFF) + 0xFFE, b"abcd")  # type: ignore[arg-type]
    assert (tables.read(0x5FFE, 2), tables.read(0x9000, 2)) == (b"ab", b"cd")
    assert LONG.read(tables, (LINEAR & ~0xFFF) + 0xFFE, 4) == b"abcd"  # type: ignore[arg-type]


def test_write_over_a_border_to_an_absent_page_writes_nothing() -> None:
    tables = long_tables(0x5007)
    with pytest.raises(PageFault):
        LONG.write(tables, (LINEAR & ~0xFFF) + 0xFFE, b"abcd")  # type: ignore[arg-type]
    assert tables.read(0x5FFE, 2) == bytes(2)


class Garbage:
    """Every entry is some present, random value."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def read(self, gpa: int, size: int) -> bytes:
        value = Random(self.seed ^ gpa).getrandbits(8 * size) | 1
        return value.to_bytes(size, "little")

    def write(self, gpa: int, data: bytes) -> None:
        assert 0 <= gpa < 1 << 52
        assert len(data) in (4, 8)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 32), st.booleans(), st.booleans())
def test_garbage_tables_give_an_address_or_a_page_fault(address: int, seed: int, write: bool, user: bool) -> None:
    for paging in (LONG, PAE, LEGACY):
        try:
            physical = paging.translate(Garbage(seed), address, write=write, user=user)  # type: ignore[arg-type]
        except PageFault as fault:
            assert fault.error_code == 1 | 2 * write | 4 * user
        else:
            assert 0 <= physical < 1 << 52


def test_walks_agree_with_the_engine_in_long_mode(guest: Guest) -> None:
    # 1 GiB at linear 4 GiB onto 0, and a 4 KiB page of marks at 1 TiB.
    guest.put(TABLES + 0x1000 + 8 * 4, struct.pack("<Q", 0x87))
    guest.put(TABLES + 8 * 2, struct.pack("<Q", 0x30007))
    guest.put(0x30000, struct.pack("<Q", 0x31007))
    guest.put(0x31000, struct.pack("<Q", 0x32007))
    guest.put(0x32000, struct.pack("<Q", 0x120007))
    guest.put(0x120010, b"marks!!!")
    load = b"".join(
        b"\x48\xb8" + struct.pack("<Q", at) + code
        for at, code in ((0x1_0012_0010, b"\x48\x8b\x18"), (0x100_0000_0010, b"\x48\x8b\x08"))
    )
    assert guest.run_long(load + HLT).kind is StopKind.HALT
    registers = guest.cpu.registers()
    for name, address in (("rbx", 0x1_0012_0010), ("rcx", 0x100_0000_0010)):
        assert guest.cpu.translate(address) == 0x120010
        assert registers[name].to_bytes(8, "little") == b"marks!!!"


def test_exception_delivery_under_32_bit_paging(guest: Guest) -> None:
    # Identity 4 MiB page for code and tables, the stack page at linear 0x800000 onto 0x180000.
    guest.put(0x40000, struct.pack("<3I", 0x87, 0, 0x41007))
    guest.put(0x41000, struct.pack("<2I", 0x180007, 0x181007))
    guest.gate32(0, HANDLERS)
    guest.put(HANDLERS, HLT)
    paging = b"\x0f\x20\xe0\x83\xc8\x10\x0f\x22\xe0\xb8\x00\x00\x04\x00\x0f\x22\xd8"  # CR4.PSE, CR3
    paging += b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"  # CR0.PG
    code = b"\xea" + struct.pack("<IH", CODE + 14 + 7, CODE32) + paging + b"\xbc\x04\x10\x80\x00\x31\xc9\xf7\xf1"
    assert guest.run_protected(code).kind is StopKind.HALT
    # The frame lies across both pages of the stack: EIP in the first, CS and EFLAGS behind it.
    eip, cs = struct.unpack("<II", guest.memory[0x180FF8:0x181000])
    assert (eip, cs) == (CODE + len(code) + 14 - 2, CODE32)
    assert guest.cpu.translate(0x801000) == 0x181000


def test_flat_entry_table_is_used_for_exceptions(guest: Guest) -> None:
    guest.gate64(3, HANDLERS)
    guest.put(HANDLERS, HLT)
    guest.put(CODE, b"\x0f\x01\x1c\x25" + struct.pack("<I", 0x6000) + b"\xcc")
    guest.cpu.enter(Long64(CODE, 0x180000, 0, TABLES, (GDT, 24)))
    assert guest.cpu.run().kind is StopKind.HALT
    assert guest.cpu.registers()["rip"] == HANDLERS + 1
