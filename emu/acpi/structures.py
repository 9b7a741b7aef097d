"""The binary structures of ACPI tables, each declared once: builders write with them, ``parse`` reads and shows them.

Sections are those of ACPI 6.4. Names of fields are Python's, titles the specification's; what has no title is reserved
or of no interest here. What QEMU and this machine put into the fields is the builders' business.
"""

from __future__ import annotations

from collections.abc import Mapping

from emu.enumeration import IntEnum, IntFlag
from emu.record import NamedTuple
from emu.structure import (
    DECIMAL,
    FLAGS,
    GUID,
    HEX,
    REGISTER,
    Structure,
    octets,
    structure,
    u8,
    u16,
    u32,
    u64,
)  # fmt: skip

EDITION = "ACPI 6.4"
HEADER_SIZE = 36
_NO_REGISTER = bytes(12)


def _bits(*names: str) -> Mapping[object, str]:
    return dict(enumerate(names))


class Revised(IntEnum):
    """Revisions that this machine's tables have."""

    RSDP = 2
    FACS = 1
    FADT = 3
    MADT = 3


@structure
class Header(Structure, title="System Description Table Header", section="5.2.6"):
    """What every system description table starts with."""

    signature: bytes = octets(0, 4, "Signature")
    length: int = u32(4, "Length", DECIMAL)
    revision: int = u8(8, "Revision", DECIMAL)
    checksum: int = u8(9, "Checksum", default=0)
    oem_id: bytes = octets(10, 6, "OEM ID")
    oem_table_id: bytes = octets(16, 8, "OEM Table ID")
    oem_revision: int = u32(24, "OEM Revision", default=1)
    creator_id: bytes = octets(28, 4, "Creator ID")
    creator_revision: int = u32(32, "Creator Revision", default=1)


@structure
class Rsdp(Structure, title="Root System Description Pointer", section="5.2.5.3"):
    """The pointer that guests find by scanning; ``checksum`` covers the first 20 bytes."""

    signature: bytes = octets(0, 8, "Signature", default=b"RSD PTR ")
    checksum: int = u8(8, "Checksum", default=0)
    oem_id: bytes = octets(9, 6, "OEM ID")
    revision: int = u8(15, "Revision", DECIMAL, default=Revised.RSDP)
    rsdt: int = u32(16, "RSDT Address")
    length: int = u32(20, "Length", DECIMAL, default=36)
    xsdt: int = u64(24, "XSDT Address")
    extended_checksum: int = u8(32, "Extended Checksum", default=0)
    reserved: bytes = octets(33, 3, default=bytes(3))


@structure
class Rsdt(Structure, title="Root System Description Table", section="5.2.7", start=36, element=4):
    """32-bit addresses of the other tables."""


@structure
class Xsdt(Structure, title="Extended System Description Table", section="5.2.8", start=36, element=8):
    """64-bit addresses of the other tables."""


@structure
class Dsdt(Structure, title="Differentiated System Description Table", section="5.2.11.1", start=36):
    """AML follows."""


@structure
class Ssdt(Structure, title="Secondary System Description Table", section="5.2.11.2", start=36):
    """AML follows."""


@structure
class Facs(Structure, title="Firmware ACPI Control Structure", section="5.2.10"):
    """A structure of its own, without a header and a checksum."""

    signature: bytes = octets(0, 4, "Signature", default=b"FACS")
    length: int = u32(4, "Length", DECIMAL, default=64)
    hardware_signature: int = u32(8, "Hardware Signature", default=0)
    waking_vector: int = u32(12, "Firmware Waking Vector", default=0)
    global_lock: int = u32(16, "Global Lock", default=0)
    flags: int = u32(20, "Flags", default=0)
    x_waking_vector: int = u64(24, "X Firmware Waking Vector", default=0)
    version: int = u8(32, "Version", DECIMAL, default=Revised.FACS)
    reserved: bytes = octets(33, 31, default=bytes(31))


