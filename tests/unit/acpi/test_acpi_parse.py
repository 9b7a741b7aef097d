"""Reading tables back: what is right is told in the specification's words, what is wrong harms nobody."""

from __future__ import annotations

import random
import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.acpi import parse, system_table
from emu.acpi.srat import MemoryAffinity
from emu.acpi.tables import build
from emu.board.tables import tables_spec
from emu.errors import EmuError, GuestError, UsageError
from emu.structure import Structure

PMEM = uuid.UUID("66f0d379-b4f3-4074-ac43-0d3318b78cdb").bytes_le


def nfit_with(*structures: bytes) -> bytes:
    return system_table(b"NFIT", bytes(4) + b"".join(structures))


SPA = struct.pack("<HHHHII16sQQQ", 0, 56, 2, 3, 0, 0, PMEM, 1 << 32, 64 << 20, 0x8008)
MEMDEV = struct.pack("<HHIHHHHQQQHHHH", 1, 48, 1, 0, 0, 2, 3, 64 << 20, 0, 0, 0, 1, 8, 0)
CONTROL = struct.pack(
    "<HHHHHHHHHBBHHIHH40sH6s", 4, 80, 3, 0x8086, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0x123456, 0x0301, 0, b"", 0, b""
)
INTERLEAVE = struct.pack("<HHHHII3I", 2, 28, 1, 0, 3, 64, 0, 64, 128)
SMBIOS = struct.pack("<HHI4s", 3, 12, 0, b"data")
WINDOW = struct.pack("<HHHHQQQQ", 5, 40, 3, 1, 0, 8192, 1 << 30, 0)
HINTS = struct.pack("<HHIH6sQ", 6, 24, 1, 1, b"", 0xFEDC0000)
CAPABILITIES = struct.pack("<HHB3sI4s", 7, 16, 1, b"", 3, b"")


def fields(table: bytes, kind: int | None) -> dict[str, int | str]:
    structure = next(item for item in parse.decode(table).structures if item.type == kind)
    return {value.name: value.value for value in structure.values}


def test_every_nfit_structure_is_told_in_the_words_of_the_specification() -> None:
    table = nfit_with(SPA, MEMDEV, INTERLEAVE, SMBIOS, CONTROL, WINDOW, HINTS, CAPABILITIES)
    decoded = parse.decode(table)
    assert decoded.problems == ()
    kinds = [(item.type, item.section) for item in decoded.structures if item.type is not None]
    assert kinds == [(n, f"5.2.25.{s}") for n, s in ((0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 8), (7, 9))]
    assert fields(table, 0)["System Physical Address Range Base"] == 1 << 32
    assert fields(table, 0)["Address Range Type GUID"] == "66f0d379-b4f3-4074-ac43-0d3318b78cdb"
    assert fields(table, 1)["NVDIMM Region Size"] == 64 << 20
    assert fields(table, 1)["NVDIMM State Flags"] == 8
    assert fields(table, 2)["[2]"] == 128
    assert fields(table, 4)["Serial Number"] == 0x123456
    assert fields(table, 6)["[0]"] == 0xFEDC0000
    text = parse.describe(table)
    for words in (
        "System Physical Address (SPA) Range Structure at offset 40, type 0, ACPI 6.4 section 5.2.25.2",
        "(Byte Addressable Persistent Memory)",
        "0x3 (control region only for hot add/online, Proximity Domain valid)",
        "0x8 (not armed)",
        "0x301 (byte addressable, no energy backing)",
        "CPU cache flush to NVDIMM durability on power loss",
    ):
        assert words in text


