from __future__ import annotations

import pytest

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.contract import ExitRequest
from emu.devices.power import Power


class Wired:
    def __init__(self) -> None:
        self.now = 0
        self.sci = False
        self.ended: list[ExitRequest] = []
        self.resets = 0
        self.power = Power(sci=self._set, end=self.ended.append, reset=self._reset, now=lambda: self.now)
        self.bus = PortBus()
        self.bus.attach(self.power, at.POWER)

    def _set(self, level: bool) -> None:
        self.sci = level

    def _reset(self) -> None:
        self.resets += 1


@pytest.fixture
def pc() -> Wired:
    return Wired()


def test_acpi_mode_is_always_on(pc: Wired) -> None:
    assert pc.bus.read(0x604, 2) == 1
    pc.bus.write(0x604, 2, 0)
    assert pc.bus.read(0x604, 2) == 1


def test_sleep_type_0_is_power_off(pc: Wired) -> None:
    pc.bus.write(0x604, 2, 0x2000)
    assert pc.ended == [ExitRequest("power-off", 0)]
    assert pc.bus.read(0x604, 2) == 1, "SLP_EN reads 0"


def test_power_off_by_a_byte_write_of_the_upper_half(pc: Wired) -> None:
    pc.bus.write(0x605, 1, 0x20)
    assert pc.ended == [ExitRequest("power-off", 0)]


@pytest.mark.parametrize("value", [0x0000, 0x1C00, 0x2400, 0x3C00])
def test_other_sleep_types_do_nothing(pc: Wired, value: int) -> None:
    pc.bus.write(0x604, 2, value)
    assert pc.ended == []
    assert pc.bus.read(0x604, 2) == (value & 0x1C00) | 1


def test_power_button_raises_sci_once_it_is_enabled(pc: Wired) -> None:
    pc.power.press_power_button()
    assert not pc.sci
    assert pc.bus.read(0x600, 2) == 0x0100
    pc.bus.write(0x602, 2, 0x0100)
    assert pc.sci
    pc.bus.write(0x600, 2, 0x0100)
    assert not pc.sci
    assert pc.bus.read(0x600, 4) == 0x0100_0000


def test_writing_the_whole_event_block_keeps_halves_apart(pc: Wired) -> None:
    pc.power.press_power_button()
    pc.bus.write(0x600, 4, 0xFFFF_0000)
    assert pc.bus.read(0x600, 2) == 0x0100, "writing zeros to status clears nothing"
    assert pc.bus.read(0x602, 2) == 0x0721, "only the defined enable bits stick"
    assert pc.sci


def test_general_purpose_event_4_raises_sci(pc: Wired) -> None:
    pc.power.raise_gpe(4)
    assert pc.bus.read(0x620, 1) == 0x10
    assert not pc.sci
    pc.bus.write(0x628, 1, 0x10)
    assert pc.sci
    pc.bus.write(0x620, 1, 0xEF)
    assert pc.sci
    pc.bus.write(0x620, 4, 0x10)
    assert not pc.sci
    assert pc.bus.read(0x628, 2) == 0x10


@pytest.mark.parametrize("bit", [-1, 64])
def test_there_are_64_general_purpose_events(pc: Wired, bit: int) -> None:
    with pytest.raises(ValueError, match="general-purpose"):
        pc.power.raise_gpe(bit)


def test_the_timer_counts_at_its_rate_in_24_bits(pc: Wired) -> None:
    pc.now = 1_000_000_000
    assert pc.bus.read(0x608, 4) == 3_579_545
    pc.now = 10_000_000_000
    assert pc.bus.read(0x608, 4) == 35_795_450 % (1 << 24)
    pc.bus.write(0x608, 4, 0)
    assert pc.bus.read(0x609, 2) == (35_795_450 % (1 << 24)) >> 8


def test_timer_status_comes_with_each_change_of_the_highest_bit(pc: Wired) -> None:
    assert pc.power.next_event() is None
    pc.bus.write(0x602, 2, 0x0001)
    due = pc.power.next_event()
    assert due is not None
    pc.now = due - 1
    pc.power.catch_up(pc.now)
    assert not pc.sci
    pc.now = due
    pc.power.catch_up(pc.now)
    assert pc.sci
    assert pc.bus.read(0x608, 4) == 1 << 23
    assert pc.power.next_event() is None, "nothing to wait for while the status bit is set"
    pc.bus.write(0x600, 2, 0x0001)
    assert not pc.sci
    assert pc.power.next_event() == -(-(1 << 24) * 10**9 // 3_579_545)


@pytest.mark.parametrize("value", [0x04, 0x06, 0x0E, 0x0F])
def test_reset_control_resets_with_bit_2(pc: Wired, value: int) -> None:
    pc.bus.write(0xCF9, 1, value & ~4)
    assert pc.resets == 0
    pc.bus.write(0xCF9, 1, value)
    assert pc.resets == 1


def test_probing_for_pci_resets_nothing_and_finds_the_host_bridge_alone(pc: Wired) -> None:
    pc.bus.write(0xCF8, 4, 0x8000_FFFC)
    pc.bus.write(0xCF8, 2, 0x0600)
    assert pc.resets == 0
    assert pc.bus.read(0xCF8, 4) == 0x8000_FFFC
    assert pc.bus.read(0xCFC, 4) == 0xFFFF_FFFF
    pc.bus.write(0xCF8, 4, 0x8000_0008)
    assert pc.bus.read(0xCFC, 4) == 0x0600_0000
    assert pc.bus.read(0xCFE, 2) == 0x0600
    for device in range(1, 256):
        pc.bus.write(0xCF8, 4, 0x8000_0000 | device << 8)
        assert pc.bus.read(0xCFC, 4) == 0xFFFF_FFFF
    pc.bus.write(0xCF8, 4, 0x0000_0000)
    assert pc.bus.read(0xCFC, 4) == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("register", "size", "value"), [(0, 2, 0x8086), (2, 2, 0x29C0), (0x2E, 2, 0x1100), (0x10, 4, 0)]
)
def test_the_host_bridge_is_that_of_qemus_q35(pc: Wired, register: int, size: int, value: int) -> None:
    pc.bus.write(0xCF8, 4, 0x8000_0000 | register & ~3)
    assert pc.bus.read(0xCFC + register % 4, size) == value
