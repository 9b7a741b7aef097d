"""CPUID tells the truth: what it offers works, what it hides raises #UD, and the table covers every bit."""

from __future__ import annotations

import struct

import pytest

from emu.cpu import StopKind
from emu.cpu.features import FEATURES, WORDS, offered
from tests.unit.cpu.cpu_harness import (
    CODE,
    HANDLERS,
    HLT,
    KERNEL_CODE,
    LTR,
    TABLES,
    USER_CODE,
    USER_DATA,
    USER_STACK,
    Guest,
)
from tests.unit.cpu.dirty_state import load
from tests.unit.cpu.feature_programs import ABSENT, WORKS

RESULT, VECTOR = 0x90, 0x91
DATA, FUNCTION, TABLE = 0x150000, 0x210000, 0x40000
_LOG_EAX = b"\xe7\x90" + HLT
_OSXSAVE, _OSPKE = 1 << 27, 1 << 4


def outcome(guest: Guest, code: bytes, *, protected: bool = False) -> list[tuple[int, int]]:
    """EAX behind ``code``, or the exception it raised."""
    for vector in (6, 7, 13, 14):
        guest.gate64(vector, HANDLERS + 0x100 * vector)
        guest.put(HANDLERS + 0x100 * vector, b"\xb8" + struct.pack("<I", vector) + b"\xe7\x91" + HLT)
    stop = guest.run_protected(code + _LOG_EAX) if protected else guest.run_long(code + _LOG_EAX)
    assert stop.kind is StopKind.HALT
    return guest.out


@pytest.mark.parametrize("name", WORKS)
def test_what_is_offered_works(guest: Guest, name: str) -> None:
    code, expected = WORKS[name]
    assert outcome(guest, bytes.fromhex(code)) == [(RESULT, expected)]


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, programs in ABSENT.items() for text in programs], ids=str
)
def test_what_is_hidden_raises_ud(guest: Guest, name: str, text: str) -> None:
    assert outcome(guest, bytes.fromhex(ABSENT[name][text])) == [(VECTOR, 6)]


def _de(guest: Guest) -> list[tuple[int, int]]:
    return outcome(guest, load(0, 0x6A8) + b"\x0f\x22\xe0\x0f\x21\xe0")  # mov cr4, rax; mov rax, dr4


def _large_pages(guest: Guest, entry: int) -> list[tuple[int, int]]:
    """What a 32-bit guest reads at 4 MiB + DATA through this entry of its page directory."""
    guest.put(DATA, struct.pack("<I", 0x1234))
    guest.put(TABLE, struct.pack("<II", 0x83, entry))
    # cr3 = table; cr4 |= PSE; cr0 |= PG; mov eax, [4 MiB + DATA]
    code = b"\xb8" + struct.pack("<I", TABLE) + b"\x0f\x22\xd8\x0f\x20\xe0\x83\xc8\x10\x0f\x22\xe0"
    code += b"\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0\xa1" + struct.pack("<I", 0x400000 + DATA)
    return outcome(guest, code, protected=True)


def _five_levels(guest: Guest) -> list[tuple[int, int]]:
    guest.put(DATA, struct.pack("<I", 0x1234))
    guest.put(TABLE, struct.pack("<QQ", TABLES | 7, TABLES | 7))
    # cr3 = table; cr4 = PAE | LA57; EFER.LME; cr0 |= PG; jmp far; mov rbx, 2^48 + DATA; mov eax, [rbx]
    code = b"\xb8" + struct.pack("<I", TABLE) + b"\x0f\x22\xd8\xb8\x20\x10\x00\x00\x0f\x22\xe0"
    code += b"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x01\x00\x00\x0f\x30\x0f\x20\xc0\x0d\x00\x00\x00\x80\x0f\x22\xc0"
    code += b"\xea" + struct.pack("<IH", CODE + 14 + len(code) + 7, KERNEL_CODE)
    return outcome(guest, code + load(3, (1 << 48) + DATA) + b"\x8b\x03", protected=True)


def _supervisor_code(guest: Guest) -> None:
    """Code and tables below 2 MiB belong to the supervisor, what is above to the user."""
    guest.put(TABLES + 0x2000, struct.pack("<Q", 0x83))
    guest.put(FUNCTION, b"\xc3")


