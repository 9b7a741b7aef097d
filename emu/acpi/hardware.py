"""Where the machine's ACPI hardware sits. The tables tell guests, the board puts the devices there.

The addresses are those of QEMU's q35 (ACPI 6.4, section 4.8.3 names the register blocks).
"""

from __future__ import annotations

PM1_EVENT = 0x600
PM1_EVENT_LENGTH = 4
PM1_CONTROL = 0x604
PM1_CONTROL_LENGTH = 2
PM_TIMER = 0x608
PM_TIMER_LENGTH = 4
GPE0 = 0x620
GPE0_LENGTH = 16
RESET = 0xCF9
RESET_VALUE = 0x06
SCI_IRQ = 9
S5_TYPE = 0
NVDIMM_GPE = 4
CMOS_CENTURY = 0x32

TABLES_START, TABLES_END = 0xE0000, 0x100000
"""The BIOS area, where guests look for the RSDP (ACPI 6.4, section 5.2.5.1)."""
