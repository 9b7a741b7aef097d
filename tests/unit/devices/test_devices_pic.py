from __future__ import annotations

import pytest

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.pic import PicPair


class Wired:
    """An initialised pair: vectors 0x20 and 0x28, nothing masked."""

    def __init__(self, *, auto_eoi: bool = False, nested: bool = False) -> None:
        self.intr = False
        self.pic = PicPair(self._set)
        self.bus = PortBus()
        self.bus.attach(self.pic, at.PIC)
        last = 0x01 | (0x02 if auto_eoi else 0) | (0x10 if nested else 0)
        for port, base, wiring in ((0x20, 0x20, 0x04), (0xA0, 0x28, 0x02)):
            self.bus.write(port, 1, 0x11)
            for value in (base, wiring, last):
                self.bus.write(port + 1, 1, value)
        self.lines = {n: self.pic.line(n) for n in range(16) if n != 2}

    def _set(self, level: bool) -> None:
        self.intr = level

    def pulse(self, line: int) -> None:
        self.lines[line](True)
        self.lines[line](False)

    def end(self, line: int) -> None:
        """Non-specific end of interrupt, as handlers send it."""
        if line >= 8:
            self.bus.write(0xA0, 1, 0x20)
        self.bus.write(0x20, 1, 0x20)

    def registers(self, port: int = 0x20) -> tuple[int, int]:
        self.bus.write(port, 1, 0x0A)
        irr = self.bus.read(port, 1)
        self.bus.write(port, 1, 0x0B)
        return irr, self.bus.read(port, 1)


@pytest.fixture
def pair() -> Wired:
    return Wired()


def test_an_edge_is_latched_delivered_once_and_ended(pair: Wired) -> None:
    pair.pulse(4)
    assert pair.intr
    assert pair.pic.pending()
    assert pair.registers() == (0x10, 0x00)
    assert pair.pic.acknowledge() == 0x24
    assert not pair.intr
    assert pair.registers() == (0x00, 0x10)
    pair.end(4)
    assert pair.registers() == (0x00, 0x00)


def test_a_line_that_stays_up_requests_once(pair: Wired) -> None:
    pair.lines[3](True)
    assert pair.pic.acknowledge() == 0x23
    pair.end(3)
    assert not pair.intr
    pair.lines[3](True)
    assert not pair.intr
    pair.lines[3](False)
    pair.lines[3](True)
    assert pair.intr


def test_a_level_triggered_line_requests_while_it_is_up(pair: Wired) -> None:
    pair.bus.write(0x4D1, 1, 0x02)
    pair.lines[9](True)
    assert pair.pic.acknowledge() == 0x29
    pair.end(9)
    assert pair.intr, "the device did not take its request back"
    pair.lines[9](False)
    assert not pair.intr


def test_elcr_leaves_the_chip_set_lines_edge_triggered(pair: Wired) -> None:
    pair.bus.write(0x4D0, 2, 0xFFFF)
    assert pair.bus.read(0x4D0, 2) == 0xDEF8


def test_priorities_and_nesting(pair: Wired) -> None:
    pair.pulse(5)
    pair.pulse(3)
    assert pair.pic.acknowledge() == 0x23
    assert not pair.intr, "line 5 waits for the end of line 3"
    pair.pulse(1)
    assert pair.pic.acknowledge() == 0x21, "line 1 interrupts line 3"
    pair.end(1)
    assert not pair.intr
    pair.end(3)
    assert pair.pic.acknowledge() == 0x25


def test_the_slave_comes_in_at_line_2(pair: Wired) -> None:
    pair.pulse(3)
    pair.pulse(8)
    assert pair.pic.acknowledge() == 0x28
    assert pair.registers() == (0x08, 0x04)
    assert pair.registers(0xA0) == (0x00, 0x01)
    pair.end(8)
    assert pair.pic.acknowledge() == 0x23


def test_a_second_slave_request_is_not_lost(pair: Wired) -> None:
    pair.pulse(12)
    pair.pulse(14)
    assert pair.pic.acknowledge() == 0x2C
    pair.end(12)
    assert pair.pic.acknowledge() == 0x2E
    pair.end(14)
    assert not pair.intr


def test_slave_with_automatic_end_delivers_all(pair: Wired) -> None:
    pair = Wired(auto_eoi=True)
    for line in (15, 12, 8):
        pair.pulse(line)
    assert [pair.pic.acknowledge() for _ in range(3)] == [0x28, 0x2C, 0x2F]
    assert not pair.intr


def test_special_fully_nested_master_lets_the_slave_interrupt_itself() -> None:
    for nested, expected in ((False, False), (True, True)):
        pair = Wired(nested=nested)
        pair.pulse(12)
        pair.pic.acknowledge()
        pair.pulse(8)
        assert pair.intr is expected


def test_masks_hold_requests_back(pair: Wired) -> None:
    pair.bus.write(0x21, 1, 0x10)
    pair.pulse(4)
    assert not pair.intr
    assert pair.bus.read(0x21, 1) == 0x10
    pair.bus.write(0x21, 1, 0x00)
    assert pair.intr


def test_masking_the_cascade_masks_the_slave(pair: Wired) -> None:
    pair.bus.write(0x21, 1, 0x04)
    pair.pulse(10)
    assert not pair.intr


