"""The pointers that lead to all tables: RSDP, RSDT and XSDT (ACPI 6.4, sections 5.2.5.3, 5.2.7 and 5.2.8)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from emu.acpi import OEM_ID, system_table
from emu.acpi.structures import Rsdp, Rsdt, Xsdt

_FIRST_PART = 20
_FORMATS = {4: "I", 8: "Q"}


def rsdp(*, rsdt: int, xsdt: int) -> bytes:
    """The Root System Description Pointer of revision 2, 36 bytes, with both of its checksums."""
    table = bytearray(Rsdp(oem_id=OEM_ID, rsdt=rsdt, xsdt=xsdt).pack())
    table[Rsdp.offset_of("checksum")] = -sum(table[:_FIRST_PART]) & 0xFF
    table[Rsdp.offset_of("extended_checksum")] = -sum(table) & 0xFF
    return bytes(table)


def rsdt(addresses: Sequence[int]) -> bytes:
    """The Root System Description Table: 32-bit addresses of the other tables."""
    return system_table(b"RSDT", _list(Rsdt.ELEMENT, addresses))


def xsdt(addresses: Sequence[int]) -> bytes:
    """The Extended System Description Table: 64-bit addresses of the other tables."""
    return system_table(b"XSDT", _list(Xsdt.ELEMENT, addresses))


def _list(width: int, addresses: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(addresses)}{_FORMATS[width]}", *addresses)
