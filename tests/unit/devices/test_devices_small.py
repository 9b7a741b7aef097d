"""Debug console, exit port, panic port and keyboard-controller reset."""

from __future__ import annotations

import pytest

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.contract import ExitRequest
from emu.devices.debugcon import DebugConsole
from emu.devices.debugexit import DebugExit
from emu.devices.kbdreset import KeyboardReset
from emu.devices.pvpanic import PanicPort


def test_debug_console_sends_every_byte_and_identifies_itself() -> None:
    out: list[bytes] = []
    bus = PortBus()
    bus.add(0xE9, 1, DebugConsole(out.append))
    for byte in b"hi\n":
        bus.write(0xE9, 1, byte)
    assert b"".join(out) == b"hi\n"
    assert bus.read(0xE9, 1) == 0xE9


@pytest.mark.parametrize(
    ("length", "size", "value", "status", "code"),
    [
        (4, 1, 0, 1, 0),
        (4, 4, 1, 3, 1),
        (4, 2, 0x10, 33, 0x10),
        (4, 4, 0x1234, 0x69, 0x1234),  # a process has eight bits of status
        (1, 4, 0x1234, 0x69, 0x34),  # a window of one port takes the low byte
        (2, 4, 0xAABBCCDD, 0xBB, 0xCCDD),
    ],
)
def test_exit_port_status_is_always_odd(length: int, size: int, value: int, status: int, code: int) -> None:
    ended: list[ExitRequest] = []
    bus = PortBus()
    bus.add(0xF4, length, DebugExit(ended.append))
    bus.write(0xF4, size, value)
    assert ended == [ExitRequest("exit-port", status, code)]
    assert bus.read(0xF4, 1) == 0


def test_panic_port_ends_the_machine_but_a_loaded_crash_kernel_does_not() -> None:
    ended: list[ExitRequest] = []
    port = PanicPort(ended.append)
    assert port.read(0, 1) == 3
    port.write(0, 1, 2)
    assert ended == []
    assert port.inspect() == {"crash_loaded": True}
    port.write(0, 1, 1)
    assert ended == [ExitRequest("panic", 6)]


def test_keyboard_controller_resets_on_fe_only_and_never_keeps_a_guest_waiting() -> None:
    resets: list[int] = []
    bus = PortBus()
    bus.attach(KeyboardReset(lambda: resets.append(1)), at.KEYBOARD)
    assert bus.read(0x64, 1) & 3 == 0
    for command in (0xD1, 0xFF, 0xAA):
        bus.write(0x64, 1, command)
    bus.write(0x60, 1, 0xFE)
    assert resets == []
    bus.write(0x64, 1, 0xFE)
    assert resets == [1]
