"""The _DSM port: QEMU's answers, its limits, and a guest that wants to hurt us."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.config import OnOffAuto
from emu.devices.nvdimm.dsm import MAX_TRANSFER, DsmPort
from emu.errors import StateError
from emu.state import SavedState, Value
from emu.units import KIB
from tests.unit.nvdimm.nvdimm_doubles import BACKEND, LABEL_SIZE, FakeBacking, FakeMemory, device

PAGE = 0x3000
SIZE = 256 * KIB


class Guest:
    """A guest with NVDIMMs in slots 0 (labels), 1 (none) and 2 (labels, read-only)."""

    def __init__(self) -> None:
        self.memory = FakeMemory(SIZE)
        self.port = DsmPort(self.memory)
        self.backing = FakeBacking(SIZE)
        rom = device(
            FakeBacking(SIZE, readonly=True), slot=2, backend=replace(BACKEND, readonly=True), unarmed=OnOffAuto.ON
        )
        for dimm in (device(self.backing), device(FakeBacking(SIZE), slot=1, label_size=0), rom):
            self.port.plug(dimm)

    def call(self, handle: int, function: int, arguments: bytes = b"", *, revision: int = 1, at: int = PAGE) -> bytes:
        page = struct.pack("<III", handle, revision, function) + arguments
        self.memory.content[at : at + 4096] = page.ljust(4096, b"\xee")[:4096]
        self.port.write(0, 4, at)
        (length,) = struct.unpack_from("<I", self.memory.content, at)
        assert 8 <= length <= 4096
        assert self.memory.writes[-1] == (at, length)
        return bytes(self.memory.content[at + 4 : at + length])


def transfer(offset: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack("<II", offset, length) + data


def word(value: int) -> bytes:
    return struct.pack("<I", value)


def test_root_and_functions() -> None:
    guest = Guest()
    assert guest.call(0, 0) == word(0)
    assert guest.call(0, 1) == word(1)
    assert guest.call(0x10000, 0) == word(3)
    assert guest.call(0x10000, 2) == word(1)
    assert guest.call(1, 0) == word(0x71)
    assert guest.call(2, 0) == word(0)
    assert guest.call(5, 0) == word(0)
    assert guest.call(5, 4) == word(2)
    assert guest.call(2, 4) == word(1)
    assert guest.call(1, 3) == word(1)
    for handle in (0, 1, 5, 0x10000):
        assert guest.call(handle, 0, revision=2) == word(1)


def test_label_size() -> None:
    assert Guest().call(1, 4) == struct.pack("<III", 0, LABEL_SIZE, 4076)
    assert MAX_TRANSFER == 0xFEC


def test_labels_are_written_durably_and_read_back() -> None:
    guest = Guest()
    data = bytes(range(256)) * 15 + bytes(236)
    assert len(data) == MAX_TRANSFER
    assert guest.call(1, 6, transfer(100, len(data), data)) == word(0)
    start = SIZE - LABEL_SIZE
    assert guest.backing.persisted == [(start + 100, len(data))]
    assert guest.backing.content[start + 100 : start + 100 + len(data)] == data
    assert guest.call(1, 5, transfer(100, len(data))) == word(0) + data
    assert guest.memory.content[PAGE + 8 + len(data) : PAGE + 4096] == b"\xee" * (4088 - len(data))


@pytest.mark.parametrize(
    ("offset", "length", "status"),
    [
        (0, 4077, 3),
        (LABEL_SIZE - 16, 16, 0),
        (LABEL_SIZE - 16, 17, 3),
        (0xFFFFFFFF, 2, 3),
        (2, 0xFFFFFFFF, 3),
        (LABEL_SIZE, 1, 3),
        (0, 0, 0),
        (LABEL_SIZE, 0, 0),
        (LABEL_SIZE + 1, 0, 3),
    ],
)
def test_limits(offset: int, length: int, status: int) -> None:
    guest = Guest()
    before = bytes(guest.backing.content)
    answer = guest.call(1, 5, transfer(offset, length))
    assert answer == word(status) + (bytes(length) if status == 0 else b"")
    assert guest.call(1, 6, transfer(offset, length, bytes(4076))) == word(status)
    assert bytes(guest.backing.content) == before


def test_read_only_labels() -> None:
    guest = Guest()
    assert guest.call(3, 5, transfer(0, 4)) == bytes(8)
    assert guest.call(3, 6, transfer(0, 4, b"abcd")) == word(1)
    assert guest.call(3, 6, transfer(0, 4077, b"abcd")) == word(3)


def test_a_medium_that_fails_is_a_status() -> None:
    guest = Guest()
    guest.backing.broken = True
    assert guest.call(1, 6, transfer(0, 4, b"abcd")) == word(4)


def test_read_fit() -> None:
    guest = Guest()
    fit = guest.port.fit
    assert len(fit) == 3 * 184
    assert guest.call(0x10000, 1, word(16)) == word(0x100)
    assert guest.call(0x10000, 1, word(0)) == word(0) + fit
    assert guest.call(0x10000, 1, word(16)) == word(0) + fit[16:]
    assert guest.call(0x10000, 1, word(len(fit))) == word(0)
    assert guest.call(0x10000, 1, word(len(fit) + 1)) == word(3)
    guest.port.plug(device(slot=3))
    assert guest.call(0x10000, 1, word(len(fit))) == word(0x100)
    assert guest.call(0x10000, 1, word(0)) == word(0) + guest.port.fit
    with pytest.raises(ValueError, match="slot 3 is taken"):
        guest.port.plug(device(slot=3))


def test_a_large_fit_comes_in_pieces() -> None:
    guest = Guest()
    for slot in range(3, 40):
        guest.port.plug(device(slot=slot))
    pieces = b""
    while piece := guest.call(0x10000, 1, word(len(pieces)))[4:]:
        assert len(piece) <= 4088
        pieces += piece
    assert pieces == guest.port.fit
    assert len(pieces) == 40 * 184


@pytest.mark.parametrize("gpa", [SIZE, SIZE - 4095, 0xFFFFFFFF, 0xFFFFF000])
def test_pages_outside_of_memory_are_ignored(gpa: int) -> None:
    guest = Guest()
    guest.port.write(0, 4, gpa)
    assert guest.memory.writes == []


def test_other_accesses_do_nothing() -> None:
    guest = Guest()
    for offset, size in ((0, 1), (0, 2), (1, 2), (2, 2), (3, 1)):
        guest.port.write(offset, size, PAGE)
        assert guest.port.read(offset, size) == 0
    assert guest.memory.writes == []
    guest.memory.readonly = True
    guest.port.write(0, 4, PAGE)


def test_an_unaligned_page_works_as_in_qemu() -> None:
    assert Guest().call(1, 0, at=0x3003) == word(0x71)


def test_state() -> None:
    guest, other = Guest(), Guest()
    guest.call(0x10000, 1, word(0))
    guest.port.reset()
    other.port.parse(guest.port.save())()
    assert other.port.inspect() == {"slots": [0, 1, 2], "fit_size": 552, "fit_changed": False}
    hostile: list[dict[str, Value]] = [
        {},
        {"fit_changed": 1, "slots": [0, 1, 2]},
        {"fit_changed": True, "slots": [0, 1, 3]},
    ]
    for fields in hostile:
        with pytest.raises(StateError):
            other.port.parse(SavedState("nvdimm-dsm", 1, fields))()


_NUMBERS = (0, 1, 2, 3, 4, 5, 6, 7, 0x71, 4075, 4076, 4077, LABEL_SIZE - 1, LABEL_SIZE, LABEL_SIZE + 1, 0x10000,
            0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
_CALL_BYTES = 30


def decode(raw: bytes) -> tuple[bytes, int, int]:
    """(page, address, access size) of a call made of random bytes, mostly of numbers that matter."""
    word = struct.unpack_from("<6I", raw)

    def pick(number: int, *likely: int) -> int:
        selector = raw[24 + number]
        if selector < 128:
            return likely[selector % len(likely)]
        return _NUMBERS[selector % len(_NUMBERS)] if selector < 224 else word[number]

    handle = pick(0, 0, 1, 1, 2, 3, 4, 0x10000)
    page = struct.pack(
        "<IIIII", handle, pick(1, 1), pick(2, 0, 1, 4, 5, 5, 6, 6), pick(3, *_NUMBERS), pick(4, *_NUMBERS)
    )
    size = 4 if raw[29] >= 16 else (1, 2)[raw[29] & 1]
    return (page + raw).ljust(4096, b"\xcd"), pick(5, 0, PAGE, PAGE + 1, SIZE - 4096, SIZE - 4095, SIZE), size


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=20 * _CALL_BYTES, max_size=20 * _CALL_BYTES))
def test_hostile_calls(raw: bytes) -> None:
    """Nothing raises; only the label areas of writable NVDIMMs change, and of the page only the answer."""
    guest = Guest()
    for place in range(0, len(raw), _CALL_BYTES):
        page, gpa, size = decode(raw[place : place + _CALL_BYTES])
        if gpa <= SIZE - 4096:
            guest.memory.content[gpa : gpa + 4096] = page
        guest.memory.writes.clear()
        guest.port.write(0, size, gpa)
        for at, length in guest.memory.writes:
            assert at == gpa
            assert 8 <= length <= 4096
            assert struct.unpack_from("<I", guest.memory.content, at) == (length,)
            assert guest.memory.content[at + length : at + 4096] == page[length:]
        assert bool(guest.memory.writes) == (size == 4 and gpa <= SIZE - 4096)
    start = SIZE - LABEL_SIZE
    assert guest.backing.content[:start] == bytes(start)
    assert all(start <= at and at + length <= SIZE for at, length in guest.backing.persisted)
    assert len(guest.backing.content) == SIZE
