"""SRAT (ACPI 6.5, section 5.2.16): which NUMA node the processor and each range of memory belong to."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from emu.acpi import system_table

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
    body = struct.pack("<IQ", 1, 0) + struct.pack("<BBBBIB3sI", 0, 16, 0, 0, _ENABLED, 0, bytes(3), 0)
    for item in memory:
        flags = _ENABLED
        flags |= _HOT_PLUGGABLE if item.hot_pluggable else 0
        flags |= _NON_VOLATILE if item.non_volatile else 0
        body += struct.pack("<BBIHQQIIQ", 1, 40, item.node, 0, item.base, item.length, 0, flags, 0)
    return system_table(b"SRAT", body)