def _smep(guest: Guest) -> list[tuple[int, int]]:
    _supervisor_code(guest)
    return outcome(guest, load(0, 0x1006A0) + b"\x0f\x22\xe0" + load(3, FUNCTION) + b"\xff\xd3")


def _smap(guest: Guest) -> list[tuple[int, int]]:
    _supervisor_code(guest)
    # mov cr4, rax; stac; mov eax, [rbx]; clac; mov eax, [rbx]
    code = load(0, 0x2006A0) + b"\x0f\x22\xe0" + load(3, FUNCTION) + b"\x0f\x01\xcb\x8b\x03\xe7\x90"
    return outcome(guest, code + b"\x0f\x01\xca\x8b\x03")


def _pku(guest: Guest) -> list[tuple[int, int]]:
    guest.put(TABLES + 0x2000, struct.pack("<QQ", 0x83, 0x200087 | 1 << 59))
    # mov cr4, rax; mov eax, [rbx]; out; access disabled for key 1: wrpkru; mov eax, [rbx]
    code = load(0, 0x4006A0) + b"\x0f\x22\xe0" + load(3, FUNCTION) + b"\x8b\x03\xe7\x90"
    return outcome(guest, code + b"\x31\xc9\x31\xd2\xb8\x04\x00\x00\x00\x0f\x01\xef\x8b\x03")


def _no_execute(guest: Guest) -> list[tuple[int, int]]:
    guest.put(TABLES + 0x2000, struct.pack("<QQ", 0x83, 0x200087 | 1 << 63))
    enable = b"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x08\x00\x00\x0f\x30"
    return outcome(guest, enable + load(3, FUNCTION) + b"\xff\xd3")


def _gigabyte_page(guest: Guest) -> list[tuple[int, int]]:
    guest.put(DATA, struct.pack("<I", 0x1234))
    guest.put(TABLES + 0x1010, struct.pack("<Q", 0x83))
    return outcome(guest, load(3, 0x80000000 + DATA) + b"\x8b\x03")


_FAULT = [(VECTOR, 14)]
PAGING = {
    "DE": (_de, [(VECTOR, 6)]),
    "PSE": (lambda guest: _large_pages(guest, 0x83), [(RESULT, 0x1234)]),
    "PSE-36": (lambda guest: _large_pages(guest, 0x83 | 1 << 13), [(RESULT, 0)]),  # 4 GiB, where nothing is
    "SMEP": (_smep, _FAULT),
    "SMAP": (_smap, [(RESULT, 0xC3), *_FAULT]),
    "PKU": (_pku, [(RESULT, 0), *_FAULT]),
    "LA57": (_five_levels, [(RESULT, 0x1234)]),
    "NX": (_no_execute, _FAULT),
    "PDPE1GB": (_gigabyte_page, [(RESULT, 0x1234)]),
}


@pytest.mark.parametrize("name", PAGING)
def test_what_is_offered_works_with_page_tables(guest: Guest, name: str) -> None:
    experiment, expected = PAGING[name]
    assert experiment(guest) == expected


def test_each_offered_feature_has_its_experiment() -> None:
    names = [feature.name for feature in FEATURES if feature.offered]
    assert len(names) == len(set(names))
    assert {*WORKS, *PAGING} == set(names)
    assert set(ABSENT) <= {feature.name for feature in FEATURES if not feature.offered}


def test_no_bit_stands_twice_and_each_hidden_one_has_its_reason() -> None:
    places = [(f.leaf, f.subleaf, f.register, f.bit) for f in FEATURES]
    assert len(places) == len(set(places))
    assert all(feature.note for feature in FEATURES if not feature.offered)
    assert {place[:3] for place in places} == set(WORDS)


def _ask(leaf: int, subleaf: int) -> bytes:
    """CPUID; its four registers to port RESULT."""
    code = b"\xb8" + struct.pack("<I", leaf) + b"\xb9" + struct.pack("<I", subleaf) + b"\x0f\xa2\xe7\x90"
    return code + b"".join(bytes([0x89, 0xC0 | number << 3]) + b"\xe7\x90" for number in (3, 1, 2))