def test_every_declared_structure_can_be_shown_and_says_its_own_length() -> None:
    from emu.acpi.structures import BODIES, TABLES, Facs, Header, Rsdp

    parts = [kind for body in BODIES.values() for kind in body.structures.values()]
    kinds: list[type[Structure]] = [Facs, Header, Rsdp, *TABLES.values(), *parts]
    assert len(kinds) > 20
    for kind in kinds:
        assert kind.TITLE, kind
        assert kind.SECTION.startswith("5.2."), kind
        titles = [field.title for field in kind.shown()]
        assert len(set(titles)) == len(titles), kind
    for body in BODIES.values():
        for number, kind in body.structures.items():
            assert kind.field("type").default == number
            assert kind.field("length").default == kind.SIZE or kind.ELEMENT
    for kind in (Facs, Rsdp):
        assert kind.field("length").default == kind.SIZE


def test_our_own_tables_have_no_problems_and_say_what_they_are() -> None:
    tables = build(tables_spec(memory=(MemoryAffinity(0, 1 << 20),), nfit=nfit_with(SPA, MEMDEV, CONTROL)))
    for item in tables.placed:
        assert parse.decode(item.data).name == item.name
        text = parse.describe(item.data)
        assert text.startswith(f"{item.name}, {len(item.data)} bytes\n")
        assert "PROBLEM" not in text
    assert "PCAT_COMPAT" in parse.describe(tables.get("APIC") or b"")
    assert "I/O 0xcf9, 8 bits" in parse.describe(tables.get("FACP") or b"")
    assert "AML code" in parse.describe(tables.get("DSDT") or b"")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda t: t[:30], "30 bytes are no table"),
        (lambda t: t[:-1], "the header says"),
        (lambda t: t[:4] + struct.pack("<I", 35) + t[8:], "less than itself"),
        (lambda t: t[:-1] + bytes([t[-1] ^ 1]), "the checksum is wrong"),
        (lambda t: system_table(b"NFIT", t[36:-1]), "the structure at offset 144 says 80 bytes, 79 are left"),
        (lambda t: system_table(b"NFIT", t[36:] + bytes(4)), "the structure at offset 224 says 0 bytes"),
    ],
)
def test_damage_is_named_and_the_rest_still_read(damage, problem) -> None:  # type: ignore[no-untyped-def]
    table = damage(nfit_with(SPA, MEMDEV, CONTROL))
    assert any(problem in item for item in parse.decode(table).problems)
    assert f"PROBLEM: {parse.decode(table).problems[0]}" in parse.describe(table)
    if len(table) > 100 and problem != "less than itself":
        assert fields(table, 0)["Flags"] == 3


def test_damaged_root_pointers() -> None:
    rsdp = bytearray(build(tables_spec()).get("RSDP") or b"")
    rsdp[35] ^= 1
    assert parse.decode(bytes(rsdp)).problems == ("the extended checksum is wrong",)
    rsdp[9] ^= 1
    assert "the checksum is wrong" in parse.decode(bytes(rsdp)).problems
    assert parse.decode(bytes(rsdp[:24])).problems[-1] == "the pointer is shorter than 36 bytes"
    assert parse.decode(b"RSD PTR ").problems == ("the pointer is shorter than 20 bytes",)
    assert parse.decode(b"FACS").problems


def test_unknown_tables_and_structures_are_shown_by_number() -> None:
    assert "unknown structure of type 9" in parse.describe(nfit_with(struct.pack("<HHI", 9, 8, 0)))
    assert parse.describe(system_table(b"HPET", b"")).startswith("HPET, 36 bytes")


@given(
    st.one_of(
        st.binary(max_size=300),
        st.tuples(
            st.sampled_from((b"NFIT", b"APIC", b"SRAT", b"FACP", b"XSDT", b"RSDT", b"DSDT", b"FACS", b"RSD PTR ")),
            st.binary(max_size=400),
        ).map(lambda pair: pair[0] + pair[1]),
        st.tuples(st.sampled_from((b"NFIT", b"APIC", b"SRAT", b"FACP", b"XSDT")), st.binary(max_size=400)).map(
            lambda pair: system_table(*pair)
        ),
    )
)
@settings(max_examples=1000, deadline=None)
def test_any_bytes_are_described(data: bytes) -> None:
    text = parse.describe(data)
    assert text
    assert len(text) < 100 * (len(data) + 100)
    assert text.isprintable() or "\n" in text


