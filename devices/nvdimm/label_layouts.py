"""The fixed layouts of the label storage area: namespace index block and labels (UEFI 2.10, section 13.19.2).

What a label means is in ``labels`` and ``namespace``.
"""

from __future__ import annotations

import enum
from uuid import UUID

from emu.structure import Structure, guid, octets, rfc4122, structure, u8, u16, u32, u64

INDEX_SIGNATURE = b"NAMESPACE_INDEX\0"


class Guids:
    """GUIDs of address range types (ACPI 6.4, section 5.2.25.2) and of label abstractions."""

    PERSISTENT_MEMORY = UUID("66f0d379-b4f3-4074-ac43-0d3318b78cdb")
    BTT = UUID("18633bfc-1735-4217-8ac9-17239282d3f8")
    PFN = UUID("266400ba-fb9f-4677-bcb0-968f11d0d225")
    DAX = UUID("97a86d9c-3cdd-4eda-986f-5068b4f80088")
    NONE = UUID(int=0)


class LabelFlags(enum.IntFlag):
    """Flags of a label (EFI_NVDIMM_LABEL_FLAGS_*)."""

    READ_ONLY = 1
    LOCAL = 2
    RESERVED = 4
    UPDATING = 8


@structure
class IndexHeader(Structure):
    """Namespace index block without its free bitmap (EFI_NVDIMM_LABEL_INDEX_BLOCK)."""

    signature: bytes = octets(0, 16, default=INDEX_SIGNATURE)
    flags: bytes = octets(16, 3, default=bytes(3))
    label_size_code: int = u8(19)
    sequence: int = u32(20)
    my_offset: int = u64(24)
    my_size: int = u64(32)
    other_offset: int = u64(40)
    label_offset: int = u64(48)
    slots: int = u32(56)
    major: int = u16(60, default=1)
    minor: int = u16(62)
    checksum: int = u64(64, default=0)


@structure
class LabelV11(Structure):
    """Namespace label of version 1.1, which predates UEFI (NVDIMM Namespace Specification); it has no checksum."""

    uuid: UUID = rfc4122(0)
    name: bytes = octets(16, 64)
    flags: int = u32(80)
    labels: int = u16(84, default=1)
    position: int = u16(86, default=0)
    set_cookie: int = u64(88)
    lba_size: int = u64(96, default=0)
    dpa: int = u64(104)
    raw_size: int = u64(112)
    slot: int = u32(120)
    unused: int = u32(124, default=0)


@structure
class LabelV12(Structure):
    """Namespace label of version 1.2 (EFI_NVDIMM_LABEL)."""

    uuid: UUID = rfc4122(0)
    name: bytes = octets(16, 64)
    flags: int = u32(80)
    labels: int = u16(84, default=1)
    position: int = u16(86, default=0)
    set_cookie: int = u64(88)
    lba_size: int = u64(96, default=0)
    dpa: int = u64(104)
    raw_size: int = u64(112)
    slot: int = u32(120)
    alignment: int = u8(124, default=0)
    reserved: bytes = octets(125, 3, default=bytes(3))
    type_guid: UUID = guid(128, default=Guids.PERSISTENT_MEMORY)
    abstraction_guid: UUID = guid(144, default=Guids.NONE)
    reserved_end: bytes = octets(160, 88, default=bytes(88))
    checksum: int = u64(248, default=0)
