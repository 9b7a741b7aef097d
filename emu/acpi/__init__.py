"""ACPI tables as bytes: one module per table, and the few AML terms that their code needs."""

from __future__ import annotations

import struct

HEADER_SIZE = 36
OEM_ID = b"BOCHS "


def system_table(signature: bytes, body: bytes, *, revision: int = 1, table_id: bytes = b"BXPC") -> bytes:
    """``body`` behind a System Description Table Header, checksum set (ACPI 6.5, section 5.2.6).

    The identities are those in QEMU's tables, because guests and tests compare them.
    """
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, HEADER_SIZE + len(body), revision, 0, OEM_ID, table_id.ljust(8), 1, b"BXPC", 1
    )
    table = bytearray(header + body)
    table[9] = -sum(table) & 0xFF
    return bytes(table)
