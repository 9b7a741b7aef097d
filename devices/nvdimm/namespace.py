"""A namespace label: what one says, how it is sealed and validated, and the cookie that ties it to its NVDIMM.

Source: UEFI 2.10, section 13.19.2 and the NVDIMM Namespace Specification (labels of version 1.1).
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from uuid import UUID

from emu.devices.nvdimm import nfit
from emu.devices.nvdimm.fletcher import fletcher64
from emu.devices.nvdimm.index import Geometry, LabelError, Version
from emu.devices.nvdimm.label_layouts import Guids, LabelV11, LabelV12

Label = LabelV11 | LabelV12
NAME_SIZE = 64


class Mode(enum.StrEnum):
    """What a namespace is for, in ndctl's words; a label of version 1.2 says it by its abstraction GUID."""

    RAW = "raw"
    FSDAX = "fsdax"
    DEVDAX = "devdax"
    SECTOR = "sector"


ABSTRACTIONS = {Mode.RAW: Guids.NONE, Mode.FSDAX: Guids.PFN, Mode.DEVDAX: Guids.DAX, Mode.SECTOR: Guids.BTT}


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace to be described by a label: ``size`` bytes of the NVDIMM from ``dpa`` (offset in it) on."""

    uuid: UUID
    dpa: int
    size: int
    name: str = ""
    mode: Mode = Mode.RAW
    sector_size: int = 0


def set_cookie(version: Version, slot: int) -> int:
    """The interleave set cookie of a set that is one NVDIMM of this machine, in ``slot`` (ACPI 6.4, section 9.19.7.7).

    It hashes the NVDIMM's place in the set and its identity from the NFIT: labels stop matching in another slot.
    """
    serial = nfit.serial_number(slot)
    if version is Version.V1_1:
        return fletcher64(struct.pack("<QII", 0, serial, 0))
    return fletcher64(struct.pack("<QIHHB31s", 0, serial, nfit.VENDOR_ID, 0, 0, bytes(31)))


def make_label(version: Version, namespace: Namespace, slot: int, cookie: int, flags: int) -> Label:
    """The sealed label of ``namespace`` for label slot ``slot``; LabelError when it cannot be said in one."""
    name = namespace.name.encode()
    if len(name) >= NAME_SIZE or "\0" in namespace.name:
        raise LabelError(f"namespace name '{namespace.name[:64]}' is too long", f"use at most {NAME_SIZE - 1} bytes")
    if version is Version.V1_1:
        if namespace.mode is not Mode.RAW:
            raise LabelError(
                f"a label of version 1.1 cannot say the mode '{namespace.mode}'",
                "initialise the label area with -V 1.2, or use -m raw",
            )
        return LabelV11(
            uuid=namespace.uuid, name=name.ljust(NAME_SIZE, b"\0"), flags=flags, set_cookie=cookie, dpa=namespace.dpa,
            raw_size=namespace.size, slot=slot, lba_size=namespace.sector_size,
        )  # fmt: skip
    return seal(
        LabelV12(
            uuid=namespace.uuid, name=name.ljust(NAME_SIZE, b"\0"), flags=flags, set_cookie=cookie, dpa=namespace.dpa,
            raw_size=namespace.size, slot=slot, lba_size=namespace.sector_size,
            abstraction_guid=ABSTRACTIONS[namespace.mode],
        )
    )  # fmt: skip


def seal(label: Label) -> Label:
    """``label`` with its checksum set; labels of version 1.1 have none."""
    if isinstance(label, LabelV11):
        return label
    return label.replace(checksum=fletcher64(label.replace(checksum=0).pack()))


def read_label(data: bytes, slot: int, where: Geometry) -> Label:
    """The label in ``data``, which was read from label slot ``slot``; LabelError says why it is none."""
    kind = LabelV11 if where.version is Version.V1_1 else LabelV12
    label: Label = kind.unpack_from(data)
    if label.slot != slot:
        raise LabelError(f"slot {slot}: the label says it belongs to slot {label.slot}")
    if isinstance(label, LabelV12):
        checksum = fletcher64(label.replace(checksum=0).pack())
        if label.checksum != checksum:
            raise LabelError(f"slot {slot}: checksum is {label.checksum:#018x}, expected {checksum:#018x}")
    return label


def name_of(label: Label) -> str:
    """The label's name up to its first NUL; bytes that are no UTF-8 are shown replaced."""
    return label.name.split(b"\0", 1)[0].decode("utf-8", "replace")


def mode_of(label: Label) -> Mode | None:
    """The mode that the label says, None when it says none that is known."""
    if isinstance(label, LabelV11):
        return None
    return next((mode for mode, guid in ABSTRACTIONS.items() if guid == label.abstraction_guid), None)
