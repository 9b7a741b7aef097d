"""QEMU's q35 judges our devices: the same port accesses, on stopped machines, must read the same values.

The accesses reach QEMU through its test protocol (``-qtest``); its processor never runs, nor does any firmware.
Time stands still there, so what counts time is judged by guests that run (``test_oracle_guests``).
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.debugcon import DebugConsole
from emu.devices.pic import PicPair
from emu.devices.pit import Pit
from emu.devices.power import Power
from emu.devices.rtc import Rtc
from emu.devices.uart16550 import Uart16550
from tests.oracle.requirements import require

QEMU = "qemu-system-x86_64"
_EPOCH = 1_709_164_798  # 2024-02-28 23:59:58 UTC
_SIZES = {1: "b", 2: "w", 4: "l"}
_IRQ_TEXT = "IRQ"


class Both:
    """QEMU's ports and ours. ``read`` asserts that both say the same."""

    def __init__(self, serial: Path) -> None:
        self._qemu = subprocess.Popen(
            [
                *(QEMU, "-machine", "q35", "-S", "-qtest", "stdio", "-display", "none", "-nodefaults"),
                *("-serial", f"file:{serial}", "-debugcon", "null", "-rtc", "base=2024-02-28T23:59:58,clock=vm"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        self.sent = bytearray()
        self.pic = PicPair(lambda _: None)
        self.bus = PortBus()
        self.bus.attach(self.pic, at.PIC)
        self.bus.add(0x3F8, 8, Uart16550(self.pic.line(4), self.sent.extend))
        self.bus.attach(Pit(line=self.pic.line(0), now=lambda: 0), at.PIT)
        self.bus.add(0xE9, 1, DebugConsole(lambda _: None))
        self.bus.add(0x70, 2, Rtc(line=self.pic.line(8), now=lambda: 0, epoch=_EPOCH))
        self.power = Power(sci=self.pic.line(9), end=lambda _: None, reset=lambda: None, now=lambda: 0)
        self.bus.attach(self.power, at.POWER)
        # Firmware would give QEMU's power management its ports: PMBASE and ACPI_CNTL of the chip set.
        for register, value in ((0x40, 0x601), (0x44, 0x80)):
            self._ask(f"outl 0xcf8 {0x8000F800 | register}")
            self._ask(f"outl 0xcfc {value}")
        for port, base, wiring in ((0x20, 0x08, 4), (0xA0, 0x70, 2)):
            self.write(port, 1, 0x11)
            for value in (base, wiring, 1):
                self.write(port + 1, 1, value)

    def _ask(self, command: str) -> str:
        assert self._qemu.stdin is not None
        assert self._qemu.stdout is not None
        self._qemu.stdin.write(command + "\n")
        while True:
            answer = self._qemu.stdout.readline()
            assert answer, f"QEMU ended at '{command}'"
            if not answer.startswith(_IRQ_TEXT):
                return answer

    def write(self, port: int, size: int, value: int) -> None:
        self._ask(f"out{_SIZES[size]} {port} {value}")
        self.bus.write(port, size, value)

    def read(self, port: int, size: int = 1, *, but: int = 0) -> int:
        """What both read at ``port``; the bits of ``but`` may differ."""
        theirs = int(self._ask(f"in{_SIZES[size]} {port}").split()[1], 16) & ~but
        ours = self.bus.read(port, size) & ~but
        assert ours == theirs, f"port {port:#x}: ours {ours:#x}, QEMU's {theirs:#x}"
        return ours

    def close(self) -> None:
        self._qemu.kill()
        self._qemu.communicate()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    require(QEMU, "qemu-system-x86")
    machines = Both(tmp_path / "serial")
    yield machines
    machines.close()


def interrupt_state(both: Both) -> None:
    for port in (0x20, 0xA0):
        both.read(port + 1)
        for command in (0x0A, 0x0B):
            both.write(port, 1, command)
            both.read(port)


def test_reset_values(both: Both) -> None:
    assert [both.read(0x3F8 + n) for n in range(1, 8)] == [0x00, 0x01, 0x00, 0x08, 0x60, 0xB0, 0x00]
    assert both.read(0xE9) == 0xE9
    both.read(0x4D0)
    both.read(0x70)
    both.read(0x600, 4, but=0x0001)  # QEMU's timer begins with its status bit set
    interrupt_state(both)


def test_the_clock_shows_the_same_time_in_every_format(both: Both) -> None:
    for mode in (0x02, 0x06, 0x00, 0x04):
        both.write(0x70, 1, 0x0B)
        both.write(0x71, 1, mode)
        for register in (0, 2, 4, 6, 7, 8, 9, 0x0A, 0x0B, 0x0D, 0x32):
            both.write(0x70, 1, register)
            both.read(0x71)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_timer_programming_latches_and_status(both: Both, channel: int) -> None:
    data = 0x40 + channel
    for mode in range(6):
        for access in (1, 2, 3):
            for bcd in (0, 1):
                both.write(0x43, 1, channel << 6 | access << 4 | mode << 1 | bcd)
                for value in (0x34, 0x12)[: 2 if access == 3 else 1]:
                    both.write(data, 1, value)
                both.write(0x43, 1, channel << 6)
                if mode in (1, 5):
                    continue  # the count is undefined until the gate triggers it
                for _ in range(3):
                    both.read(data)
                    if access == 3:
                        both.read(data)
                both.write(0x43, 1, 0xE0 | 2 << channel)
                both.read(data, but=0x80)  # QEMU's output begins low in some modes
    for value in (0x00, 0x01, 0x0F, 0x02):
        both.write(0x61, 1, value)
        both.read(0x61, but=0xFC)  # refresh and output; QEMU keeps no parity bits


def test_sleep_bits_and_general_purpose_events(both: Both) -> None:
    for value in (0x0401, 0x1C00, 0x0002):
        both.write(0x604, 2, value)
        # SCI_EN: QEMU's machine starts in legacy mode, ours in ACPI mode.
        both.read(0x604, 2, but=0x0001)
    both.write(0x628, 1, 0x10)
    both.read(0x628)
    both.read(0x620, 4)
    both.write(0x602, 2, 0x0100)
    assert both.read(0x602, 2) == 0x0100


@pytest.mark.parametrize("seed", range(20))
def test_random_uart_programs_with_their_interrupt(both: Both, seed: int, tmp_path: Path) -> None:
    """Everything but loopback, where QEMU lets the modem status follow without reporting changes."""
    dice = random.Random(seed)
    for _ in range(150):
        register = dice.choice((0, 1, 1, 2, 2, 3, 4, 5, 6, 7))
        if dice.random() < 0.5:
            value = dice.randrange(256)
            if register == 4:
                value &= ~0x10
                value |= 0x08  # QEMU has no gate
            both.write(0x3F8 + register, 1, value)
        elif register:
            both.read(0x3F8 + register)
        interrupt_state(both)
    both.close()
    assert (tmp_path / "serial").read_bytes() == bytes(both.sent)


@pytest.mark.parametrize("seed", range(20))
def test_random_interrupt_controller_programs(both: Both, seed: int) -> None:
    """Interrupts of COM1 come and go while the controllers are masked, polled, ended and rotated.

    Not in special mask mode: there QEMU's non-specific end of interrupt ends masked lines too, against the data sheet.
    """
    dice = random.Random(1000 + seed)
    # Only while nothing is requested: QEMU keeps the request of a low line that becomes level-triggered.
    for port in (0x4D0, 0x4D1):
        both.write(port, 1, dice.choice((0, 0x10, 0xFF)))
    for _ in range(150):
        match dice.randrange(8):
            case 0:
                both.write(0x3F9, 1, dice.choice((0, 2)))
            case 1:
                both.read(0x3FA)
            case 2:
                both.write(0x3F8, 1, 0x55)
            case 3:
                both.write(dice.choice((0x21, 0xA1)), 1, dice.choice((0, 0xFF, dice.randrange(256))))
            case 4:
                both.write(dice.choice((0x20, 0xA0)), 1, dice.randrange(8) << 5 | dice.randrange(8))
            case 5:
                both.write(dice.choice((0x20, 0xA0)), 1, 0x08 | dice.choice((0x00, 0x02, 0x03, 0x40)))
            case 6:
                chip = dice.choice((0x20, 0xA0))
                both.write(chip, 1, 0x0C)
                both.read(chip)
            case _:
                both.read(dice.choice((0x4D0, 0x4D1)))
        interrupt_state(both)
