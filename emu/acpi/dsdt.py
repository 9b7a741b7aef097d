"""DSDT (ACPI 6.4, section 5.2.11.1): the processor, power-off, and the devices, each of which describes itself."""

from __future__ import annotations

from collections.abc import Iterable

from emu.acpi import aml, system_table
from emu.acpi import hardware as hw


def resources(ports: Iterable[range], irq: int | None = None) -> bytes:
    """The ``_CRS`` of a device at fixed ``ports`` and an interrupt line, if it has one."""
    lines = () if irq is None else (aml.irq(irq),)
    windows = (aml.io(window.start, window.start, 1, len(window)) for window in ports)
    return aml.name("_CRS", aml.resource_template(*windows, *lines))


def isa_device(name: str, hid: str, ports: Iterable[range], irq: int | None = None) -> bytes:
    """A device of a PC that systems know by the EISA identifier ``hid``."""
    return aml.device(name, aml.name("_HID", aml.eisa_id(hid)), resources(ports, irq))


def dsdt(devices: bytes, events: bytes = b"") -> bytes:
    """The Differentiated System Description Table.

    ``devices`` is AML for the scope ``\\_SB``; ``events``, AML for ``\\_GPE``, handles general-purpose events (section
    5.6.4.1).
    """
    processor = aml.device("CPU0", aml.name("_HID", aml.string("ACPI0007")), aml.name("_UID", 0))
    power_off = aml.name("\\_S5", aml.package(hw.S5_TYPE, hw.S5_TYPE, 0, 0))
    body = power_off + aml.scope("\\_SB", processor, devices)
    if events:
        body += aml.scope("\\_GPE", events)
    # Revision 1 means 32-bit integers in all AML of the machine, as in QEMU, for whose NVDIMM code it matters.
    return system_table(b"DSDT", body)
