"""DSDT (ACPI 6.4, section 5.2.11.1): the devices that a PC's operating system looks up by name, and power-off."""

from __future__ import annotations

from emu.acpi import aml, system_table
from emu.acpi import hardware as hw

NVDIMM_ROOT = "\\_SB.NVDR"
_NVDIMM_CHANGED = 0x80


def _ports(first: int, length: int) -> bytes:
    return aml.io(first, first, 1, length)


def _isa_device(name: str, hid: str, *resources: bytes) -> bytes:
    return aml.device(
        name,
        aml.name("_HID", aml.eisa_id(hid)),
        aml.name("_CRS", aml.resource_template(*resources)),
    )


def dsdt(*, nvdimm_hotplug: bool) -> bytes:
    """The Differentiated System Description Table.

    ``nvdimm_hotplug`` adds the handler of general-purpose event 4, which tells the NVDIMM root device of the NVDIMM's
    SSDT that a module was added (section 5.6.6: notification 0x80 of that device, upon which systems evaluate _FIT).
    """
    processor = aml.device("CPU0", aml.name("_HID", aml.string("ACPI0007")), aml.name("_UID", 0))
    serial = aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", 1),
        aml.name("_STA", 0x0F),
        aml.name("_CRS", aml.resource_template(_ports(0x3F8, 8), aml.irq(4))),
    )
    devices = aml.scope(
        "\\_SB",
        processor,
        _isa_device("PIC0", "PNP0000", _ports(0x20, 2), _ports(0xA0, 2), _ports(0x4D0, 2), aml.irq(2)),
        _isa_device("TIMR", "PNP0100", _ports(0x40, 4), aml.irq(0)),
        _isa_device("RTC0", "PNP0B00", _ports(0x70, 2), aml.irq(8)),
        serial,
        _isa_device("SYSR", "PNP0C02", _ports(0x61, 1), _ports(hw.PM1_EVENT, hw.GPE0 + hw.GPE0_LENGTH - hw.PM1_EVENT)),
    )
    power_off = aml.name("\\_S5", aml.package(hw.S5_TYPE, hw.S5_TYPE, 0, 0))
    events = b""
    if nvdimm_hotplug:
        handler = aml.method(f"_E{hw.NVDIMM_GPE:02X}", 0, aml.notify(NVDIMM_ROOT, _NVDIMM_CHANGED))
        events = aml.scope("\\_GPE", handler)
    # Revision 1 means 32-bit integers in all AML of the machine, as in QEMU, for whose NVDIMM code it matters.
    return system_table(b"DSDT", power_off + devices + events)
