"""Pages of 4096 bytes on their way to another machine: checksums, and copies that are summed while they are made.

A sum is the CRC-32C of one page. What is moved is summed where it has arrived, or as it was handed to the kernel.
Sources: RFC 3720 B.4 for the CRC; Intel SDM volume 2 for the instruction CRC32; pread(2), pwrite(2).
"""

from __future__ import annotations

import errno
import mmap
import os
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from emu.errors import HostError
from emu.host import kernel
from emu.host._pages import ffi, lib
from emu.record import NamedTuple
from emu.units import PAGE

if TYPE_CHECKING:
    from typing import Any

    Buffer: TypeAlias = bytes | bytearray | memoryview | Any

SUM = 4
"""Bytes of one sum: an unsigned number, little-endian."""


def buffer(size: int) -> memoryview:
    """Memory that begins where a page does. Copies of pages from and to other memory take four times as long."""
    return memoryview(mmap.mmap(-1, size))


class Copied(NamedTuple):
    """What became of a copy: the ``sums`` of its pages, one after the other, and the runs (first page, count), rising,
    of those left out because they are ``zero``."""

    sums: bytes
    zero: list[tuple[int, int]]


class Taken(NamedTuple):
    """What was copied: the runs (first page, count), rising, of the pages that are ``zero``, and the ``crc`` over the
    others."""

    zero: list[tuple[int, int]]
    crc: int


@cache
def _hardware() -> bool:
    return bool(lib.emu_has_crc32c())


@cache
def _threads() -> int:
    return min(2, len(os.sched_getaffinity(0)))


def crc32c(data: Buffer, running: int = 0, *, hardware: bool | None = None) -> int:
    """CRC-32C (Castagnoli; RFC 3720 B.4) of ``data``, going on from ``running``: crc32c(a + b) == crc32c(b, crc32c(a)).

    ``hardware`` False uses the portable table, True needs SSE4.2; None takes what the processor has.
    """
    source = ffi.from_buffer(data)
    use = _hardware() if hardware is None else hardware and _hardware()
    return int(lib.emu_crc32c(running, source, len(source), use))


def is_zero(data: Buffer) -> bool:
    """Whether every byte of ``data`` is zero."""
    source = ffi.from_buffer(data)
    return bool(lib.emu_is_zero(source, len(source)))


def sums_of(data: Buffer) -> bytes:
    """The sums of the whole pages in ``data``."""
    source = ffi.from_buffer(data)
    sums = ffi.new("uint32_t[]", len(source) // PAGE)
    lib.emu_pages_sum(source, len(sums), sums, _hardware())
    return bytes(ffi.buffer(sums))


def read(source: int | Buffer, offset: int, target: Buffer, *, what: str) -> bytes:
    """Fill ``target``, which begins where a page does, from ``offset`` of ``source``, a file or memory mapped from one;
    the sums of what was stored there.

    Two threads share what is large, where there are processors for them. HostError when a file cannot be read. Memory
    whose own file may lose its storage has a Guard.
    """
    there = ffi.from_buffer(target, require_writable=True)
    sums = ffi.new("uint32_t[]", len(there) // PAGE)
    fd, at, memory = _from(source, offset, len(there))
    _check_read(lib.emu_pages_read(fd, at, memory, there, len(sums), sums, _threads(), _hardware()), what)
    return bytes(ffi.buffer(sums))


def _from(source: int | Buffer, offset: int, size: int) -> tuple[int, int, Any]:
    """What the library takes: a file and an offset in it, or memory."""
    if isinstance(source, int):
        return source, offset, ffi.NULL
    return -1, 0, ffi.from_buffer(source[offset : offset + size])


def take(source: int | Buffer, offset: int, target: Buffer, running: int, *, what: str) -> Taken:
    """Copy pages from ``offset`` of ``source``, a file or memory, to ``target``, as many as that holds.

    The places of zero pages there are undefined; the CRC of the others goes on from ``running``. HostError when a file
    cannot be read. Memory may be stored to meanwhile: what is summed is the copy.
    """
    to = ffi.from_buffer(target, require_writable=True)
    count = len(to) // PAGE
    zero, crc = ffi.new("uint8_t[]", count), ffi.new("uint32_t *", running)
    fd, at, memory = _from(source, offset, count * PAGE)
    _check_read(lib.emu_pages_take(fd, at, memory, count, to, zero, crc, _hardware()), what)
    return Taken(_runs_of_ones(zero), crc[0])


def receive(fd: int, target: Buffer, running: int) -> tuple[int, int]:
    """Receive from the stream socket ``fd`` what has come, at most as much as ``target`` holds.

    (Bytes, the CRC with them); 0 bytes at the end of the stream. OSError as of recv(2): EAGAIN when nothing has come,
    EFAULT when the memory has no storage.
    """
    to, crc = ffi.from_buffer(target, require_writable=True), ffi.new("uint32_t *", running)
    result = lib.emu_pages_receive(fd, to, len(to), crc, _hardware())
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result, crc[0]


def copy(fd: int, offset: int, to: int, to_offset: int, count: int, *, what: str, to_what: str) -> Copied:
    """Copy ``count`` pages of the file ``fd`` to the file ``to``, except those that are zero.

    HostError when they cannot be read (``what`` names the file) or stored (``to_what`` does).
    """
    sums, zero, reading = ffi.new("uint32_t[]", count), ffi.new("uint8_t[]", count), ffi.new("int *")
    result = lib.emu_pages_copy(fd, offset, to, to_offset, count, sums, zero, reading, _hardware())
    if reading[0]:
        _check_read(result, what)
    elif result < 0:
        raise kernel.host_error(f"cannot store pages in {to_what}", -result)
    return Copied(bytes(ffi.buffer(sums)), _runs_of_ones(zero))


def _runs_of_ones(array: Any) -> list[tuple[int, int]]:
    """The runs (first, count) in which the C array of bytes, 0 or 1, has 1."""
    flags = bytes(ffi.buffer(array))
    runs = []
    start = flags.find(1)
    while start >= 0:
        end = flags.find(0, start)
        end = len(flags) if end < 0 else end
        runs.append((start, end - start))
        start = flags.find(1, end)
    return runs


def _check_read(result: int, what: str) -> None:
    if result == -errno.ENODATA:
        raise HostError(f"{what} ended early", "it was cut short while it was read: restore its size")
    if result < 0:
        raise kernel.host_error(f"cannot read pages of {what}", -result)
