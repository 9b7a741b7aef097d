"""What the ACPI tables and the devices must agree on, addresses apart: those are the board's (``emu.board.map``)."""

from __future__ import annotations

GPE0_LENGTH = 16
RESET_VALUE = 0x06
S5_TYPE = 0
CMOS_CENTURY = 0x32

TABLES_START, TABLES_END = 0xE0000, 0x100000
"""The BIOS area, where guests look for the RSDP (ACPI 6.4, section 5.2.5.1)."""
