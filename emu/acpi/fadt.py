"""FADT and FACS (ACPI 6.4, sections 5.2.9 and 5.2.10): where the fixed hardware is and how to use it."""

from __future__ import annotations

from emu.acpi import hardware as hw
from emu.acpi import system_table
from emu.acpi.structures import Boot, Facs, Fadt, Feature, GenericAddress, Revised
from emu.record import NamedTuple

FACS_ALIGNMENT = 64
_SYSTEM_IO = 1
_NO_C2_OR_C3 = 0x0FFF


class FixedHardware(NamedTuple):
    """Where the register blocks of ACPI 6.4 section 4.8.3 are, the reset register and the interrupt line of the SCI."""

    pm1_event: range
    pm1_control: range
    pm_timer: range
    gpe0: range
    reset: int
    sci: int


def _register(ports: range, access: int) -> bytes:
    return GenericAddress(space=_SYSTEM_IO, bits=len(ports) * 8, access=access, address=ports.start).pack()


def fadt(at: FixedHardware, *, facs: int, dsdt: int) -> bytes:
    """The Fixed ACPI Description Table of revision 3 (244 bytes).

    SMI_CMD is 0: there is no firmware that SMIs would call, so ACPI mode is on from the start. The power button is
    fixed hardware (flag PWR_BUTTON clear), sleep button and RTC wake are absent (SLP_BUTTON, FIX_RTC set).
    X_FIRMWARE_CTRL is 0 because FIRMWARE_CTRL is not.
    """
    table = Fadt(
        facs=facs,
        dsdt=dsdt,
        sci=at.sci,
        pm1a_event=at.pm1_event.start,
        pm1a_control=at.pm1_control.start,
        pm_timer=at.pm_timer.start,
        gpe0=at.gpe0.start,
        pm1_event_length=len(at.pm1_event),
        pm1_control_length=len(at.pm1_control),
        pm_timer_length=len(at.pm_timer),
        gpe0_length=len(at.gpe0),
        c2_latency=_NO_C2_OR_C3,
        c3_latency=_NO_C2_OR_C3,
        century=hw.CMOS_CENTURY,
        boot=Boot.LEGACY_DEVICES | Boot.VGA_NOT_PRESENT | Boot.MSI_NOT_SUPPORTED,
        flags=Feature.WBINVD | Feature.PROC_C1 | Feature.SLP_BUTTON | Feature.FIX_RTC | Feature.RESET_REG_SUP,
        reset_register=_register(range(at.reset, at.reset + 1), 1),
        reset_value=hw.RESET_VALUE,
        x_dsdt=dsdt,
        x_pm1a_event=_register(at.pm1_event, 2),
        x_pm1a_control=_register(at.pm1_control, 2),
        x_pm_timer=_register(at.pm_timer, 3),
        x_gpe0=_register(at.gpe0, 1),
    )
    return system_table(b"FACP", table.pack(), revision=Revised.FADT)


def facs() -> bytes:
    """The Firmware ACPI Control Structure, version 1: no global-lock owner, no waking vector. It has no checksum."""
    return Facs().pack()
