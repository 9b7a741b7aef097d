"""The NFIT and what ``_FIT`` returns: byte for byte those of QEMU 7.2 for the same NVDIMMs (ACPI 6.4, section 5.2.25).

Each NVDIMM brings a SPA range, a memory map and a control region; the platform capabilities close the list when the
machine names its persistence domain.
"""

from __future__ import annotations

from collections.abc import Sequence

from emu.acpi import system_table
from emu.acpi.structures import (
    BYTE_ADDRESSABLE,
    NFIT_STRUCTURES,
    PERSISTENT_MEMORY,
    Capabilities,
    ControlRegion,
    MapFlags,
    MemoryMap,
    Nfit,
    NfitHeader,
    PlatformCapabilities,
    SpaFlags,
    SpaRange,
)
from emu.config import PersistenceDomain
from emu.devices.nvdimm.order import nfit_order
from emu.record import NamedTuple
from emu.structure import LayoutError, Structure

VENDOR_ID = 0x8086
FIRST_SERIAL = 0x123456
HEADER_SIZE = Nfit.SIZE
_EFI_MEMORY_WB = 0x8
_EFI_MEMORY_NV = 0x8000


class NfitEntry(NamedTuple):
    """What the NFIT says about one NVDIMM. ``gpa`` and ``size`` in bytes; ``node`` is its proximity domain."""

    id: str | None
    slot: int
    gpa: int
    size: int
    node: int = 0
    unarmed: bool = False


def handle(slot: int) -> int:
    """NFIT device handle of the NVDIMM in ``slot``: also its ``_ADR`` and its handle in _DSM calls."""
    return slot + 1


def serial_number(slot: int) -> int:
    """Serial number of the NVDIMM in ``slot``; labels depend on it through the interleave set cookie."""
    return FIRST_SERIAL + slot


def fit(entries: Sequence[NfitEntry], persistence: PersistenceDomain | None) -> bytes:
    """The NFIT's structures for ``entries`` in plug order: what ``_FIT`` and Read FIT return."""
    ordered = (entries[position] for position in nfit_order([entry.id for entry in entries]))
    return b"".join(_structures(entry) for entry in ordered) + _capabilities(persistence)


def nfit_table(entries: Sequence[NfitEntry], persistence: PersistenceDomain | None) -> bytes:
    """The NFIT; QEMU has one only when at least one NVDIMM is plugged at start-up."""
    return system_table(b"NFIT", Nfit().pack() + fit(entries, persistence), table_id=b"BXPC    ")


def parse(data: bytes) -> list[tuple[Structure, bytes]]:
    """The structures of ``data`` (an NFIT without its first 40 bytes), each with the bytes that follow its fixed part.

    Unknown types are skipped by their length, as the specification asks; LayoutError when a length is impossible.
    """
    found: list[tuple[Structure, bytes]] = []
    at = 0
    while at < len(data):
        header = NfitHeader.unpack_from(data, at)
        kind = NFIT_STRUCTURES.get(header.type)
        least = NfitHeader.SIZE if kind is None else kind.SIZE
        if not least <= header.length <= len(data) - at:
            raise LayoutError(
                f"NFIT structure of type {header.type} at offset {at:#x}: expected a length from {least} to"
                f" {len(data) - at}, found {header.length}"
            )
        if kind is not None:
            found.append((kind.unpack_from(data, at), bytes(data[at + kind.SIZE : at + header.length])))
        at += header.length
    return found


def _structures(entry: NfitEntry) -> bytes:
    spa_index = 2 * (entry.slot + 1)
    spa = SpaRange(
        index=spa_index,
        flags=SpaFlags.CONTROL_FOR_ADD_ONLINE | SpaFlags.PROXIMITY_VALID,
        proximity_domain=entry.node,
        range_type=PERSISTENT_MEMORY,
        base=entry.gpa,
        size=entry.size,
        attributes=_EFI_MEMORY_WB | _EFI_MEMORY_NV,
    )
    region = MemoryMap(
        device_handle=handle(entry.slot),
        spa_index=spa_index,
        control_index=spa_index + 1,
        region_size=entry.size,
        flags=MapFlags.NOT_ARMED if entry.unarmed else 0,
    )
    control = ControlRegion(
        index=spa_index + 1,
        vendor_id=VENDOR_ID,
        device_id=1,
        revision_id=1,
        serial_number=serial_number(entry.slot),
        format_interface=BYTE_ADDRESSABLE,
    )
    return spa.pack() + region.pack() + control.pack()


def _capabilities(persistence: PersistenceDomain | None) -> bytes:
    if persistence is None:
        return b""
    bits = Capabilities.MEMORY_CONTROLLER_FLUSH
    if persistence is PersistenceDomain.EADR:
        bits |= Capabilities.CPU_CACHE_FLUSH
    return PlatformCapabilities(highest_valid=bits.bit_length() - 1, capabilities=bits).pack()
