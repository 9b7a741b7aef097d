"""SRAT (ACPI 6.4, section 5.2.16): which NUMA node the processor and each range of memory belong to."""

from __future__ import annotations

from collections.abc import Sequence

from emu.acpi import system_table
from emu.acpi.structures import ApicAffinity, MemoryAffinityEntry, Srat
from emu.record import NamedTuple

_ENABLED, _HOT_PLUGGABLE, _NON_VOLATILE = 1 << 0, 1 << 1, 1 << 2


class MemoryAffinity(NamedTuple):
    """``length`` bytes at guest physical ``base`` belong to ``node``; ``non_volatile`` for an NVDIMM."""

    base: int
    length: int
    node: int = 0
    non_volatile: bool = False
    hot_pluggable: bool = False


def srat(memory: Sequence[MemoryAffinity]) -> bytes:
    """The System Resource Affinity Table: the one processor on node 0, then ``memory`` in the order given."""
    body = Srat().pack() + ApicAffinity(node_low=0, apic=0, flags=_ENABLED).pack()
    for item in memory:
        flags = _ENABLED
        flags |= _HOT_PLUGGABLE if item.hot_pluggable else 0
        flags |= _NON_VOLATILE if item.non_volatile else 0
        body += MemoryAffinityEntry(node=item.node, base=item.base, size=item.length, flags=flags).pack()
    return system_table(b"SRAT", body)
