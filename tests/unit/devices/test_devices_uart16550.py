from __future__ import annotations

import pytest

from emu.devices.uart16550 import BACKLOG, Uart16550

RBR = THR = 0
IER, IIR, LCR, MCR, LSR, MSR, SCR = range(1, 8)
FCR = IIR


class Wired:
    def __init__(self) -> None:
        self.line = False
        self.changes = 0
        self.sent = b""
        self.uart = Uart16550(self._set, self._send)

    def _set(self, level: bool) -> None:
        self.line = level
        self.changes += 1

    def _send(self, data: bytes) -> None:
        self.sent += data

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def write(self, register: int, value: int) -> None:
        self.uart.write(register, 1, value)


@pytest.fixture
def com1() -> Wired:
    return Wired()


def test_reset_values_are_those_a_pc_shows(com1: Wired) -> None:
    assert [com1.read(n) for n in range(1, 8)] == [0x00, 0x01, 0x00, 0x08, 0x60, 0xB0, 0x00]


def test_transmission_is_instant_and_the_transmitter_always_empty(com1: Wired) -> None:
    for byte in b"hello":
        com1.write(THR, byte)
        assert com1.read(LSR) == 0x60
    assert com1.sent == b"hello"


def test_divisor_latch_hides_data_and_interrupt_enable(com1: Wired) -> None:
    com1.write(IER, 0x05)
    com1.write(LCR, 0x83)
    com1.write(0, 0x34)
    com1.write(1, 0x12)
    assert (com1.read(0), com1.read(1)) == (0x34, 0x12)
    com1.write(LCR, 0x03)
    assert com1.read(IER) == 0x05
    assert com1.sent == b""


def test_unimplemented_bits_read_zero(com1: Wired) -> None:
    for register, mask in ((IER, 0x0F), (MCR, 0x1F), (SCR, 0xFF), (LCR, 0xFF)):
        com1.write(register, 0xFF)
        assert com1.read(register) == mask
        com1.write(register, 0)


def test_fifo_bits_show_in_iir(com1: Wired) -> None:
    com1.write(FCR, 0x01)
    assert com1.read(IIR) == 0xC1
    com1.write(FCR, 0x00)
    assert com1.read(IIR) == 0x01


def test_thre_interrupt_comes_with_its_enable_and_goes_with_reading_iir(com1: Wired) -> None:
    com1.write(IER, 0x02)
    assert com1.line
    assert com1.read(IIR) == 0x02
    assert not com1.line
    assert com1.read(IIR) == 0x01
    com1.write(THR, 0x41)
    assert com1.line
    com1.write(IER, 0x00)
    assert not com1.line


def test_received_bytes_come_in_order_and_drop_the_line_when_read(com1: Wired) -> None:
    com1.write(IER, 0x01)
    assert com1.uart.receive(b"ab") == 2
    assert com1.line
    assert com1.read(IIR) == 0x04
    assert com1.read(LSR) == 0x61
    assert (com1.read(RBR), com1.read(RBR)) == (0x61, 0x62)
    assert not com1.line
    assert com1.read(LSR) == 0x60
    assert com1.read(RBR) == 0


def test_below_the_trigger_level_the_timeout_interrupt_comes(com1: Wired) -> None:
    com1.write(FCR, 0x81)
    com1.write(IER, 0x01)
    com1.uart.receive(b"1234567")
    assert com1.read(IIR) == 0xCC
    com1.uart.receive(b"8")
    assert com1.read(IIR) == 0xC4


def test_nothing_is_lost_when_more_arrives_than_the_fifo_holds(com1: Wired) -> None:
    data = bytes(range(200))
    com1.write(FCR, 0x01)
    com1.uart.receive(data)
    got = bytearray()
    while com1.read(LSR) & 1:
        got.append(com1.read(RBR))
    assert bytes(got) == data


def test_the_backlog_is_bounded_and_says_so(com1: Wired) -> None:
    com1.read(LSR)
    assert com1.uart.receive(bytes(BACKLOG)) == BACKLOG
    assert com1.uart.receive(b"x" * 10) == 1  # the byte that moved into the receiver made room for one
    assert com1.uart.receive(b"x") == 0


def test_what_was_typed_ahead_survives_a_driver_that_clears_the_fifo_first(com1: Wired) -> None:
    com1.uart.receive(b"early")
    com1.write(FCR, 0x07)
    com1.write(IER, 0x01)
    assert com1.read(IIR) == 0xC4
    assert bytes(com1.read(RBR) for _ in range(5)) == b"early"
    assert com1.read(LSR) & 1 == 0


def test_clearing_the_receive_fifo_drops_what_is_in_it_only(com1: Wired) -> None:
    com1.read(LSR)
    com1.write(FCR, 0x01)
    com1.uart.receive(bytes(range(20)))
    com1.write(FCR, 0x03)
    assert com1.read(RBR) == 16


def test_priorities_line_status_then_data_then_thre_then_modem(com1: Wired) -> None:
    com1.write(MCR, 0x18)  # loopback
    com1.write(IER, 0x0F)
    com1.write(THR, 1)
    com1.write(THR, 2)
    assert com1.read(IIR) == 0x06
    assert com1.read(LSR) == 0x63
    assert com1.read(IIR) == 0x04
    assert com1.read(RBR) == 2, "without a FIFO the second byte replaces the first"
    assert com1.read(IIR) == 0x02
    assert com1.read(IIR) == 0x00
    com1.read(MSR)
    assert com1.read(IIR) == 0x01
    assert com1.sent == b""


