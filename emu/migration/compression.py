"""Compression of pages, by choice: zlib of Python's own, or Zstandard where the package ``zstandard`` is installed."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

from emu.errors import UsageError
from emu.migration.errors import StreamError

METHODS = ("none", "zlib", "zstd")
_PACKAGE = "zstandard"


class Packer(Protocol):
    """One way to compress. Each connection has its own."""

    def pack(self, parts: Sequence[memoryview]) -> bytes: ...

    def unpack(self, data: bytes, length: int) -> bytes:
        """The ``length`` bytes that ``data`` was made of; StreamError when it was made of anything else. It takes no
        more memory than that, whatever ``data`` says."""


def require(method: str) -> None:
    """UsageError when ``method`` cannot be used here."""
    if method == "zstd":
        _zstandard()


def packer(method: str, level: int) -> Packer | None:
    """What compresses by ``method``, one of METHODS, at ``level``; None for "none". UsageError as ``require``."""
    match method:
        case "zlib":
            return _Zlib(level)
        case "zstd":
            return _Zstd(level)
    return None


def _zstandard() -> Any:
    try:
        return importlib.import_module(_PACKAGE)
    except ImportError:
        raise UsageError(
            f"multifd-compression 'zstd' needs the Python package {_PACKAGE}, which is not installed here",
            f"install it (pip install {_PACKAGE}) at both ends, or choose zlib",
        ) from None


def _no_pages(method: str) -> StreamError:
    return StreamError(f"migration stream: {method} data is not of the pages it names")


class _Zlib:
    def __init__(self, level: int) -> None:
        self._level = level

    def pack(self, parts: Sequence[memoryview]) -> bytes:
        stream = zlib.compressobj(self._level)
        return b"".join([*(stream.compress(part) for part in parts), stream.flush()])

    def unpack(self, data: bytes, length: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(data, length)
            # All of it must be out, and the stream's own end and checksum have been seen.
            more = stream.decompress(stream.unconsumed_tail, 1)
        except zlib.error:
            raise _no_pages("zlib") from None
        if len(plain) != length or more or not stream.eof or stream.unused_data:
            raise _no_pages("zlib")
        return plain


class _Zstd:
    def __init__(self, level: int) -> None:
        self._package = _zstandard()
        self._compressor = self._package.ZstdCompressor(level=level)
        self._decompressor = self._package.ZstdDecompressor()

    def pack(self, parts: Sequence[memoryview]) -> bytes:
        packed: bytes = self._compressor.compress(b"".join(parts))
        return packed

    def unpack(self, data: bytes, length: int) -> bytes:
        try:
            if self._package.frame_content_size(data) != length:
                raise _no_pages("zstd")
            plain: bytes = self._decompressor.decompress(data, max_output_size=length, allow_extra_data=False)
        except self._package.ZstdError:
            raise _no_pages("zstd") from None
        return plain