@structure
class GenericAddress(Structure, title="Generic Address Structure", section="5.2.3.2"):
    """Where a register is; ``access`` 1, 2, 3 means byte, word, dword."""

    space: int = u8(0)
    bits: int = u8(1)
    bit_offset: int = u8(2, default=0)
    access: int = u8(3)
    address: int = u64(4)


class Boot(IntFlag):
    """IA-PC boot architecture flags (section 5.2.9.3)."""

    LEGACY_DEVICES = 1 << 0
    VGA_NOT_PRESENT = 1 << 2
    MSI_NOT_SUPPORTED = 1 << 3


class Feature(IntFlag):
    """Fixed feature flags (section 5.2.9, table 5.10)."""

    WBINVD = 1 << 0
    PROC_C1 = 1 << 2
    SLP_BUTTON = 1 << 5
    FIX_RTC = 1 << 6
    RESET_REG_SUP = 1 << 10


@structure
class Fadt(Structure, title="Fixed ACPI Description Table", section="5.2.9", start=36):
    """Revision 3, 244 bytes. Registers are Generic Address Structures, packed."""

    facs: int = u32(36, "FIRMWARE_CTRL")
    dsdt: int = u32(40, "DSDT")
    reserved: int = u8(44, default=0)
    profile: int = u8(45, "Preferred_PM_Profile", DECIMAL, default=0)
    sci: int = u16(46, "SCI_INT", DECIMAL)
    smi_command: int = u32(48, "SMI_CMD", default=0)
    acpi_enable: int = u8(52, default=0)
    acpi_disable: int = u8(53, default=0)
    s4bios_request: int = u8(54, default=0)
    pstate_control: int = u8(55, default=0)
    pm1a_event: int = u32(56, "PM1a_EVT_BLK")
    pm1b_event: int = u32(60, default=0)
    pm1a_control: int = u32(64, "PM1a_CNT_BLK")
    pm1b_control: int = u32(68, default=0)
    pm2_control: int = u32(72, default=0)
    pm_timer: int = u32(76, "PM_TMR_BLK")
    gpe0: int = u32(80, "GPE0_BLK")
    gpe1: int = u32(84, default=0)
    pm1_event_length: int = u8(88, "PM1_EVT_LEN", DECIMAL)
    pm1_control_length: int = u8(89, "PM1_CNT_LEN", DECIMAL)
    pm2_control_length: int = u8(90, default=0)
    pm_timer_length: int = u8(91, "PM_TMR_LEN", DECIMAL)
    gpe0_length: int = u8(92, "GPE0_BLK_LEN", DECIMAL)
    gpe1_length: int = u8(93, default=0)
    gpe1_base: int = u8(94, default=0)
    cstate_control: int = u8(95, default=0)
    c2_latency: int = u16(96)
    c3_latency: int = u16(98)
    flush_size: int = u16(100, default=0)
    flush_stride: int = u16(102, default=0)
    duty_offset: int = u8(104, default=0)
    duty_width: int = u8(105, default=0)
    day_alarm: int = u8(106, default=0)
    month_alarm: int = u8(107, default=0)
    century: int = u8(108, "CENTURY")
    boot: int = u16(
        109, "IAPC_BOOT_ARCH", FLAGS, _bits("LEGACY_DEVICES", "8042", "VGA Not Present", "MSI Not Supported")
    )
    reserved_boot: int = u8(111, default=0)
    flags: int = u32(
        112, "Flags", FLAGS,
        _bits(
            "WBINVD", "WBINVD_FLUSH", "PROC_C1", "P_LVL2_UP", "PWR_BUTTON", "SLP_BUTTON", "FIX_RTC", "RTC_S4",
            "TMR_VAL_EXT", "DCK_CAP", "RESET_REG_SUP", "SEALED_CASE", "HEADLESS",
        ),
    )  # fmt: skip
    reset_register: bytes = octets(116, 12, "RESET_REG", REGISTER)
    reset_value: int = u8(128, "RESET_VALUE")
    arm_boot: int = u16(129, default=0)
    minor_revision: int = u8(131, default=0)
    x_facs: int = u64(132, "X_FIRMWARE_CTRL", default=0)
    x_dsdt: int = u64(140, "X_DSDT")
    x_pm1a_event: bytes = octets(148, 12, "X_PM1a_EVT_BLK", REGISTER)
    x_pm1b_event: bytes = octets(160, 12, default=_NO_REGISTER)
    x_pm1a_control: bytes = octets(172, 12, "X_PM1a_CNT_BLK", REGISTER)
    x_pm1b_control: bytes = octets(184, 12, default=_NO_REGISTER)
    x_pm2_control: bytes = octets(196, 12, default=_NO_REGISTER)
    x_pm_timer: bytes = octets(208, 12, "X_PM_TMR_BLK", REGISTER)
    x_gpe0: bytes = octets(220, 12, "X_GPE0_BLK", REGISTER)
    x_gpe1: bytes = octets(232, 12, default=_NO_REGISTER)