def test_a_request_that_went_away_is_spurious_line_7(pair: Wired) -> None:
    pair.pulse(4)
    pair.bus.write(0x21, 1, 0xFF)
    assert pair.pic.acknowledge() == 0x27
    assert pair.registers()[1] == 0, "a spurious interrupt is not in service"


def test_a_slave_request_that_went_away_is_spurious_line_15(pair: Wired) -> None:
    pair.bus.write(0x4D1, 1, 0x02)
    pair.lines[9](True)
    # The master has latched the request in its acknowledge cycle when the slave is asked.
    master, slave = pair.pic._chips
    slave.imr = 0xFF
    assert master.requested() == 2
    assert pair.pic.acknowledge() == 0x2F
    assert pair.registers()[1] == 0x04, "the master does not know and needs its end of interrupt"
    assert pair.registers(0xA0)[1] == 0x00


def test_specific_end_of_interrupt(pair: Wired) -> None:
    pair.pulse(5)
    pair.pic.acknowledge()
    pair.pulse(3)
    pair.pic.acknowledge()
    pair.bus.write(0x20, 1, 0x65)
    assert pair.registers()[1] == 0x08


def test_rotation_gives_the_served_line_the_lowest_priority(pair: Wired) -> None:
    pair.pulse(3)
    pair.pic.acknowledge()
    pair.bus.write(0x20, 1, 0xA0)
    pair.pulse(3)
    pair.pulse(4)
    assert pair.pic.acknowledge() == 0x24
    pair.bus.write(0x20, 1, 0x20)
    assert pair.pic.acknowledge() == 0x23
    pair.bus.write(0x20, 1, 0xE3)
    assert pair.registers()[1] == 0


def test_set_priority_and_rotation_at_automatic_end() -> None:
    pair = Wired(auto_eoi=True)
    pair.bus.write(0x20, 1, 0xC4)
    for line in (4, 5, 0):
        pair.pulse(line)
    assert [pair.pic.acknowledge() for _ in range(3)] == [0x25, 0x20, 0x24]
    pair.bus.write(0x20, 1, 0xC7)
    pair.bus.write(0x20, 1, 0x80)
    pair.pulse(0)
    assert pair.pic.acknowledge() == 0x20
    pair.pulse(0)
    pair.pulse(1)
    assert pair.pic.acknowledge() == 0x21, "line 0 was served and came last"
    pair.bus.write(0x20, 1, 0x00)


def test_special_mask_mode_lets_lower_lines_in(pair: Wired) -> None:
    pair.pulse(1)
    pair.pic.acknowledge()
    pair.pulse(6)
    pair.bus.write(0x21, 1, 0x02)
    assert not pair.intr
    pair.bus.write(0x20, 1, 0x68)
    assert pair.intr
    pair.bus.write(0x20, 1, 0x48)
    assert not pair.intr


def test_poll_acknowledges_without_the_processor(pair: Wired) -> None:
    pair.pulse(6)
    pair.bus.write(0x20, 1, 0x0C)
    assert pair.bus.read(0x20, 1) == 0x86
    assert not pair.intr
    assert pair.registers()[1] == 0x40
    pair.bus.write(0x20, 1, 0x0C)
    assert pair.bus.read(0x20, 1) == 0x00


def test_initialising_again_forgets_requests_service_and_masks(pair: Wired) -> None:
    pair.pulse(3)
    pair.pic.acknowledge()
    pair.pulse(1)
    pair.bus.write(0x21, 1, 0xF0)
    pair.bus.write(0x20, 1, 0x11)
    assert pair.registers() == (0, 0)
    for value in (0x40, 4, 1):
        pair.bus.write(0x21, 1, value)
    assert pair.bus.read(0x21, 1) == 0
    pair.pulse(3)
    assert pair.pic.acknowledge() == 0x43


def test_single_chip_without_icw4_takes_one_word() -> None:
    pair = Wired()
    pair.bus.write(0x20, 1, 0x12)
    pair.bus.write(0x21, 1, 0x57)
    pair.bus.write(0x21, 1, 0xAB)
    assert pair.bus.read(0x21, 1) == 0xAB


def test_reset_leaves_what_firmware_would() -> None:
    pair = Wired()
    pair.pulse(3)
    pair.pic.reset()
    assert not pair.intr
    assert (pair.bus.read(0x21, 1), pair.bus.read(0xA1, 1)) == (0xFB, 0xFF)
    pair.bus.write(0xA1, 1, 0xFE)
    pair.pulse(8)
    assert pair.pic.acknowledge() == 0x70


@pytest.mark.parametrize("number", [-1, 2, 16])
def test_lines_that_do_not_exist(pair: Wired, number: int) -> None:
    with pytest.raises(ValueError, match="no interrupt line"):
        pair.pic.line(number)


def test_in_special_mask_mode_the_non_specific_end_leaves_masked_lines(pair: Wired) -> None:
    pair.pulse(1)
    pair.pic.acknowledge()
    pair.bus.write(0x21, 1, 0x02)
    pair.bus.write(0x20, 1, 0x68)
    pair.pulse(6)
    pair.pic.acknowledge()
    pair.bus.write(0x20, 1, 0x20)
    assert pair.registers()[1] == 0x02
