"""Unpacking the kernel inside a bzImage on the host: the guest needs a minute for what takes a second here."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from emu.boot import elf, linux
from emu.errors import UsageError
from emu.units import MIB

_LARGEST = 512 * MIB
"""More than any kernel unpacks to."""


class _Decompressor(Protocol):
    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


_BY_MAGIC: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    b"\xfd7zXZ\0": lzma.LZMADecompressor,
    b"\x5d\0\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE),
    b"BZh": bz2.BZ2Decompressor,
}


def vmlinux(image: bytes, name: str) -> bytes | None:
    """The ELF kernel with a PVH note that the bzImage ``image`` carries, None when it carries none or has compressed it
    in a way that Python does not know (zstd, lz4, lzo).

    UsageError as for ``linux.parse``, or when the payload is damaged.
    """
    payload = linux.payload(image, linux.parse(image, name))
    for magic, decompressor in _BY_MAGIC.items():
        if payload[: len(magic)] == magic:
            try:
                kernel = decompressor().decompress(payload, _LARGEST)
            except (lzma.LZMAError, zlib.error, OSError, EOFError):
                raise UsageError(f"{name}: the kernel inside is damaged", "copy the file again") from None
            if kernel.startswith(elf.MAGIC) and elf.parse(kernel, name).pvh_entry is not None:
                return kernel
    return None
