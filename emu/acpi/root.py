"""The pointers that lead to all tables: RSDP, RSDT and XSDT (ACPI 6.5, sections 5.2.5.3, 5.2.7 and 5.2.8)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from emu.acpi import OEM_ID, system_table

RSDP_SIZE = 36
_FIRST_CHECKSUM, _SECOND_CHECKSUM, _FIRST_PART = 8, 32, 20


def rsdp(*, rsdt: int, xsdt: int) -> bytes:
    """The Root System Description Pointer of revision 2, 36 bytes, with both of its checksums."""
    table = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM_ID, 2, rsdt, RSDP_SIZE, xsdt, 0))
    table[_FIRST_CHECKSUM] = -sum(table[:_FIRST_PART]) & 0xFF
    table[_SECOND_CHECKSUM] = -sum(table) & 0xFF
    return bytes(table)


def rsdt(addresses: Sequence[int]) -> bytes:
    """The Root System Description Table: 32-bit addresses of the other tables."""
    return system_table(b"RSDT", struct.pack(f"<{len(addresses)}I", *addresses))


def xsdt(addresses: Sequence[int]) -> bytes:
    """The Extended System Description Table: 64-bit addresses of the other tables."""
    return system_table(b"XSDT", struct.pack(f"<{len(addresses)}Q", *addresses))
