"""FADT and FACS (ACPI 6.4, sections 5.2.9 and 5.2.10): where the fixed hardware is and how to use it."""

from __future__ import annotations

from emu.acpi import hardware as hw
from emu.acpi import system_table
from emu.acpi.structures import Boot, Facs, Fadt, Feature, GenericAddress, Revised

FACS_ALIGNMENT = 64
_SYSTEM_IO = 1
_NO_C2_OR_C3 = 0x0FFF


def _register(port: int, length: int, access: int) -> bytes:
    return GenericAddress(space=_SYSTEM_IO, bits=length * 8, access=access, address=port).pack()


def fadt(*, facs: int, dsdt: int) -> bytes:
    """The Fixed ACPI Description Table of revision 3 (244 bytes).

    SMI_CMD is 0: there is no firmware that SMIs would call, so ACPI mode is on from the start. The power button is
    fixed hardware (flag PWR_BUTTON clear), sleep button and RTC wake are absent (SLP_BUTTON, FIX_RTC set).
    X_FIRMWARE_CTRL is 0 because FIRMWARE_CTRL is not.
    """
    table = Fadt(
        facs=facs,
        dsdt=dsdt,
        sci=hw.SCI_IRQ,
        pm1a_event=hw.PM1_EVENT,
        pm1a_control=hw.PM1_CONTROL,
        pm_timer=hw.PM_TIMER,
        gpe0=hw.GPE0,
        pm1_event_length=hw.PM1_EVENT_LENGTH,
        pm1_control_length=hw.PM1_CONTROL_LENGTH,
        pm_timer_length=hw.PM_TIMER_LENGTH,
        gpe0_length=hw.GPE0_LENGTH,
        c2_latency=_NO_C2_OR_C3,
        c3_latency=_NO_C2_OR_C3,
        century=hw.CMOS_CENTURY,
        boot=Boot.LEGACY_DEVICES | Boot.VGA_NOT_PRESENT | Boot.MSI_NOT_SUPPORTED,
        flags=Feature.WBINVD | Feature.PROC_C1 | Feature.SLP_BUTTON | Feature.FIX_RTC | Feature.RESET_REG_SUP,
        reset_register=_register(hw.RESET, 1, 1),
        reset_value=hw.RESET_VALUE,
        x_dsdt=dsdt,
        x_pm1a_event=_register(hw.PM1_EVENT, hw.PM1_EVENT_LENGTH, 2),
        x_pm1a_control=_register(hw.PM1_CONTROL, hw.PM1_CONTROL_LENGTH, 2),
        x_pm_timer=_register(hw.PM_TIMER, hw.PM_TIMER_LENGTH, 3),
        x_gpe0=_register(hw.GPE0, hw.GPE0_LENGTH, 1),
    )
    return system_table(b"FACP", table.pack(), revision=Revised.FADT)


def facs() -> bytes:
    """The Firmware ACPI Control Structure, version 1: no global-lock owner, no waking vector. It has no checksum."""
    return Facs().pack()
