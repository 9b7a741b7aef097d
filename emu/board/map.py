"""The one map of I/O ports and interrupt lines: where a guest finds each device. The addresses are those of QEMU's q35.

Devices own no address. The board gives them theirs from here, and the ACPI tables tell guests the same.
"""

from __future__ import annotations

from emu.acpi.fadt import FixedHardware
from emu.acpi.hardware import GPE0_LENGTH


def _ports(first: int, length: int) -> range:
    return range(first, first + length)


# A device with several windows has them in the order of its ``windows``.
PIC = _ports(0x20, 2), _ports(0xA0, 2), _ports(0x4D0, 2)
PIT = _ports(0x40, 4), _ports(0x61, 1)
KEYBOARD = _ports(0x60, 1), _ports(0x64, 1)
RTC = _ports(0x70, 2)
DEBUG_CONSOLE = _ports(0xE9, 1)
INIT = _ports(0xEA, 1), _ports(0xEC, 4)
COM1 = _ports(0x3F8, 8)
PANIC = _ports(0x505, 1)
PM1_EVENT, PM1_CONTROL, PM_TIMER = _ports(0x600, 4), _ports(0x604, 2), _ports(0x608, 4)
GPE0 = _ports(0x620, GPE0_LENGTH)
DSM = _ports(0xA18, 4)
OPERATIONS = _ports(0xE10, 8)
"""emu's own; no device of q35 is there. guest/include/operation.h says the same."""
PCI_CONFIG = _ports(0xCF8, 8)
POWER = PM1_EVENT, PM1_CONTROL, PM_TIMER, GPE0, PCI_CONFIG
RESET = PCI_CONFIG.start + 1

PIT_IRQ, CASCADE_IRQ, COM1_IRQ, RTC_IRQ, SCI_IRQ = 0, 2, 4, 8, 9
NVDIMM_GPE = 4
"""The general-purpose event of a plugged NVDIMM."""

FIXED_HARDWARE = FixedHardware(PM1_EVENT, PM1_CONTROL, PM_TIMER, GPE0, RESET, SCI_IRQ)