# Walking guest memory


class Memory:
    """Sparse guest memory that raises outside of what it holds, as the real one does, and counts what is read."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.data = bytearray(size)
        self.total = 0

    def __call__(self, address: int, length: int) -> bytes:
        if address < 0 or address + length > len(self.data):
            raise GuestError(f"no memory at {address:#x}")
        self.total += length
        return bytes(self.data[address : address + length])

    def put(self, address: int, data: bytes) -> None:
        self.data[address : address + len(data)] = data


def machine() -> Memory:
    memory = Memory()
    for address, data in build(tables_spec(nfit=nfit_with(SPA, MEMDEV, CONTROL))).segments:
        memory.put(address, data)
    return memory


def test_find_gives_one_table() -> None:
    assert parse.find(machine(), "NFIT") == nfit_with(SPA, MEMDEV, CONTROL)
    assert parse.find(machine(), "SSDT") is None


def test_no_root_pointer_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match="no ACPI root pointer"):
        parse.walk(Memory())
    with pytest.raises(UsageError, match="no ACPI root pointer"):
        parse.walk(Memory(0x1000))
    with pytest.raises(UsageError, match="no ACPI root pointer at 0x500"):
        parse.walk(machine(), rsdp=0x500)


def test_a_damaged_root_pointer_is_passed_over_for_the_next() -> None:
    memory = machine()
    memory.put(0xFF000, memory(0xE0000, 36))
    memory.data[0xE0009] ^= 1
    assert parse.walk(memory)[0].address == 0xFF000


def test_an_acpi_1_root_pointer_leads_through_the_rsdt() -> None:
    memory = machine()
    pointer = bytearray(memory(0xE0000, 20))
    pointer[15] = 0
    pointer[8] = 0
    pointer[8] = -sum(pointer) & 0xFF
    memory.put(0xE0000, bytes(pointer))
    names = [item.name for item in parse.walk(memory)]
    assert "XSDT" not in names
    assert "NFIT" in names


def test_tables_that_point_in_circles_or_nowhere_end_the_walk() -> None:
    memory = machine()
    rsdp = parse.walk(memory)[0]
    xsdt = int.from_bytes(rsdp.data[24:32], "little")
    memory.put(xsdt, system_table(b"XSDT", struct.pack("<4Q", xsdt, rsdp.address, 1 << 63, 0xFFFFC)))
    assert [item.name for item in parse.walk(memory)].count("XSDT") == 1


def test_a_table_that_claims_to_be_huge_is_cut() -> None:
    memory = Memory(8 << 20)
    tables = build(tables_spec(nfit=nfit_with(SPA)))
    for address, data in tables.segments:
        memory.put(address, data)
    nfit = next(item.address for item in tables.placed if item.name == "NFIT")
    memory.put(nfit + 4, struct.pack("<I", 0xFFFF_FFFF))
    found = next(item for item in parse.walk(memory) if item.name == "NFIT")
    assert len(found.data) == parse.MAX_TABLE
    assert "PROBLEM" in parse.describe(found.data)


@given(seed=st.integers(0, 2**32), changes=st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_hostile_memory_never_harms_the_walk(seed: int, changes: int) -> None:
    memory = machine()
    dice = random.Random(seed)
    for _ in range(changes):
        at = 0xE0000 + dice.randrange(0x600)
        memory.data[at] = dice.randrange(256)
    try:
        found = parse.walk(memory)
    except EmuError as error:
        assert error.status == 2
        return
    assert len(found) <= parse.MAX_TABLES
    assert memory.total <= (len(found) + 4) * parse.MAX_TABLE
    for item in found:
        assert parse.describe(item.data)
