"""The fixed layouts that a machine with NVDIMMs needs to start: NFIT structures and the _DSM page.

Sources: ACPI 6.5 section 5.2.26 (NFIT), QEMU's docs/specs/acpi_nvdimm (page). Values are in enumerations here; what
QEMU puts where is in ``nfit``. The layouts of labels are in ``label_layouts``.
"""

from __future__ import annotations

import enum

from devices.nvdimm.structure import Structure, octets, structure, u8, u16, u32, u64

# NFIT (ACPI 6.5, section 5.2.26)


class NfitType(enum.IntEnum):
    """Type of an NFIT structure (table 5.131)."""

    SPA_RANGE = 0
    MEMORY_MAP = 1
    INTERLEAVE = 2
    SMBIOS = 3
    CONTROL_REGION = 4
    BLOCK_WINDOW = 5
    FLUSH_HINTS = 6
    PLATFORM_CAPABILITIES = 7


class SpaFlags(enum.IntFlag):
    """Flags of a SPA range (section 5.2.26.2)."""

    CONTROL_FOR_ADD_ONLINE = 1
    PROXIMITY_VALID = 2
    LOCATION_COOKIE_VALID = 4


class MapFlags(enum.IntFlag):
    """NVDIMM state flags of a memory map (section 5.2.26.3)."""

    SAVE_FAILED = 1
    RESTORE_FAILED = 2
    FLUSH_FAILED = 4
    NOT_ARMED = 8
    HEALTH_EVENT = 16
    HEALTH_NOTIFY = 32
    MAP_FAILED = 64


class Capabilities(enum.IntFlag):
    """Platform capabilities (section 5.2.26.9)."""

    CPU_CACHE_FLUSH = 1
    MEMORY_CONTROLLER_FLUSH = 2
    MIRRORING = 4


# Type of an address range (section 5.2.26.2): 66f0d379-b4f3-4074-ac43-0d3318b78cdb in the byte order of EFI.
PERSISTENT_MEMORY = bytes.fromhex("79d3f066f3b47440ac430d3318b78cdb")


@structure
class NfitHeader(Structure):
    """What every NFIT structure starts with."""

    type: int = u16(0)
    length: int = u16(2)


@structure
class SpaRange(Structure):
    """System physical address range (section 5.2.26.2), without the location cookie of ACPI 6.4."""

    type: int = u16(0, default=NfitType.SPA_RANGE)
    length: int = u16(2, default=56)
    index: int = u16(4)
    flags: int = u16(6)
    reserved: int = u32(8, default=0)
    proximity_domain: int = u32(12)
    range_type: bytes = octets(16, 16)
    base: int = u64(32)
    size: int = u64(40)
    attributes: int = u64(48)


@structure
class MemoryMap(Structure):
    """NVDIMM region mapping (section 5.2.26.3)."""

    type: int = u16(0, default=NfitType.MEMORY_MAP)
    length: int = u16(2, default=48)
    device_handle: int = u32(4)
    physical_id: int = u16(8, default=0)
    region_id: int = u16(10, default=0)
    spa_index: int = u16(12)
    control_index: int = u16(14)
    region_size: int = u64(16)
    region_offset: int = u64(24, default=0)
    region_dpa: int = u64(32, default=0)
    interleave_index: int = u16(40, default=0)
    interleave_ways: int = u16(42, default=1)
    flags: int = u16(44)
    reserved: int = u16(46, default=0)


@structure
class Interleave(Structure):
    """Head of an interleave structure (section 5.2.26.4); ``lines`` 32-bit line offsets follow."""

    type: int = u16(0, default=NfitType.INTERLEAVE)
    length: int = u16(2)
    index: int = u16(4)
    reserved: int = u16(6, default=0)
    lines: int = u32(8)
    line_size: int = u32(12)


@structure
class SmbiosInformation(Structure):
    """Head of an SMBIOS management information structure (section 5.2.26.5); raw SMBIOS data follows."""

    type: int = u16(0, default=NfitType.SMBIOS)
    length: int = u16(2)
    reserved: int = u32(4, default=0)