@structure
class Madt(Structure, title="Multiple APIC Description Table", section="5.2.12", start=36):
    """Interrupt controller structures follow."""

    local_apic: int = u32(36, "Local Interrupt Controller Address")
    flags: int = u32(40, "Flags", FLAGS, _bits("PCAT_COMPAT"))


@structure
class LocalApic(Structure, title="Processor Local APIC Structure", section="5.2.12.2"):
    """A processor."""

    type: int = u8(0, default=0)
    length: int = u8(1, default=8)
    processor: int = u8(2, "ACPI Processor UID", DECIMAL)
    apic: int = u8(3, "APIC ID", DECIMAL)
    flags: int = u32(4, "Flags", FLAGS, _bits("Enabled", "Online Capable"))


@structure
class IoApic(Structure, title="I/O APIC Structure", section="5.2.12.3"):
    """An I/O APIC; this machine has none, others do."""

    type: int = u8(0, default=1)
    length: int = u8(1, default=12)
    apic: int = u8(2, "I/O APIC ID", DECIMAL)
    reserved: int = u8(3, default=0)
    address: int = u32(4, "I/O APIC Address")
    first_interrupt: int = u32(8, "Global System Interrupt Base", DECIMAL)


@structure
class Srat(Structure, title="System Resource Affinity Table", section="5.2.16", start=36):
    """Affinity structures follow."""

    reserved_one: int = u32(36, default=1)
    reserved: int = u64(40, default=0)


@structure
class ApicAffinity(Structure, title="Processor Local APIC/SAPIC Affinity Structure", section="5.2.16.1"):
    """Which node a processor is on; ``node_high`` has the upper 24 bits."""

    type: int = u8(0, default=0)
    length: int = u8(1, default=16)
    node_low: int = u8(2, "Proximity Domain [7:0]", DECIMAL)
    apic: int = u8(3, "APIC ID", DECIMAL)
    flags: int = u32(4, "Flags", FLAGS, _bits("Enabled"))
    sapic_eid: int = u8(8, default=0)
    node_high: bytes = octets(9, 3, default=bytes(3))
    clock_domain: int = u32(12, "Clock Domain", DECIMAL, default=0)


@structure
class MemoryAffinityEntry(Structure, title="Memory Affinity Structure", section="5.2.16.2"):
    """Which node a range of memory is on."""

    type: int = u8(0, default=1)
    length: int = u8(1, default=40)
    node: int = u32(2, "Proximity Domain", DECIMAL)
    reserved: int = u16(6, default=0)
    base: int = u64(8, "Base Address")
    size: int = u64(16, "Length")
    reserved_middle: int = u32(24, default=0)
    flags: int = u32(28, "Flags", FLAGS, _bits("Enabled", "Hot Pluggable", "NonVolatile"))
    reserved_end: int = u64(32, default=0)