@pytest.mark.parametrize("ring", [0, 3])
def test_cpuid_answers_from_the_table(guest: Guest, ring: int) -> None:
    leaves = sorted({(leaf, subleaf) for leaf, subleaf, _ in WORDS})
    code = b"".join(_ask(*leaf) for leaf in leaves)
    if ring:
        guest.gate64(0x80, HANDLERS, 0xEE)
        guest.put(HANDLERS, HLT)
        guest.put(HANDLERS + 0x1000, code + b"\xcd\x80")
        frame = [USER_DATA, USER_STACK, 0x3202, USER_CODE, HANDLERS + 0x1000]
        code = LTR + b"".join(b"\x68" + struct.pack("<I", value) for value in frame) + b"\x48\xcf"
    assert guest.run_long(code + HLT).kind is StopKind.HALT
    values = iter(value for _, value in guest.out)
    answers = {(*leaf, register): next(values) for leaf in leaves for register in ("eax", "ebx", "ecx", "edx")}
    assert {word: answers[word] for word in WORDS} == {word: offered(*word) for word in WORDS}
    # The area of XSAVE for all components, and for those that XCR0 enables: x87 only.
    assert (answers[0xD, 0, "ecx"], answers[0xD, 0, "ebx"]) == (0xA88, 0x240)


def test_leaf_of_monitor_is_empty(guest: Guest) -> None:
    guest.run_long(_ask(5, 0) + HLT)
    assert guest.out == [(RESULT, 0)] * 4


def test_osxsave_and_ospke_follow_cr4(guest: Guest) -> None:
    enable = load(0, 0x4406A0) + b"\x0f\x22\xe0"
    guest.run_long(enable + _ask(1, 0) + _ask(7, 0) + HLT)
    values = [value for _, value in guest.out]
    assert (values[2], values[6]) == (offered(1, 0, "ecx") | _OSXSAVE, offered(7, 0, "ecx") | _OSPKE)
    guest.out.clear()
    guest.run_long(_ask(1, 0) + _ask(7, 0) + HLT)
    values = [value for _, value in guest.out]
    assert (values[2], values[6]) == (offered(1, 0, "ecx"), offered(7, 0, "ecx"))


@pytest.mark.parametrize(
    ("code", "vector"),
    [
        ("c5f858c1", 6),  # vaddps
        ("8fe878c0c001", 6),  # XOP: vprotb xmm0, xmm0, 1
        ("c7f800000000", 6),  # xbegin
        ("c6f800", 6),  # xabort
        ("f2c5f858c1", 6),  # a prefix before VEX
        ("f00f09", 6),  # lock wbinvd
        ("f0890f", 6),  # lock mov [rdi], ecx
        ("f001c8", 6),  # lock add eax, ecx
        ("f00fa30f", 6),  # lock bt [rdi], ecx
        ("f04084c9", 6),  # lock test cl, cl
        ("0f33", 6),  # rdpmc, as under QEMU: no counters are offered
    ],
)
def test_encodings_that_are_taken_for_others(guest: Guest, code: str, vector: int) -> None:
    assert outcome(guest, bytes.fromhex(code)) == [(VECTOR, vector)]


def test_les_and_lds_are_not_taken_for_vex(guest: Guest) -> None:
    """In 32-bit code C4h and C5h with a memory operand load ES and DS."""
    guest.put(DATA, struct.pack("<IH", 0x1234, 0x10))
    code = b"\xc4\x05" + struct.pack("<I", DATA) + b"\xc5\x0d" + struct.pack("<I", DATA) + b"\x01\xc8"
    assert outcome(guest, code, protected=True) == [(RESULT, 0x2468)]


def test_an_absent_instruction_that_becomes_a_present_one(guest: Guest) -> None:
    """VADDPS xmm0, xmm0, xmm1 becomes ANDN eax, eax, ecx by changes behind its first two bytes."""
    at = HANDLERS + 0x1000
    guest.gate64(6, HANDLERS)
    # handler: write the bytes of ANDN over it, return
    guest.put(HANDLERS, b"\xc7\x04\x25" + struct.pack("<I", at + 1) + bytes.fromhex("e278f2c1") + b"\x48\xcf")
    guest.put(at, bytes.fromhex("c4e17858c1") + _LOG_EAX)
    guest.run_long(load(0, 0xF0) + load(1, 0xFF) + load(3, at) + b"\xff\xe3")
    assert guest.out == [(RESULT, 0x0F)]
    assert guest.memory[at : at + 5] == bytes.fromhex("c4e278f2c1")
