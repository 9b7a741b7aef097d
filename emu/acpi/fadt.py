"""FADT and FACS (ACPI 6.5, sections 5.2.9 and 5.2.10): where the fixed hardware is and how to use it."""

from __future__ import annotations

import enum
import struct

from emu.acpi import hardware as hw
from emu.acpi import system_table

FACS_SIZE = 64
FACS_ALIGNMENT = 64
_REVISION = 3
_SYSTEM_IO = 1
_NO_C2_OR_C3 = 0x0FFF
_NO_REGISTER = bytes(12)


class Boot(enum.IntFlag):
    """IA-PC boot architecture flags (section 5.2.9.3)."""

    LEGACY_DEVICES = 1 << 0
    VGA_NOT_PRESENT = 1 << 2
    MSI_NOT_SUPPORTED = 1 << 3


class Feature(enum.IntFlag):
    """Fixed feature flags (section 5.2.9, table 5.10)."""

    WBINVD = 1 << 0
    PROC_C1 = 1 << 2
    SLP_BUTTON = 1 << 5
    FIX_RTC = 1 << 6
    RESET_REG_SUP = 1 << 10


def _register(port: int, length: int, access: int) -> bytes:
    """A Generic Address Structure in I/O space (section 5.2.3.2); ``access`` 1, 2, 3 means byte, word, dword."""
    return struct.pack("<BBBBQ", _SYSTEM_IO, length * 8, 0, access, port)


def fadt(*, facs: int, dsdt: int) -> bytes:
    """The Fixed ACPI Description Table of revision 3 (244 bytes).

    SMI_CMD is 0: there is no firmware that SMIs would call, so ACPI mode is on from the start. The power button is
    fixed hardware (flag PWR_BUTTON clear), sleep button and RTC wake are absent (SLP_BUTTON, FIX_RTC set).
    X_FIRMWARE_CTRL is 0 because FIRMWARE_CTRL is not.
    """
    body = struct.pack("<IIBBHI4B", facs, dsdt, 0, 0, hw.SCI_IRQ, 0, 0, 0, 0, 0)
    body += struct.pack("<8I", hw.PM1_EVENT, 0, hw.PM1_CONTROL, 0, 0, hw.PM_TIMER, hw.GPE0, 0)
    body += struct.pack(
        "<8B", hw.PM1_EVENT_LENGTH, hw.PM1_CONTROL_LENGTH, 0, hw.PM_TIMER_LENGTH, hw.GPE0_LENGTH, 0, 0, 0
    )
    boot = Boot.LEGACY_DEVICES | Boot.VGA_NOT_PRESENT | Boot.MSI_NOT_SUPPORTED
    features = Feature.WBINVD | Feature.PROC_C1 | Feature.SLP_BUTTON | Feature.FIX_RTC | Feature.RESET_REG_SUP
    body += struct.pack("<4H5BHBI", _NO_C2_OR_C3, _NO_C2_OR_C3, 0, 0, 0, 0, 0, 0, hw.CMOS_CENTURY, boot, 0, features)
    body += _register(hw.RESET, 1, 1) + struct.pack("<BHBQQ", hw.RESET_VALUE, 0, 0, 0, dsdt)
    body += _register(hw.PM1_EVENT, hw.PM1_EVENT_LENGTH, 2) + _NO_REGISTER
    body += _register(hw.PM1_CONTROL, hw.PM1_CONTROL_LENGTH, 2) + _NO_REGISTER
    body += _NO_REGISTER
    body += _register(hw.PM_TIMER, hw.PM_TIMER_LENGTH, 3)
    body += _register(hw.GPE0, hw.GPE0_LENGTH, 1) + _NO_REGISTER
    return system_table(b"FACP", body, revision=_REVISION)


def facs() -> bytes:
    """The Firmware ACPI Control Structure, version 1: no global-lock owner, no waking vector. It has no checksum."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", FACS_SIZE, 0, 0, 0, 0, 0, 1)