# NFIT


class NfitType(IntEnum):
    """Type of an NFIT structure (section 5.2.25.1)."""

    SPA_RANGE = 0
    MEMORY_MAP = 1
    INTERLEAVE = 2
    SMBIOS = 3
    CONTROL_REGION = 4
    BLOCK_WINDOW = 5
    FLUSH_HINTS = 6
    PLATFORM_CAPABILITIES = 7


class SpaFlags(IntFlag):
    """Flags of a SPA range (section 5.2.25.2)."""

    CONTROL_FOR_ADD_ONLINE = 1
    PROXIMITY_VALID = 2
    LOCATION_COOKIE_VALID = 4


class MapFlags(IntFlag):
    """NVDIMM state flags of a region mapping (section 5.2.25.3)."""

    SAVE_FAILED = 1
    RESTORE_FAILED = 2
    FLUSH_FAILED = 4
    NOT_ARMED = 8
    HEALTH_EVENT = 16
    HEALTH_NOTIFY = 32
    MAP_FAILED = 64


class Capabilities(IntFlag):
    """Platform capabilities (section 5.2.25.9)."""

    CPU_CACHE_FLUSH = 1
    MEMORY_CONTROLLER_FLUSH = 2
    MIRRORING = 4


# Types of address ranges (section 5.2.25.2).
_PERSISTENT_MEMORY = "66f0d379-b4f3-4074-ac43-0d3318b78cdb"
PERSISTENT_MEMORY = bytes.fromhex("79d3f066f3b47440ac430d3318b78cdb")
"""The same in the byte order of EFI."""
_RANGE_TYPES: Mapping[object, str] = {
    _PERSISTENT_MEMORY: "Byte Addressable Persistent Memory",
    "7305944f-fdda-44e3-b16c-3f22d252e5d0": "Volatile Memory",
    "92f701f6-13b4-405d-910b-299367e8234c": "NVDIMM Control Region",
    "91af0530-5d86-470e-a6b0-0a2db9408249": "NVDIMM Block Data Window Region",
    "77ab535a-45fc-624b-5560-f7b281d1f96e": "RAM Disk, volatile, virtual disk",
    "3d5abd30-4175-87ce-6d64-d2ade523c4bb": "RAM Disk, volatile, virtual CD",
    "5cea02c9-4d07-69d3-269f-4496fbe096f9": "RAM Disk, persistent, virtual disk",
    "08018188-42cd-bb48-100f-5387d53ded3d": "RAM Disk, persistent, virtual CD",
}

BYTE_ADDRESSABLE = 0x0301
_INTERFACE_CODES: Mapping[object, str] = {
    0x0101: "byte addressable, energy backed",
    0x0201: "block addressable",
    BYTE_ADDRESSABLE: "byte addressable, no energy backing",
}


@structure
class Nfit(Structure, title="NVDIMM Firmware Interface Table", section="5.2.25", start=36):
    """NFIT structures follow."""

    reserved: int = u32(36, default=0)


@structure
class NfitHeader(Structure):
    """What every NFIT structure starts with."""

    type: int = u16(0)
    length: int = u16(2)


@structure
class SpaRange(
    Structure, title="System Physical Address (SPA) Range Structure", section="5.2.25.2",
    newer=(u64(56, "SpaLocationCookie"),),
):  # fmt: skip
    """System physical address range, as before the location cookie of ACPI 6.4."""

    type: int = u16(0, default=NfitType.SPA_RANGE)
    length: int = u16(2, default=56)
    index: int = u16(4, "SPA Range Structure Index", DECIMAL)
    flags: int = u16(
        6, "Flags", FLAGS,
        _bits("control region only for hot add/online", "Proximity Domain valid", "SpaLocationCookie valid"),
    )  # fmt: skip
    reserved: int = u32(8, default=0)
    proximity_domain: int = u32(12, "Proximity Domain", DECIMAL)
    range_type: bytes = octets(16, 16, "Address Range Type GUID", GUID, _RANGE_TYPES)
    base: int = u64(32, "System Physical Address Range Base")
    size: int = u64(40, "System Physical Address Range Length")
    attributes: int = u64(48, "Address Range Memory Mapping Attribute")