@structure
class ControlRegion(Structure):
    """NVDIMM control region (section 5.2.26.6)."""

    type: int = u16(0, default=NfitType.CONTROL_REGION)
    length: int = u16(2, default=80)
    index: int = u16(4)
    vendor_id: int = u16(6)
    device_id: int = u16(8)
    revision_id: int = u16(10)
    subsystem_vendor_id: int = u16(12, default=0)
    subsystem_device_id: int = u16(14, default=0)
    subsystem_revision_id: int = u16(16, default=0)
    valid_fields: int = u8(18, default=0)
    manufacturing_location: int = u8(19, default=0)
    manufacturing_date: int = u16(20, default=0)
    reserved: int = u16(22, default=0)
    serial_number: int = u32(24)
    format_interface: int = u16(28)
    block_windows: int = u16(30, default=0)
    window_size: int = u64(32, default=0)
    command_offset: int = u64(40, default=0)
    command_size: int = u64(48, default=0)
    status_offset: int = u64(56, default=0)
    status_size: int = u64(64, default=0)
    flags: int = u16(72, default=0)
    reserved_end: bytes = octets(74, 6, default=bytes(6))


@structure
class BlockWindow(Structure):
    """NVDIMM block data window region (section 5.2.26.7)."""

    type: int = u16(0, default=NfitType.BLOCK_WINDOW)
    length: int = u16(2, default=40)
    control_index: int = u16(4)
    windows: int = u16(6)
    offset: int = u64(8)
    window_size: int = u64(16)
    capacity: int = u64(24)
    first_address: int = u64(32)


@structure
class FlushHints(Structure):
    """Head of a flush hint address structure (section 5.2.26.8); ``hints`` 64-bit addresses follow."""

    type: int = u16(0, default=NfitType.FLUSH_HINTS)
    length: int = u16(2)
    device_handle: int = u32(4)
    hints: int = u16(8)
    reserved: bytes = octets(10, 6, default=bytes(6))


@structure
class PlatformCapabilities(Structure):
    """Platform capabilities (section 5.2.26.9); ``highest_valid`` is the number of the highest capability bit set."""

    type: int = u16(0, default=NfitType.PLATFORM_CAPABILITIES)
    length: int = u16(2, default=16)
    highest_valid: int = u8(4)
    reserved: bytes = octets(5, 3, default=bytes(3))
    capabilities: int = u32(8)
    reserved_end: int = u32(12, default=0)


NFIT_STRUCTURES: dict[int, type[Structure]] = {
    NfitType.SPA_RANGE: SpaRange,
    NfitType.MEMORY_MAP: MemoryMap,
    NfitType.INTERLEAVE: Interleave,
    NfitType.SMBIOS: SmbiosInformation,
    NfitType.CONTROL_REGION: ControlRegion,
    NfitType.BLOCK_WINDOW: BlockWindow,
    NfitType.FLUSH_HINTS: FlushHints,
    NfitType.PLATFORM_CAPABILITIES: PlatformCapabilities,
}

# _DSM page (QEMU's docs/specs/acpi_nvdimm)

DSM_PAGE = 4096


class DsmStatus(enum.IntEnum):
    """Status of a _DSM call (NVDIMM DSM interface; FIT_CHANGED is QEMU's own)."""

    SUCCESS = 0
    NOT_SUPPORTED = 1
    NO_DEVICE = 2
    INVALID = 3
    HARDWARE_ERROR = 4
    FIT_CHANGED = 0x100


@structure
class DsmInput(Structure):
    """What the AML writes at the start of the page; the function's arguments follow."""

    handle: int = u32(0)
    revision: int = u32(4)
    function: int = u32(8)


@structure
class DsmTransfer(Structure):
    """Arguments of the label data functions; for a write the data follows."""

    offset: int = u32(0)
    length: int = u32(4)


@structure
class DsmLabelSize(Structure):
    """Answer of the label size function, behind the answer's length."""

    status: int = u32(0)
    label_size: int = u32(4)
    max_transfer: int = u32(8)
