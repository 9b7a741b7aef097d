"""The page through which AML and the machine talk when a guest calls _DSM (QEMU's docs/specs/acpi_nvdimm)."""

from __future__ import annotations

from emu.enumeration import IntEnum
from emu.structure import Structure, structure, u32

DSM_PAGE = 4096


class DsmStatus(IntEnum):
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
