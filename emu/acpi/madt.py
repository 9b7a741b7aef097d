"""MADT (ACPI 6.5, section 5.2.12): the interrupt controllers."""

from __future__ import annotations

import struct

from emu.acpi import system_table

_REVISION = 3
_LOCAL_APIC_ADDRESS = 0xFEE0_0000
_PCAT_COMPAT = 1
_ENABLED = 1


def madt() -> bytes:
    """One processor, and a PC's pair of 8259s (flag PCAT_COMPAT).

    The truth about this machine is that it has no APIC: the two 8259s are all. The specification knows a processor only
    by its local APIC, so ours has an entry for one; no I/O APIC is listed, which makes systems use the 8259s.
    """
    processor = struct.pack("<BBBBI", 0, 8, 0, 0, _ENABLED)
    return system_table(b"APIC", struct.pack("<II", _LOCAL_APIC_ADDRESS, _PCAT_COMPAT) + processor, revision=_REVISION)