def test_loopback_connects_modem_control_to_modem_status(com1: Wired) -> None:
    com1.read(MSR)
    com1.write(MCR, 0x1A)
    assert com1.read(MSR) & 0xF0 == 0x90
    com1.write(MCR, 0x14)
    assert com1.read(MSR) == 0x40 | 0x09
    com1.write(MCR, 0x10)
    assert com1.read(MSR) == 0x04, "the ring indicator reports its trailing edge"
    com1.write(MCR, 0x08)
    assert com1.read(MSR) == 0xB0 | 0x0B


def test_loopback_keeps_outside_bytes_waiting(com1: Wired) -> None:
    com1.write(MCR, 0x10)
    com1.uart.receive(b"x")
    assert com1.read(LSR) == 0x60
    com1.write(MCR, 0x08)
    assert com1.read(RBR) == ord("x")


def test_loopback_fifo_overrun_keeps_the_oldest(com1: Wired) -> None:
    com1.write(FCR, 0x01)
    com1.write(MCR, 0x10)
    for byte in range(17):
        com1.write(THR, byte)
    assert com1.read(LSR) == 0x63
    assert com1.read(LSR) == 0x61
    assert [com1.read(RBR) for _ in range(16)] == list(range(16))


def test_out2_gates_the_interrupt(com1: Wired) -> None:
    com1.write(MCR, 0x00)
    com1.write(IER, 0x01)
    com1.uart.receive(b"x")
    assert not com1.line
    assert com1.read(IIR) == 0x04
    com1.write(MCR, 0x08)
    assert com1.line


def test_the_line_is_called_on_changes_only(com1: Wired) -> None:
    com1.write(IER, 0x01)
    com1.uart.receive(b"abc")
    assert com1.changes == 1
    com1.read(RBR)
    com1.read(RBR)
    assert com1.changes == 1
    com1.read(RBR)
    assert com1.changes == 2


def test_restore_brings_unread_input_and_the_line_along(com1: Wired) -> None:
    com1.write(IER, 0x01)
    com1.uart.receive(b"abc")
    twin = Wired()
    twin.uart.parse(com1.uart.save())()
    assert twin.line
    assert bytes(twin.read(RBR) for _ in range(3)) == b"abc"


def test_writing_data_gives_an_edge_even_when_the_interrupt_was_not_read(com1: Wired) -> None:
    com1.write(IER, 0x02)
    before = com1.changes
    com1.write(THR, 0x41)
    assert com1.line
    assert com1.changes == before + 2


def test_clearing_the_transmit_fifo_raises_thre_again(com1: Wired) -> None:
    com1.write(IER, 0x02)
    com1.read(IIR)
    com1.write(FCR, 0x05)
    assert com1.line
    assert com1.read(IIR) == 0xC2


class Announced:
    """The other side: pieces that are handed over one fetch at a time."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = list(pieces)

    def fetch(self) -> bytes:
        return self.left.pop(0)


def test_announced_bytes_are_fetched_when_the_guest_reads(com1: Wired) -> None:
    other = Announced(b"ab", b"c")
    com1.uart.announce(other.fetch)
    assert [com1.read(LSR) & 1 for _ in range(3)] == [1, 1, 1]
    assert other.left == [b"ab", b"c"]
    assert not com1.line
    assert com1.read(RBR) == ord("a")
    assert other.left == [b"c"]
    com1.uart.announce(other.fetch)  # while there is something left to read, no more is taken
    assert com1.read(RBR) == ord("b")
    assert other.left == [b"c"]
    assert com1.read(LSR) & 1
    assert com1.read(RBR) == ord("c")
    assert com1.read(LSR) & 1 == 0


def test_a_guest_that_waits_for_the_interrupt_gets_announced_bytes_at_once(com1: Wired) -> None:
    other = Announced(b"a", b"b", b"c")
    com1.write(IER, 1)
    com1.uart.announce(other.fetch)
    assert other.left == [b"b", b"c"]
    assert com1.line
    com1.uart.announce(other.fetch)
    assert other.left == [b"b", b"c"]
    assert com1.read(RBR) == ord("a")
    assert other.left == [b"c"]
    assert com1.line
    assert com1.read(RBR) == ord("b")
    assert not com1.line


def test_what_was_announced_before_the_interrupt_was_enabled_raises_it(com1: Wired) -> None:
    com1.uart.announce(Announced(b"a").fetch)
    assert not com1.line
    com1.write(IER, 1)
    assert com1.line


def test_nothing_is_fetched_in_loopback(com1: Wired) -> None:
    other = Announced(b"a")
    com1.write(MCR, 0x10)
    com1.uart.announce(other.fetch)
    assert com1.read(LSR) & 1 == 0
    assert com1.read(RBR) == 0
    assert other.left == [b"a"]
    com1.write(MCR, 0)
    assert com1.read(RBR) == ord("a")


def test_an_announcement_outlives_a_reset_and_can_come_to_nothing(com1: Wired) -> None:
    com1.uart.announce(Announced(b"").fetch)
    com1.uart.reset()
    assert com1.read(LSR) & 1
    assert com1.read(RBR) == 0
    assert com1.read(LSR) & 1 == 0
