"""Code that is changed is executed as changed, whichever way the store takes."""

from __future__ import annotations

import struct

import pytest

from tests.unit.cpu.cpu_harness import HANDLERS, HLT, TABLES, Guest
from tests.unit.cpu.dirty_state import load

FUNCTION, SECOND = 0x150000, 0x150080
ALIAS = 0x80000000
_DIRECTORY, _TABLE = 0x30000, 0x31000
_NX = 1 << 63
_ENABLE_NX = b"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x08\x00\x00\x0f\x30"


def returns(value: int) -> bytes:
    """MOV EAX; RET."""
    return b"\xb8" + struct.pack("<I", value) + b"\xc3"


def call(address: int) -> bytes:
    """Call it and log EAX at port 80h."""
    return b"\xbf" + struct.pack("<I", address) + b"\xff\xd7\xe7\x80"


def store(offset: int, value: int) -> bytes:
    """MOV DWORD [RBX + offset]."""
    return b"\xc7\x83" + struct.pack("<II", offset, value)


@pytest.fixture
def aliased(guest: Guest, request: pytest.FixtureRequest) -> Guest:
    """The functions' page is seen at ``ALIAS`` too, with the page's attributes given as parameter."""
    guest.put(TABLES + 0x1000 + 16, struct.pack("<Q", _DIRECTORY | 7))
    guest.put(_DIRECTORY, struct.pack("<Q", _TABLE | 7))
    guest.put(_TABLE, struct.pack("<Q", FUNCTION | 3 | request.param))
    guest.put(FUNCTION, returns(1))
    guest.put(SECOND, returns(2))
    return guest


@pytest.mark.parametrize("aliased", [0, _NX], indirect=True, ids=["executable", "data"])
def test_stores_through_another_address(aliased: Guest) -> None:
    code = _ENABLE_NX + load(3, ALIAS) + store(0x800, 0)  # a first store, before there is code
    code += call(FUNCTION) + call(SECOND)
    for offset, value in ((1, 0x11), (0x81, 0x22), (1, 0x33), (0x81, 0x44)):
        code += store(offset, value) + call(FUNCTION) + call(SECOND)
    aliased.run_long(code + HLT)
    expected = [1, 2, 0x11, 2, 0x11, 0x22, 0x33, 0x22, 0x33, 0x44]
    assert [value for _, value in aliased.out] == expected


@pytest.mark.parametrize("aliased", [_NX], indirect=True)
def test_a_loop_that_changes_a_function_each_turn(aliased: Guest) -> None:
    turn = b"\x89\x6b\x01" + call(FUNCTION) + b"\xff\xcd"  # mov [rbx+1], ebp; ...; dec ebp
    turn += b"\x75" + bytes([256 - len(turn) - 2])
    aliased.run_long(_ENABLE_NX + load(3, ALIAS) + load(5, 50) + turn + HLT)
    assert [value for _, value in aliased.out] == list(range(50, 0, -1))


@pytest.mark.parametrize("aliased", [_NX], indirect=True)
def test_string_and_locked_stores_through_another_address(aliased: Guest) -> None:
    code = _ENABLE_NX + load(3, ALIAS) + call(FUNCTION)
    code += load(7, ALIAS + 1) + b"\xb0\x07\xaa" + call(FUNCTION)  # stosb
    code += b"\xf0\x83\x43\x01\x03" + call(FUNCTION)  # lock add dword [rbx+1], 3
    aliased.run_long(code + HLT)
    assert [value for _, value in aliased.out] == [1, 7, 10]


@pytest.mark.parametrize("aliased", [0], indirect=True)
def test_a_changed_mapping_of_the_code(aliased: Guest) -> None:
    """The alias is executed and its page then replaced: INVLPG."""
    aliased.put(0x160000, returns(9))
    page = 0x160000 | 3
    code = load(3, ALIAS) + b"\xff\xd3\xe7\x80"  # call rbx; out
    code += load(0, page) + b"\x48\x89\x04\x25" + struct.pack("<I", _TABLE) + b"\x0f\x01\x3b\xff\xd3\xe7\x80"
    aliased.run_long(code + HLT)
    assert [value for _, value in aliased.out] == [1, 9]


@pytest.mark.parametrize("aliased", [0], indirect=True)
def test_an_exception_frame_on_top_of_code(aliased: Guest) -> None:
    """#UD with a stack in the functions' page. The frame begins with RIP, whose low byte is the code of RET."""
    frame, fault = 0xFD8, 0x1600C3
    aliased.gate64(6, HANDLERS)
    aliased.put(HANDLERS, load(4, 0x180000) + load(0, 7) + call(FUNCTION + frame) + HLT)
    aliased.put(FUNCTION + frame, returns(5))
    aliased.put(fault, b"\x0f\x0b")
    aliased.run_long(call(FUNCTION + frame) + load(4, ALIAS + 0x1000) + load(0, fault) + b"\xff\xe0")
    assert aliased.memory[FUNCTION + frame] == 0xC3
    assert [value for _, value in aliased.out] == [5, 7]


@pytest.mark.parametrize("aliased", [0], indirect=True)
def test_a_device_writes_over_code(aliased: Guest) -> None:
    """From the callback of an OUT, as a device does."""

    def write(port: int, size: int, value: int) -> None:
        aliased.out.append((port, value))
        if port == 0x70:
            aliased.put(FUNCTION, returns(3))
            aliased.cpu.written(FUNCTION, bytes(6))

    aliased.cpu.on_port_write = write
    aliased.run_long(call(FUNCTION) + b"\xe6\x70" + call(FUNCTION) + HLT)
    assert [value for port, value in aliased.out if port == 0x80] == [1, 3]


@pytest.mark.parametrize("aliased", [0], indirect=True)
def test_a_device_that_writes_data_costs_no_code(aliased: Guest) -> None:
    aliased.run_long(call(FUNCTION) + HLT)
    aliased.cpu.written(0x190000, bytes(0x2000))
    assert not aliased.cpu._want_flush
    aliased.cpu.written(FUNCTION - 1, bytes(2))
    assert aliased.cpu._want_flush
