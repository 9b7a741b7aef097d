"""What a file, a directory or a device can promise as the backing of an NVDIMM on this host. Nothing is changed.

Whether MAP_SYNC works is asked of the kernel by mapping one page with MAP_SHARED_VALIDATE|MAP_SYNC, read-only and
without touching it. A directory is asked through a nameless file that exists for that moment only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from emu.errors import HostError, UsageError
from emu.host import dax, kernel


@dataclass(frozen=True, slots=True)
class PathProbe:
    """The answer for ``path``. ``granularity`` is what a shared mapping there would have; ``alignment`` in bytes.

    ``dax``: the kernel reaches the file without the page cache. ``map_sync``: a mapping gets consistent file-system
    metadata for every write; ``why`` says what decided it.
    """

    path: str
    kind: Literal["file", "directory", "block-device", "device-dax"]
    file_system: str
    dax: bool
    map_sync: bool
    why: str
    granularity: Literal["cache-line", "page"]
    cpu_flush: tuple[str, ...]
    alignment: int

    def to_json(self) -> dict[str, object]:
        """The fields of emu.probe/1."""
        return {**asdict(self), "cpu_flush": list(self.cpu_flush)}


def probe_path(path: str | os.PathLike[str], *, sysfs: str | os.PathLike[str] = dax.SYSFS) -> PathProbe:
    """Probe ``path``.

    UsageError for what can never back memory, HostError when it does not exist or cannot be opened or mapped.
    """
    asked = os.fspath(path)
    if not asked or "\0" in asked:
        raise UsageError(f"{asked!r} is not a file name", "give the path of a file or a directory")
    try:
        status = os.stat(asked)  # noqa: PTH116 - keeps any bytes a path may hold
    except FileNotFoundError:
        raise _missing(asked) from None
    except OSError as error:
        raise kernel.host_error(f"cannot probe {asked}", error.errno or 0) from None
    if stat.S_ISDIR(status.st_mode):
        with _temporary_file(asked) as fd:
            return _probe_file(asked, fd, "directory")
    if stat.S_ISCHR(status.st_mode):
        return _probe_device(asked, status.st_rdev, Path(sysfs))
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise UsageError(f"{asked} cannot back memory", "name a regular file, a directory for one, or a device DAX")
    fd = kernel.open_file(asked, write=False)
    try:
        return _probe_file(asked, fd, "file" if stat.S_ISREG(status.st_mode) else "block-device")
    finally:
        os.close(fd)


def _missing(path: str) -> HostError:
    """What to say about a ``path`` that leads nowhere: where a file there could be asked about before it exists."""
    folder = os.path.dirname(path) or "."  # noqa: PTH120 - keeps any bytes a path may hold
    if folder == "/dev" or folder.startswith("/dev/"):
        remedy = "check the name; device DAX are /dev/daxX.Y ('ndctl list -D' or 'daxctl list' shows them)"
    elif os.path.isdir(folder):  # noqa: PTH112 - as above
        remedy = f"check the path; 'emu probe {folder}' says what a new file there could promise"
    else:
        remedy = "check the path; its directory does not exist either"
    return HostError(f"{path} does not exist", remedy, errno=errno.ENOENT)


@contextlib.contextmanager
def _temporary_file(directory: str) -> Iterator[int]:
    try:
        fd = kernel.open_unnamed(directory)
    except HostError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
        try:
            fd, name = tempfile.mkstemp(prefix=".emu-probe-", dir=directory)
        except OSError as failure:
            raise kernel.host_error(f"cannot create a file in {directory}", failure.errno or 0) from None
        os.unlink(name)  # noqa: PTH108 - keeps any bytes a path may hold
    try:
        yield fd
    finally:
        os.close(fd)


def _probe_file(path: str, fd: int, kind: Literal["file", "directory", "block-device"]) -> PathProbe:
    system = kernel.file_system(fd)
    page = system.block_size if system.is_hugetlbfs else kernel.PAGE_SIZE
    name = "block device" if kind == "block-device" else kernel.file_system_name(fd)
    is_dax = bool(kernel.is_dax(fd))
    synced = _map_sync(fd, page, path)
    if not synced:
        _require_mapping(fd, page, path)
    if synced:
        why = f"{name} mapped a page with MAP_SYNC: consistent file-system metadata for every write"
    elif is_dax:
        why = f"{name} refused MAP_SYNC although the file is DAX: its device is not synchronous (virtio-pmem, for one)"
    elif system.is_memory and kind != "block-device":
        why = f"{name} refused MAP_SYNC: it keeps its files in the host's RAM"
    else:
        why = f"{name} refused MAP_SYNC: the file is reached through the page cache, not by DAX"
    return _result(path, kind, name, is_dax or synced, synced, why, page)


def _probe_device(path: str, number: int, sysfs: Path) -> PathProbe:
    device = dax.read_device(number, what=path, sysfs=sysfs)
    if device is None:
        raise UsageError(
            f"{path} is a character device, but not a device DAX", "name a file, a directory or /dev/daxX.Y"
        )
    fd = kernel.open_file(path, write=False)
    try:
        synced = _map_sync(fd, device.align, path)
    finally:
        os.close(fd)
    why = "the device DAX mapped a page with MAP_SYNC" if synced else "the device DAX refused MAP_SYNC"
    why += (
        "; no file system is in between"
        if device.persistent
        else "; it is not on the NVDIMM bus: its memory is volatile"
    )
    return _result(path, "device-dax", "device DAX", True, synced, why, device.align)


def _result(
    path: str,
    kind: Literal["file", "directory", "block-device", "device-dax"],
    file_system: str,
    is_dax: bool,
    synced: bool,
    why: str,
    alignment: int,
) -> PathProbe:
    flush = kernel.flush_instructions()
    fine = flush and (synced or kind == "device-dax")
    return PathProbe(path, kind, file_system, is_dax, synced, why, "cache-line" if fine else "page", flush, alignment)


def _require_mapping(fd: int, page: int, path: str) -> None:
    """UsageError when the file cannot be mapped at all, as those of /proc and /sys."""
    try:
        address = kernel.map_memory(page, what=path, page_size=page, fd=fd, write=False, reserve=False)
    except HostError as error:
        if error.errno in (errno.ENODEV, errno.EIO):
            raise UsageError(f"{path} cannot back memory: it cannot be mapped", "name a regular file") from None
    else:
        kernel.unmap_memory(address, page, page)


def _map_sync(fd: int, page: int, path: str) -> bool:
    try:
        address = kernel.map_memory(page, what=path, page_size=page, fd=fd, sync=True, write=False)
    except HostError as error:
        if error.errno in kernel.NO_MAP_SYNC:
            return False
        raise
    try:
        flags = kernel.vm_flags(address)
        return flags is None or "sf" in flags
    finally:
        kernel.unmap_memory(address, page, page)
