"""ACPI tables as bytes: one module per table, and the few AML terms that their code needs."""

from __future__ import annotations

from emu.acpi.structures import HEADER_SIZE, Header

OEM_ID = b"BOCHS "


def system_table(signature: bytes, body: bytes, *, revision: int = 1, table_id: bytes = b"BXPC") -> bytes:
    """``body`` behind a System Description Table Header, checksum set (ACPI 6.4, section 5.2.6).

    The identities are those in QEMU's tables, because guests and tests compare them.
    """
    header = Header(
        signature=signature,
        length=HEADER_SIZE + len(body),
        revision=revision,
        oem_id=OEM_ID,
        oem_table_id=table_id.ljust(8),
        creator_id=b"BXPC",
    )
    table = bytearray(header.pack() + body)
    table[Header.offset_of("checksum")] = -sum(table) & 0xFF
    return bytes(table)
