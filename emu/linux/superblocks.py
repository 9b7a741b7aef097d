"""What a file system's superblock says before Linux mounts it: which one it is, and whether that can go well.

ext4: Documentation/filesystems/ext4/super.rst of Linux; xfs: "XFS Algorithms & Data Structures", superblocks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from emu.errors import UsageError
from emu.units import KIB, PAGE, human_size

Read = Callable[[int, int], bytes]
_EXT4_AT, _EXT4_SIZE, _EXT4_CHECKSUM = KIB, KIB, 0x3FC
_EXT4_CHECKSUMS, _EXT4_64BIT = 0x400, 0x80
_XFS_CHECKSUM, _XFS_LARGEST = 224, 32 * KIB
_ALL_ONES = 0xFFFF_FFFF


def kind_of(read: Read, at: int) -> str | None:
    """Which file system begins at ``at``, by its magic number: "ext4", "xfs" or None."""
    if read(at + _EXT4_AT + 0x38, 2) == b"\x53\xef":
        return "ext4"
    return "xfs" if read(at, 4) == b"XFSB" else None


def check(kind: str, read: Read, at: int, room: int, name: str) -> None:
    """UsageError when Linux would not mount the file system of this ``kind_of``, with ``room`` bytes from ``at`` on."""
    block, blocks, whole = (_ext4 if kind == "ext4" else _xfs)(read, at)
    repair = "e2fsck" if kind == "ext4" else "xfs_repair"
    if not whole:
        raise UsageError(
            f"{name}: the superblock of its {kind} is damaged: the checksum is wrong",
            f"repair it with {repair} (--fs none leaves it alone), or take another file",
        )
    if block != PAGE:
        raise UsageError(
            f"{name}: its {kind} has blocks of {block} bytes, and DAX needs {PAGE}",
            f"make it anew with blocks of {PAGE}, or give --fs none",
        )
    if block * blocks > room:
        raise UsageError(
            f"{name}: its {kind} has {human_size(block * blocks)}, and there is room for {human_size(room)}",
            "the file was cut short, or size= is too small; give all of it",
        )


def _ext4(read: Read, at: int) -> tuple[int, int, bool]:
    """Size of a block, number of blocks, whether the checksum is right or there is none."""
    from emu.host.pages import crc32c

    raw = read(at + _EXT4_AT, _EXT4_SIZE)
    (incompatible, read_only) = struct.unpack_from("<II", raw, 0x60)
    (blocks,) = struct.unpack_from("<I", raw, 0x4)
    if incompatible & _EXT4_64BIT:
        blocks |= struct.unpack_from("<I", raw, 0x150)[0] << 32
    (log,) = struct.unpack_from("<I", raw, 0x18)
    (said,) = struct.unpack_from("<I", raw, _EXT4_CHECKSUM)
    whole = not read_only & _EXT4_CHECKSUMS or said == crc32c(raw[:_EXT4_CHECKSUM]) ^ _ALL_ONES
    return KIB << min(log, 31), blocks, whole


def _xfs(read: Read, at: int) -> tuple[int, int, bool]:
    """As ``_ext4``; version 5 has a checksum."""
    from emu.host.pages import crc32c

    raw = read(at, _XFS_LARGEST)
    block, blocks = struct.unpack_from(">IQ", raw, 4)
    version, sector = struct.unpack_from(">HH", raw, 100)
    (said,) = struct.unpack_from("<I", raw, _XFS_CHECKSUM)
    covered = raw[:_XFS_CHECKSUM] + bytes(4) + raw[_XFS_CHECKSUM + 4 : sector]
    return block, blocks, version & 0xF != 5 or said == crc32c(covered)
