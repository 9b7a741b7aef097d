"""What two machines must agree on before the first page moves, as plain values that travel in the preamble.

The preamble is *amended at the destination*: the destination answers with its own facts, whose files and mappings may
be others. Which differences are fatal is decided in ``emu.migration.policy``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emu.migration.codec import decode_record
from emu.migration.errors import StreamError
from emu.units import PAGE, U32_MAX

_GRANULARITIES = ("cache-line", "page", "none")


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """One block of memory that migrates whole: a backend with data, gap and label area. ``size`` in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Which file a mapping is of, as fstat(2) and the running kernel tell: a hint, never the proof."""

    device: int
    inode: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class NvdimmFacts:
    """One NVDIMM. ``id`` names it in messages, ``block`` is its backend's name. Sizes and ``gpa`` in bytes.

    ``granularity`` and the three ``survives_*`` say what its mapping guarantees; ``file`` is None without one.
    """

    id: str
    block: str
    size: int
    label_size: int
    uuid: str
    unarmed: bool
    slot: int
    gpa: int
    node: int
    readonly: bool
    granularity: str
    survives_guest_crash: bool
    survives_emulator_kill: bool
    survives_host_power_loss: bool
    share: bool
    file: FileFacts | None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One machine. ``persistence`` is the platform's domain (``cpu``, ``mem-ctrl`` or none)."""

    ram_size: int
    clock: str
    persistence: str
    blocks: tuple[BlockFacts, ...]
    nvdimms: tuple[NvdimmFacts, ...]


def decode_facts(raw: Any) -> MachineFacts:
    """The facts of the other side; StreamError unless every field is there, of its type and in its range."""
    facts = decode_record(MachineFacts, raw, "machine")
    names = [block.name for block in facts.blocks]
    if len(set(names)) != len(names):
        raise StreamError("migration stream: two blocks of memory have the same name")
    for block in facts.blocks:
        if block.size == 0 or block.size % PAGE or block.size // PAGE > U32_MAX:
            raise StreamError(f"migration stream: block '{block.name}' of {block.size} bytes is not a number of pages")
    for nvdimm in facts.nvdimms:
        if nvdimm.granularity not in _GRANULARITIES:
            raise StreamError(f"migration stream: unknown granularity '{nvdimm.granularity[:40]}'")
    return facts
