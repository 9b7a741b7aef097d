"""MADT (ACPI 6.4, section 5.2.12): the interrupt controllers."""

from __future__ import annotations

from emu.acpi import system_table
from emu.acpi.structures import LocalApic, Madt, Revised

_LOCAL_APIC_ADDRESS = 0xFEE0_0000
_PCAT_COMPAT = 1
_ENABLED = 1


def madt() -> bytes:
    """One processor, and a PC's pair of 8259s (flag PCAT_COMPAT).

    The truth about this machine is that it has no APIC: the two 8259s are all. The specification knows a processor only
    by its local APIC, so ours has an entry for one; no I/O APIC is listed, which makes systems use the 8259s.
    """
    table = Madt(local_apic=_LOCAL_APIC_ADDRESS, flags=_PCAT_COMPAT)
    processor = LocalApic(processor=0, apic=0, flags=_ENABLED)
    return system_table(b"APIC", table.pack() + processor.pack(), revision=Revised.MADT)
