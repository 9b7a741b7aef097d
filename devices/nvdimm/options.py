"""What an NVDIMM's properties may be, one check per rule of QEMU's ``-device nvdimm``; ``placement`` runs them.

The messages carry QEMU's key words, because people search for them and testers match them.
"""

from __future__ import annotations

from collections.abc import Collection

from emu.config import MAX_SLOTS, MachineConfig, NvdimmConfig, OnOffAuto, is_identifier
from emu.errors import UsageError
from emu.units import KIB, U32_MAX, align_down

MIN_LABEL_SIZE = 128 * KIB
MAX_LABEL_SIZE = U32_MAX


def label(config: NvdimmConfig) -> str:
    """How messages name the NVDIMM: by its id, or by its backend's."""
    return f"NVDIMM '{config.id}'" if config.id else f"NVDIMM on '{config.backend.id}'"


def check_id(config: NvdimmConfig, used: Collection[str | None]) -> None:
    """An id is a letter followed by letters, digits, '-', '.' and '_', and belongs to one device."""
    if config.id is None:
        return
    if not is_identifier(config.id):
        raise UsageError(
            f"NVDIMM: parameter 'id' expects an identifier, not '{config.id[:64]}'",
            "identifiers start with a letter and consist of letters, digits, '-', '.' and '_'",
        )
    if config.id in used:
        raise UsageError(f"duplicate device ID '{config.id}'", "give each NVDIMM its own id=")


def check_label_size(config: NvdimmConfig) -> None:
    """A label area is absent (0) or at least 128 KiB; the _DSM reports its size in 32 bits."""
    if config.label_size and not MIN_LABEL_SIZE <= config.label_size <= MAX_LABEL_SIZE:
        raise UsageError(
            f"{label(config)}: property 'label-size' (0x{config.label_size:x}) must be at least 0x{MIN_LABEL_SIZE:x}"
            f" and at most 0x{MAX_LABEL_SIZE:x}",
            "give label-size=128K or more, or leave it away for an NVDIMM without labels",
        )


def check_enabled(machine: MachineConfig) -> None:
    """NVDIMMs are an option of the machine."""
    if not machine.nvdimm_enabled:
        raise UsageError("nvdimm is not enabled: missing 'nvdimm' in '-M'", "add -machine q35,nvdimm=on")


def choose_slot(config: NvdimmConfig, slots: int, taken: set[int]) -> int:
    """The NVDIMM's slot: the one asked for, or the first free one of the ``slots`` that the machine has."""
    if slots > MAX_SLOTS:
        raise UsageError(f"unsupported amount of memory slots: {slots}", f"give at most slots={MAX_SLOTS}")
    if config.slot is not None and not 0 <= config.slot < max(slots, 1):
        raise UsageError(
            f"{label(config)}: invalid slot number {config.slot}, valid range is [0-{slots - 1}]",
            "give a slot in that range, or more slots with -m SIZE,slots=N,maxmem=SIZE",
        )
    if slots == 0:
        raise UsageError(
            f"{label(config)}: no slots were allocated, please specify the 'slots' option",
            "write -m SIZE,slots=N,maxmem=SIZE",
        )
    if config.slot is not None:
        if config.slot in taken:
            raise UsageError(f"{label(config)}: slot {config.slot} is busy", "give another slot, or leave slot= away")
        return config.slot
    free = next((slot for slot in range(slots) if slot not in taken), None)
    if free is None:
        raise UsageError(f"{label(config)}: no free slots available", "give more with -m SIZE,slots=N,maxmem=SIZE")
    return free


def pmem_size(config: NvdimmConfig, backend_size: int, alignment: int) -> int:
    """Bytes that the guest sees: the backend without its label area, rounded down to the mapping's alignment."""
    size = align_down(backend_size - config.label_size, alignment) if backend_size > config.label_size else 0
    if size <= 0:
        raise UsageError(
            f"memdev {config.backend.id} (0x{backend_size:x}) is too small to contain nvdimm label"
            f" (0x{config.label_size:x}) and aligned PMEM (0x{alignment:x})",
            "give the backend a larger size, or the NVDIMM a smaller label-size",
        )
    return size


def check_unarmed(config: NvdimmConfig) -> None:
    """A backend that drops stores cannot be armed: the guest must not rely on writing it."""
    if config.backend.is_rom and config.unarmed is OnOffAuto.OFF:
        raise UsageError(
            f"{label(config)}: 'unarmed' property must be 'on' since memdev {config.backend.id} is read-only",
            "add unarmed=on (or unarmed=auto), or give the backend rom=off",
        )


def check_node(config: NvdimmConfig, nodes: int) -> None:
    """The NUMA node must exist; node 0 always does."""
    if config.node > 0 and config.node >= nodes:
        raise UsageError(
            f"{label(config)}: DIMM property node has value {config.node} which exceeds the number of numa"
            f" nodes: {nodes}",
            "add -numa node for each node, or give a smaller node=",
        )