@structure
class MemoryMap(Structure, title="NVDIMM Region Mapping Structure", section="5.2.25.3"):
    """Which part of an NVDIMM lies where."""

    type: int = u16(0, default=NfitType.MEMORY_MAP)
    length: int = u16(2, default=48)
    device_handle: int = u32(4, "NFIT Device Handle")
    physical_id: int = u16(8, "NVDIMM Physical ID", default=0)
    region_id: int = u16(10, "NVDIMM Region ID", default=0)
    spa_index: int = u16(12, "SPA Range Structure Index", DECIMAL)
    control_index: int = u16(14, "NVDIMM Control Region Structure Index", DECIMAL)
    region_size: int = u64(16, "NVDIMM Region Size")
    region_offset: int = u64(24, "Region Offset", default=0)
    region_dpa: int = u64(32, "NVDIMM Physical Address Region Base", default=0)
    interleave_index: int = u16(40, "Interleave Structure Index", DECIMAL, default=0)
    interleave_ways: int = u16(42, "Interleave Ways", DECIMAL, default=1)
    flags: int = u16(
        44, "NVDIMM State Flags", FLAGS,
        _bits(
            "save failed", "restore failed", "platform flush failed", "not armed", "health events observed",
            "health event notification enabled", "mapping failed",
        ),
    )  # fmt: skip
    reserved: int = u16(46, default=0)


@structure
class Interleave(Structure, title="Interleave Structure", section="5.2.25.4", element=4):
    """``lines`` 32-bit line offsets follow."""

    type: int = u16(0, default=NfitType.INTERLEAVE)
    length: int = u16(2)
    index: int = u16(4, "Interleave Structure Index", DECIMAL)
    reserved: int = u16(6, default=0)
    lines: int = u32(8, "Number of Lines Described", DECIMAL)
    line_size: int = u32(12, "Line Size", DECIMAL)


@structure
class SmbiosInformation(Structure, title="SMBIOS Management Information Structure", section="5.2.25.5", element=1):
    """Raw SMBIOS data follows."""

    type: int = u16(0, default=NfitType.SMBIOS)
    length: int = u16(2)
    reserved: int = u32(4, default=0)


@structure
class ControlRegion(Structure, title="NVDIMM Control Region Structure", section="5.2.25.6"):
    """What kind of NVDIMM it is."""

    type: int = u16(0, default=NfitType.CONTROL_REGION)
    length: int = u16(2, default=80)
    index: int = u16(4, "NVDIMM Control Region Structure Index", DECIMAL)
    vendor_id: int = u16(6, "Vendor ID")
    device_id: int = u16(8, "Device ID")
    revision_id: int = u16(10, "Revision ID")
    subsystem_vendor_id: int = u16(12, "Subsystem Vendor ID", default=0)
    subsystem_device_id: int = u16(14, "Subsystem Device ID", default=0)
    subsystem_revision_id: int = u16(16, "Subsystem Revision ID", default=0)
    valid_fields: int = u8(18, "Valid Fields", FLAGS, _bits("manufacturing information"), default=0)
    manufacturing_location: int = u8(19, "Manufacturing Location", default=0)
    manufacturing_date: int = u16(20, "Manufacturing Date", default=0)
    reserved: int = u16(22, default=0)
    serial_number: int = u32(24, "Serial Number")
    format_interface: int = u16(28, "Region Format Interface Code", HEX, _INTERFACE_CODES)
    block_windows: int = u16(30, "Number of Block Control Windows", DECIMAL, default=0)
    window_size: int = u64(32, "Size of Block Control Window", default=0)
    command_offset: int = u64(40, "Command Register Offset", default=0)
    command_size: int = u64(48, "Size of Command Register", default=0)
    status_offset: int = u64(56, "Status Register Offset", default=0)
    status_size: int = u64(64, "Size of Status Register", default=0)
    flags: int = u16(72, "NVDIMM Control Region Flag", FLAGS, _bits("block data windows buffered"), default=0)
    reserved_end: bytes = octets(74, 6, default=bytes(6))


