"""Layouts of ACPI tables as data: what stands where, and which words of the specification (ACPI 6.5) name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Show(StrEnum):
    """How a field is shown."""

    HEX = "hex"
    DECIMAL = "decimal"
    TEXT = "text"
    GUID = "guid"
    REGISTER = "register"
    FLAGS = "flags"


@dataclass(frozen=True, slots=True)
class Item:
    """A field at ``offset`` of its table or structure; ``words`` name values, or bit numbers of FLAGS."""

    name: str
    offset: int
    size: int
    show: Show = Show.HEX
    words: Mapping[object, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layout:
    """A structure: its name, its section in ACPI 6.5, its fields, and the size of the list elements behind them."""

    title: str
    section: str
    items: tuple[Item, ...]
    element: tuple[int, int] | None = None
    """(offset, size) of a list of numbers that fills the rest, None when there is none."""


def _flags(name: str, offset: int, size: int, *bits: str) -> Item:
    return Item(name, offset, size, Show.FLAGS, dict(enumerate(bits)))


HEADER = Layout(
    "System Description Table Header",
    "5.2.6",
    (
        Item("Signature", 0, 4, Show.TEXT),
        Item("Length", 4, 4, Show.DECIMAL),
        Item("Revision", 8, 1, Show.DECIMAL),
        Item("Checksum", 9, 1),
        Item("OEM ID", 10, 6, Show.TEXT),
        Item("OEM Table ID", 16, 8, Show.TEXT),
        Item("OEM Revision", 24, 4),
        Item("Creator ID", 28, 4, Show.TEXT),
        Item("Creator Revision", 32, 4),
    ),
)

RSDP = Layout(
    "Root System Description Pointer",
    "5.2.5.3",
    (
        Item("Signature", 0, 8, Show.TEXT),
        Item("Checksum", 8, 1),
        Item("OEM ID", 9, 6, Show.TEXT),
        Item("Revision", 15, 1, Show.DECIMAL),
        Item("RSDT Address", 16, 4),
        Item("Length", 20, 4, Show.DECIMAL),
        Item("XSDT Address", 24, 8),
        Item("Extended Checksum", 32, 1),
    ),
)

FACS = Layout(
    "Firmware ACPI Control Structure",
    "5.2.10",
    (
        Item("Signature", 0, 4, Show.TEXT),
        Item("Length", 4, 4, Show.DECIMAL),
        Item("Hardware Signature", 8, 4),
        Item("Firmware Waking Vector", 12, 4),
        Item("Global Lock", 16, 4),
        Item("Flags", 20, 4),
        Item("X Firmware Waking Vector", 24, 8),
        Item("Version", 32, 1, Show.DECIMAL),
    ),
)

_FADT = Layout(
    "Fixed ACPI Description Table",
    "5.2.9",
    (
        Item("FIRMWARE_CTRL", 36, 4),
        Item("DSDT", 40, 4),
        Item("Preferred_PM_Profile", 45, 1, Show.DECIMAL),
        Item("SCI_INT", 46, 2, Show.DECIMAL),
        Item("SMI_CMD", 48, 4),
        Item("PM1a_EVT_BLK", 56, 4),
        Item("PM1a_CNT_BLK", 64, 4),
        Item("PM_TMR_BLK", 76, 4),
        Item("GPE0_BLK", 80, 4),
        Item("PM1_EVT_LEN", 88, 1, Show.DECIMAL),
        Item("PM1_CNT_LEN", 89, 1, Show.DECIMAL),
        Item("PM_TMR_LEN", 91, 1, Show.DECIMAL),
        Item("GPE0_BLK_LEN", 92, 1, Show.DECIMAL),
        Item("CENTURY", 108, 1),
        _flags("IAPC_BOOT_ARCH", 109, 2, "LEGACY_DEVICES", "8042", "VGA Not Present", "MSI Not Supported"),
        _flags(
            "Flags",
            112,
            4,
            *("WBINVD", "WBINVD_FLUSH", "PROC_C1", "P_LVL2_UP", "PWR_BUTTON", "SLP_BUTTON", "FIX_RTC", "RTC_S4"),
            *("TMR_VAL_EXT", "DCK_CAP", "RESET_REG_SUP", "SEALED_CASE", "HEADLESS"),
        ),
        Item("RESET_REG", 116, 12, Show.REGISTER),
        Item("RESET_VALUE", 128, 1),
        Item("X_FIRMWARE_CTRL", 132, 8),
        Item("X_DSDT", 140, 8),
        Item("X_PM1a_EVT_BLK", 148, 12, Show.REGISTER),
        Item("X_PM1a_CNT_BLK", 172, 12, Show.REGISTER),
        Item("X_PM_TMR_BLK", 208, 12, Show.REGISTER),
        Item("X_GPE0_BLK", 220, 12, Show.REGISTER),
    ),
)

TABLES: Mapping[str, Layout] = {
    "RSDT": Layout("Root System Description Table", "5.2.7", (), (36, 4)),
    "XSDT": Layout("Extended System Description Table", "5.2.8", (), (36, 8)),
    "FACP": _FADT,
    "DSDT": Layout("Differentiated System Description Table", "5.2.11.1", ()),
    "SSDT": Layout("Secondary System Description Table", "5.2.11.2", ()),
    "APIC": Layout(
        "Multiple APIC Description Table",
        "5.2.12",
        (Item("Local Interrupt Controller Address", 36, 4), _flags("Flags", 40, 4, "PCAT_COMPAT")),
    ),
    "SRAT": Layout("System Resource Affinity Table", "5.2.16", ()),
    "NFIT": Layout("NVDIMM Firmware Interface Table", "5.2.25", ()),
}

AML_TABLES = ("DSDT", "SSDT")

NFIT_RANGE_TYPES: Mapping[object, str] = {
    "66f0d379-b4f3-4074-ac43-0d3318b78cdb": "Byte Addressable Persistent Memory",
    "7305944f-fdda-44e3-b16c-3f22d252e5d0": "Volatile Memory",
    "92f701f6-13b4-405d-910b-299367e8234c": "NVDIMM Control Region",
    "91af0530-5d86-470e-a6b0-0a2db9408249": "NVDIMM Block Data Window Region",
    "77ab535a-45fc-624b-5560-f7b281d1f96e": "RAM Disk, volatile, virtual disk",
    "3d5abd30-4175-87ce-6d64-d2ade523c4bb": "RAM Disk, volatile, virtual CD",
    "5cea02c9-4d07-69d3-269f-4496fbe096f9": "RAM Disk, persistent, virtual disk",
    "08018188-42cd-bb48-100f-5387d53ded3d": "RAM Disk, persistent, virtual CD",
}

_INTERFACE_CODES: Mapping[object, str] = {
    0x0101: "byte addressable, energy backed",
    0x0201: "block addressable",
    0x0301: "byte addressable, no energy backing",
}

_NFIT = {
    0: Layout(
        "System Physical Address (SPA) Range Structure",
        "5.2.25.2",
        (
            Item("SPA Range Structure Index", 4, 2, Show.DECIMAL),
            _flags(
                "Flags",
                6,
                2,
                "control region only for hot add/online",
                "Proximity Domain valid",
                "SpaLocationCookie valid",
            ),
            Item("Proximity Domain", 12, 4, Show.DECIMAL),
            Item("Address Range Type GUID", 16, 16, Show.GUID, NFIT_RANGE_TYPES),
            Item("System Physical Address Range Base", 32, 8),
            Item("System Physical Address Range Length", 40, 8),
            Item("Address Range Memory Mapping Attribute", 48, 8),
            Item("SpaLocationCookie", 56, 8),
        ),
    ),
    1: Layout(
        "NVDIMM Region Mapping Structure",
        "5.2.25.3",
        (
            Item("NFIT Device Handle", 4, 4),
            Item("NVDIMM Physical ID", 8, 2),
            Item("NVDIMM Region ID", 10, 2),
            Item("SPA Range Structure Index", 12, 2, Show.DECIMAL),
            Item("NVDIMM Control Region Structure Index", 14, 2, Show.DECIMAL),
            Item("NVDIMM Region Size", 16, 8),
            Item("Region Offset", 24, 8),
            Item("NVDIMM Physical Address Region Base", 32, 8),
            Item("Interleave Structure Index", 40, 2, Show.DECIMAL),
            Item("Interleave Ways", 42, 2, Show.DECIMAL),
            _flags(
                "NVDIMM State Flags",
                44,
                2,
                *("save failed", "restore failed", "platform flush failed", "not armed", "health events observed"),
                *("health event notification enabled", "mapping failed"),
            ),
        ),
    ),
    2: Layout(
        "Interleave Structure",
        "5.2.25.4",
        (
            Item("Interleave Structure Index", 4, 2, Show.DECIMAL),
            Item("Number of Lines Described", 8, 4, Show.DECIMAL),
            Item("Line Size", 12, 4, Show.DECIMAL),
        ),
        (16, 4),
    ),
    3: Layout("SMBIOS Management Information Structure", "5.2.25.5", (), (8, 1)),
    4: Layout(
        "NVDIMM Control Region Structure",
        "5.2.25.6",
        (
            Item("NVDIMM Control Region Structure Index", 4, 2, Show.DECIMAL),
            Item("Vendor ID", 6, 2),
            Item("Device ID", 8, 2),
            Item("Revision ID", 10, 2),
            Item("Subsystem Vendor ID", 12, 2),
            Item("Subsystem Device ID", 14, 2),
            Item("Subsystem Revision ID", 16, 2),
            _flags("Valid Fields", 18, 1, "manufacturing information"),
            Item("Manufacturing Location", 19, 1),
            Item("Manufacturing Date", 20, 2),
            Item("Serial Number", 24, 4),
            Item("Region Format Interface Code", 28, 2, Show.HEX, _INTERFACE_CODES),
            Item("Number of Block Control Windows", 30, 2, Show.DECIMAL),
            Item("Size of Block Control Window", 32, 8),
            Item("Command Register Offset", 40, 8),
            Item("Size of Command Register", 48, 8),
            Item("Status Register Offset", 56, 8),
            Item("Size of Status Register", 64, 8),
            _flags("NVDIMM Control Region Flag", 72, 2, "block data windows buffered"),
        ),
    ),
    5: Layout(
        "NVDIMM Block Data Window Region Structure",
        "5.2.25.7",
        (
            Item("NVDIMM Control Region Structure Index", 4, 2, Show.DECIMAL),
            Item("Number of Block Data Windows", 6, 2, Show.DECIMAL),
            Item("Block Data Window Start Offset", 8, 8),
            Item("Size of Block Data Window", 16, 8),
            Item("Block Accessible Memory Capacity", 24, 8),
            Item("Beginning Address of First Block", 32, 8),
        ),
    ),
    6: Layout(
        "Flush Hint Address Structure",
        "5.2.25.8",
        (Item("NFIT Device Handle", 4, 4), Item("Number of Flush Hint Addresses", 8, 2, Show.DECIMAL)),
        (16, 8),
    ),
    7: Layout(
        "Platform Capabilities Structure",
        "5.2.25.9",
        (
            Item("Highest Valid Capability", 4, 1, Show.DECIMAL),
            _flags(
                "Capabilities",
                8,
                4,
                "CPU cache flush to NVDIMM durability on power loss",
                "memory controller flush to NVDIMM durability on power loss",
                "byte addressable persistent memory hardware mirroring",
            ),
        ),
    ),
}

_MADT = {
    0: Layout(
        "Processor Local APIC Structure",
        "5.2.12.2",
        (
            Item("ACPI Processor UID", 2, 1, Show.DECIMAL),
            Item("APIC ID", 3, 1, Show.DECIMAL),
            _flags("Flags", 4, 4, "Enabled", "Online Capable"),
        ),
    ),
    1: Layout(
        "I/O APIC Structure",
        "5.2.12.3",
        (
            Item("I/O APIC ID", 2, 1, Show.DECIMAL),
            Item("I/O APIC Address", 4, 4),
            Item("Global System Interrupt Base", 8, 4, Show.DECIMAL),
        ),
    ),
}

_SRAT = {
    0: Layout(
        "Processor Local APIC/SAPIC Affinity Structure",
        "5.2.16.1",
        (
            Item("Proximity Domain [7:0]", 2, 1, Show.DECIMAL),
            Item("APIC ID", 3, 1, Show.DECIMAL),
            _flags("Flags", 4, 4, "Enabled"),
            Item("Clock Domain", 12, 4, Show.DECIMAL),
        ),
    ),
    1: Layout(
        "Memory Affinity Structure",
        "5.2.16.2",
        (
            Item("Proximity Domain", 2, 4, Show.DECIMAL),
            Item("Base Address", 8, 8),
            Item("Length", 16, 8),
            _flags("Flags", 28, 4, "Enabled", "Hot Pluggable", "NonVolatile"),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Body:
    """A table whose structures start at ``start``, each with its type and length in numbers of ``width`` bytes."""

    start: int
    width: int
    structures: Mapping[int, Layout]


BODIES: Mapping[str, Body] = {"NFIT": Body(40, 2, _NFIT), "APIC": Body(44, 1, _MADT), "SRAT": Body(48, 1, _SRAT)}
