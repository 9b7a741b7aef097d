"""Tells images apart by their content and plans how they are loaded.

1. A Multiboot 1 header in the first 8 KiB: 32-bit entry as the specification says.
2. ELF with a PVH note: 32-bit entry, EBX = start info.
3. ELF without either, static and of 64 bits: entered as a flat image, at its own entry.
4. A Linux setup header (bzImage, vmlinuz): 64-bit entry, RSI = boot parameters.
5. Anything else is a flat 64-bit binary, except files that are plainly something else.
"""

from __future__ import annotations

from collections.abc import Sequence

from emu.boot import elf, flat, multiboot
from emu.boot.plan import (
    Kind,
    LoadPlan,
    LowMemory,
    MemoryRange,
    Module,
    check_entry,
    check_segments,
    place_high,
    start_info,
)
from emu.entry import Protected32
from emu.errors import UsageError


def load(
    image: bytes,
    *,
    name: str,
    cmdline: str,
    memory_map: Sequence[MemoryRange],
    rsdp_address: int,
    highest_address: int,
    modules: Sequence[Module] = (),
) -> LoadPlan:
    """Plan how to boot ``image``; UsageError, naming what is wrong and where, when it cannot be.

    ``name`` is how messages call the image and, for Multiboot, the first word of the command line. ``memory_map`` lists
    all ranges the guest is told of; images load into those of type RAM. ``highest_address`` is the end of all RAM and
    device memory, which a flat image finds mapped. ``modules`` is what ``-initrd`` gave: any number of modules for
    Multiboot, the initial RAM disk for PVH and Linux.
    """
    header = multiboot.find_header(image)
    if header is not None:
        return multiboot.load(image, header, name=name, cmdline=cmdline, memory_map=memory_map, modules=modules)
    initrd = modules[0].data if modules else None
    if image.startswith(elf.MAGIC):
        parsed = elf.parse(image, name)
        if parsed.pvh_entry is not None:
            return _pvh(
                parsed,
                parsed.pvh_entry,
                name=name,
                cmdline=cmdline,
                memory_map=memory_map,
                rsdp_address=rsdp_address,
                initrd=initrd,
            )
    elif is_linux(image):
        from emu.boot import linux  # most guests are none

        return linux.load(
            image, name=name, cmdline=cmdline, memory_map=memory_map, rsdp_address=rsdp_address, initrd=initrd
        )
    else:
        parsed = None
    if initrd is not None:
        raise UsageError(
            f"{name} is a flat image, which takes no initial RAM disk", "leave -initrd away, or give a kernel"
        )
    place = flat.place_bytes(image) if parsed is None else flat.place_elf(_bare(parsed, name), name)
    return flat.load(
        place,
        name=name,
        cmdline=cmdline,
        memory_map=memory_map,
        rsdp_address=rsdp_address,
        highest_address=highest_address,
    )


def is_linux(image: bytes) -> bool:
    """Whether ``image`` has the setup header of a Linux kernel."""
    return image[0x202:0x206] == b"HdrS" and multiboot.find_header(image) is None


def carries_linux(image: bytes) -> bool:
    """Whether ``image`` is a Linux kernel, compressed or not."""
    return is_linux(image) or (
        image.startswith(elf.MAGIC) and multiboot.find_header(image) is None and b"Linux version " in image
    )


def unpacked(image: bytes, *, name: str) -> bytes:
    """``image``, or the PVH kernel inside when it is a compressed Linux kernel that can be unpacked here.

    UsageError when it is a damaged one, or none for x86-64.
    """
    if not is_linux(image):
        return image
    from emu.boot import payload

    return payload.vmlinux(image, name) or image


def _bare(parsed: elf.ElfImage, name: str) -> elf.ElfImage:
    """``parsed``, unless it needs more than a bare 64-bit machine."""
    what = f"{name} is an ELF file with neither a Multiboot header nor a PVH note"
    if parsed.bits != 64:
        raise UsageError(f"{what}, and not of 64 bits", "add one of them, or build the image for x86-64")
    if not parsed.bare:
        raise UsageError(
            f"{what}, and no static executable for a bare machine",
            "a program for Linux: emu run linux --exec, or compile it with emu cc; a guest: link with -static -no-pie",
        )
    return parsed


def _pvh(
    parsed: elf.ElfImage,
    entry: int,
    *,
    name: str,
    cmdline: str,
    memory_map: Sequence[MemoryRange],
    rsdp_address: int,
    initrd: bytes | None,
) -> LoadPlan:
    check_segments(name, parsed.segments, memory_map)
    check_entry(name, entry, parsed.segments)
    low = LowMemory(name, memory_map, parsed.segments)
    disk = place_high(name, initrd, memory_map, parsed.segments)
    info = start_info(low, cmdline, memory_map, rsdp_address, disk)
    disks = () if disk is None else (disk,)
    return LoadPlan(Kind.PVH, (*parsed.segments, *disks, *low.segments), Protected32(entry, 0, info))