@structure
class BlockWindow(Structure, title="NVDIMM Block Data Window Region Structure", section="5.2.25.7"):
    """Block data windows; this machine's NVDIMMs have none."""

    type: int = u16(0, default=NfitType.BLOCK_WINDOW)
    length: int = u16(2, default=40)
    control_index: int = u16(4, "NVDIMM Control Region Structure Index", DECIMAL)
    windows: int = u16(6, "Number of Block Data Windows", DECIMAL)
    offset: int = u64(8, "Block Data Window Start Offset")
    window_size: int = u64(16, "Size of Block Data Window")
    capacity: int = u64(24, "Block Accessible Memory Capacity")
    first_address: int = u64(32, "Beginning Address of First Block")


@structure
class FlushHints(Structure, title="Flush Hint Address Structure", section="5.2.25.8", element=8):
    """``hints`` 64-bit addresses follow."""

    type: int = u16(0, default=NfitType.FLUSH_HINTS)
    length: int = u16(2)
    device_handle: int = u32(4, "NFIT Device Handle")
    hints: int = u16(8, "Number of Flush Hint Addresses", DECIMAL)
    reserved: bytes = octets(10, 6, default=bytes(6))


@structure
class PlatformCapabilities(Structure, title="Platform Capabilities Structure", section="5.2.25.9"):
    """``highest_valid`` is the number of the highest capability bit set."""

    type: int = u16(0, default=NfitType.PLATFORM_CAPABILITIES)
    length: int = u16(2, default=16)
    highest_valid: int = u8(4, "Highest Valid Capability", DECIMAL)
    reserved: bytes = octets(5, 3, default=bytes(3))
    capabilities: int = u32(
        8, "Capabilities", FLAGS,
        _bits(
            "CPU cache flush to NVDIMM durability on power loss",
            "memory controller flush to NVDIMM durability on power loss",
            "byte addressable persistent memory hardware mirroring",
        ),
    )  # fmt: skip
    reserved_end: int = u32(12, default=0)


NFIT_STRUCTURES: Mapping[int, type[Structure]] = {
    NfitType.SPA_RANGE: SpaRange,
    NfitType.MEMORY_MAP: MemoryMap,
    NfitType.INTERLEAVE: Interleave,
    NfitType.SMBIOS: SmbiosInformation,
    NfitType.CONTROL_REGION: ControlRegion,
    NfitType.BLOCK_WINDOW: BlockWindow,
    NfitType.FLUSH_HINTS: FlushHints,
    NfitType.PLATFORM_CAPABILITIES: PlatformCapabilities,
}


TABLES: Mapping[str, type[Structure]] = {
    "RSDT": Rsdt, "XSDT": Xsdt, "FACP": Fadt, "DSDT": Dsdt, "SSDT": Ssdt, "APIC": Madt, "SRAT": Srat, "NFIT": Nfit,
}  # fmt: skip
"""What stands behind the header of a table with this signature."""

AML_TABLES = ("DSDT", "SSDT")


class Body(NamedTuple):
    """The list of structures that fills a table, each with its type and length in numbers of ``width`` bytes."""

    width: int
    structures: Mapping[int, type[Structure]]


BODIES: Mapping[str, Body] = {
    "NFIT": Body(2, NFIT_STRUCTURES),
    "APIC": Body(1, {0: LocalApic, 1: IoApic}),
    "SRAT": Body(1, {0: ApicAffinity, 1: MemoryAffinityEntry}),
}
