"""The truth table: what a mapping, as it turned out to be, promises about a guest's stores.

MAP_SYNC gives consistent file-system metadata for every guest write: the blocks under a page are allocated and
journalled before the guest can store to it. It needs a DAX file on a real NVDIMM; a device DAX has no metadata to
lose. It flushes no CPU cache: that stays the guest's work. What "power loss" says is as far as the host kernel
promises; emulated persistent memory inside a virtual machine looks the same from here. Sources: mmap(2); Linux
Documentation/filesystems/dax.rst.
"""

from __future__ import annotations

from emu.config import OnOffAuto
from emu.hints import Literal
from emu.record import NamedTuple

Granularity = Literal["cache-line", "page", "none"]

MAP_SYNC_MEANS = (
    "MAP_SYNC is consistent file-system metadata for every guest write; "
    "it needs a device DAX or a file on a DAX file system (ext4 or xfs with -o dax) on a real NVDIMM"
)


class Survives(NamedTuple):
    """Whether what the guest stored (and, for power loss, flushed and fenced) is still there after each kind of
    crash."""

    guest_crash: bool
    emulator_kill: bool
    host_power_loss: bool


class Durability(NamedTuple):
    """What was asked (``requested``), what is (``effective``: mapped with MAP_SYNC), and the reason in one sentence.

    ``granularity`` is the unit of making our own writes durable: "cache-line" (CPU flush and fence), "page" (msync) or
    "none" (there is nothing to make durable).
    """

    requested: OnOffAuto
    effective: bool
    why: str
    granularity: Granularity
    survives: Survives


class MappingFacts(NamedTuple):
    """What the host's answers were. ``file_system`` None is anonymous memory; ``no_sync`` says why MAP_SYNC is
    missing."""

    file_system: str | None
    shared: bool
    readonly: bool
    synced: bool = False
    no_sync: str = ""
    memory_file_system: bool = False
    dax: bool = False
    device_dax: bool = False
    persistent_device: bool = False
    cpu_flush: bool = True


def judge(requested: OnOffAuto, facts: MappingFacts) -> Durability:
    """What a mapping with these facts guarantees."""
    line: Granularity = "cache-line" if facts.cpu_flush else "page"
    if facts.file_system is None:
        return Durability(
            requested, False, "anonymous memory ends with the emulator", "none", Survives(True, False, False)
        )
    if facts.readonly:
        why = "read-only: guest stores are dropped and the backing never changes"
        return Durability(requested, facts.synced, why, "none", Survives(False, False, False))
    if not facts.shared:
        why = "share=off: guest stores stay in this process's private copy and never reach the file"
        return Durability(requested, False, why, "none", Survives(True, False, False))
    if facts.device_dax:
        how = (
            "device DAX, mapped with MAP_SYNC"
            if facts.synced
            else f"device DAX, mapped without MAP_SYNC ({facts.no_sync})"
        )
        if facts.persistent_device:
            why = f"{how}: no file system in between, so flushed stores are durable as far as the host kernel promises"
        else:
            why = f"{how}: the device is not on the NVDIMM bus, so its memory is volatile"
        return Durability(requested, facts.synced, why, line, Survives(True, True, facts.persistent_device))
    if facts.synced:
        why = (
            f"DAX file on {facts.file_system}, mapped with MAP_SYNC: consistent file-system metadata for every guest "
            "write, as far as the host kernel promises"
        )
        return Durability(requested, True, why, line, Survives(True, True, True))
    if facts.dax:
        why = (
            f"DAX file on {facts.file_system} without MAP_SYNC ({facts.no_sync}): metadata of fresh blocks may be lost"
        )
    elif facts.memory_file_system:
        why = f"no MAP_SYNC ({facts.no_sync}): {facts.file_system} keeps the file in the host's RAM"
    else:
        why = f"no MAP_SYNC ({facts.no_sync}): stores reach the page cache, and the medium when the kernel writes back"
    return Durability(requested, False, why, "page", Survives(True, True, False))
