"""The backing file of a backend: opened, recognised, locked, measured. Nothing is mapped here."""

from __future__ import annotations

import errno
import os
import stat

from emu.config import BackendConfig
from emu.errors import FileInUse, HostError, UsageError
from emu.host import dax, kernel
from emu.memory.incomplete import reason
from emu.memory.lock import FileLock
from emu.record import Record
from emu.units import human_size

_NOT_A_BACKING = {
    stat.S_IFDIR: ("a directory", "name a file in it"),
    stat.S_IFIFO: ("a FIFO", "name a regular file or a device DAX"),
    stat.S_IFSOCK: ("a socket", "name a regular file or a device DAX"),
}


class Source(Record, kw_only=True):
    """An open backing file. ``size`` is what it has now (0 for a new one); ``page_size`` what its mappings are made
    of."""

    path: str
    fd: int
    lock: FileLock
    size: int
    page_size: int
    file_system: str
    memory_file_system: bool
    is_dax: bool
    device: dax.DaxDevice | None
    is_regular: bool
    created: bool

    def discard(self) -> None:
        """Close after a failure: a file that we made goes away again, an empty one that we grew is empty again.

        Not what a migration began to fill: its mark says what it is.
        """
        if reason(self.path) is not None:
            pass
        elif self.created:
            try:
                named = os.stat(self.path)  # noqa: PTH116 - compared with the open file; Path adds nothing
                if os.path.samestat(named, os.fstat(self.fd)):
                    os.unlink(self.path)  # noqa: PTH108 - as above
            except OSError:
                pass  # the failure that brought us here is the one to report
        elif self.is_regular and self.size == 0 and os.fstat(self.fd).st_size:
            kernel.truncate(self.fd, 0, what=self.path)
        self.close()

    def close(self) -> None:
        # Not left to the close: a mapping that outlives it (a forked child's, one whose view is in use) keeps the file
        # open, and its lock with it.
        self.lock.release()
        os.close(self.fd)


def open_source(config: BackendConfig, *, lock_later: bool = False) -> Source:
    """Open and lock the file of ``config``; a missing one is created unless ``readonly``. UsageError or HostError.

    With ``lock_later`` a lock that another emulator has is no error: ``lock.held`` tells.
    """
    path = str(config.path)
    if config.keep_blank and not config.readonly and _is_blank(path):
        created = not os.path.lexists(path)  # what messages call it; there is nothing to take away
        fd = os.memfd_create("blank", os.MFD_CLOEXEC)
    else:
        fd, created = _open(config, path)
    lock = FileLock(fd, write=config.changes_file, share=config.share_lock, name=path)
    try:
        status = os.fstat(fd)
        _refuse_kind(path, status.st_mode)
        device = None
        if stat.S_ISCHR(status.st_mode):
            device = _device(path, status.st_rdev)
        try:
            lock.acquire()
        except HostError:
            if not lock_later:
                raise
        # Measured under the lock: whoever had it before may have just created the file and not sized it yet.
        size = device.size if device else _length(fd, path)
        if not size and kernel.file_system_name(fd) in kernel.KERNEL_FILE_SYSTEMS:
            raise HostError(f"{path} is a file of the kernel's and cannot back memory: name another file")
        if not size and not lock.held:
            raise FileInUse(
                f"{path} is empty and in use by another emulator", "wait until it has a size, then start again"
            )
        system = kernel.file_system(fd)
        huge = system.is_hugetlbfs and device is None
        return Source(
            path=path,
            fd=fd,
            lock=lock,
            size=size,
            page_size=device.align if device else system.block_size if huge else kernel.PAGE_SIZE,
            file_system=_system_name(fd, status.st_mode),
            memory_file_system=system.is_memory and stat.S_ISREG(status.st_mode),
            is_dax=device is not None or bool(kernel.is_dax(fd)),
            device=device,
            is_regular=stat.S_ISREG(status.st_mode),
            created=created,
        )
    except BaseException:
        os.close(fd)
        raise


def _is_blank(path: str) -> bool:
    """Whether opening ``path`` for memory would make the file, or give it its size. Where neither can be, opening says
    so.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return os.path.isdir(os.path.dirname(os.path.realpath(path)))  # noqa: PTH112, PTH120 - any bytes a path may hold
    except (OSError, ValueError):
        return False
    try:
        found = os.fstat(descriptor)
        regular = stat.S_ISREG(found.st_mode) and kernel.file_system_name(descriptor) not in kernel.KERNEL_FILE_SYSTEMS
        return regular and found.st_size == 0
    finally:
        os.close(descriptor)


def _length(fd: int, path: str) -> int:
    """Bytes of the file or block device. HostError for what only looks like a file (many in /proc)."""
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        raise HostError(f"{path} has no length and cannot back memory: name a regular file or a device DAX") from None


def _open(config: BackendConfig, path: str) -> tuple[int, bool]:
    try:
        # Looked at before it is opened: opening a device can already do something (rewind a tape, start a watchdog).
        status = os.stat(path)  # noqa: PTH116 - any bytes a path may hold
    except (OSError, ValueError):
        pass  # the open says it better
    else:
        _refuse_kind(path, status.st_mode)
        if stat.S_ISCHR(status.st_mode):
            _device(path, status.st_rdev)
    try:
        return kernel.open_file(path, write=not config.readonly), False
    except HostError as error:
        if error.errno != errno.ENOENT:
            if error.errno == errno.EACCES and not config.share and not config.readonly:
                raise HostError(
                    error.what,
                    "a private mapping needs no write permission: add readonly=on,rom=off",
                    errno=error.errno,
                ) from None
            raise
        if config.readonly:
            raise HostError(
                error.what, "readonly=on never creates a file; create it first", errno=error.errno
            ) from None
    from emu.host import files  # most starts make no file

    files.refuse_kernel_folder(path, os.path.dirname(path) or ".")  # noqa: PTH120 - any bytes a path may hold
    try:
        return kernel.open_file(path, write=True, create=True), True
    except HostError as error:
        if error.errno == errno.EEXIST and not os.path.lexists(path):
            return kernel.open_file(path, write=True), False
        if error.errno == errno.EEXIST and os.path.islink(path):  # noqa: PTH114 - any bytes a path may hold
            raise HostError(
                f"cannot open {path}: the symbolic link leads nowhere",
                "create its target or remove the link",
                errno=errno.ENOENT,
            ) from None
        raise


def _system_name(fd: int, mode: int) -> str:
    special = {stat.S_IFCHR: "device DAX", stat.S_IFBLK: "block device"}
    return special.get(stat.S_IFMT(mode)) or kernel.file_system_name(fd)


def _refuse_kind(path: str, mode: int) -> None:
    known = _NOT_A_BACKING.get(stat.S_IFMT(mode))
    if known:
        raise UsageError(f"{path} is {known[0]}, not a file that can back memory", known[1])


def _device(path: str, number: int) -> dax.DaxDevice:
    device = dax.read_device(number, what=path)
    if device is None:
        raise UsageError(f"{path} is a character device, but not a device DAX", "name a regular file or /dev/daxX.Y")
    return device


def settle_size(config: BackendConfig, source: Source, default_size: int | None) -> int:
    """The bytes to map: what was asked for, else what the file has, else ``default_size``. UsageError when it cannot
    be."""
    available = max(source.size - config.offset, 0)
    size = config.size
    if size is None:
        size = available or default_size
    if size is None:
        raise UsageError(
            f"{source.path} is {'new' if source.created else 'empty'} and no size was given",
            "give one, such as size=64M",
        )
    if source.size and available < size:
        behind = f" behind offset {config.offset:#x}" if config.offset else ""
        raise UsageError(
            f"backing store {source.path} has {available:#x} bytes{behind}, too small for size {size:#x}",
            f"give size={available} or less; emu grows no file with content (truncate -s {config.offset + size} would)",
        )
    return size


def check_geometry(config: BackendConfig, source: Source, size: int) -> int:
    """The alignment of the mapping; UsageError when align, offset or size cannot be had. The order is QEMU's."""
    page, align = source.page_size, config.align
    if source.device and not config.share:
        raise UsageError(f"{source.path} is a device DAX, which cannot be mapped privately", "add share=on")
    if source.device and align and align < source.device.align:
        raise UsageError(
            f"backing store {source.path} has alignment {source.device.align:#x}, larger than 'align' {align:#x}",
            f"give align={human_size(source.device.align).replace(' ', '').replace('iB', '')}, or leave it out",
        )
    if align % page:
        raise UsageError(
            f"alignment {align:#x} is not a multiple of the page size {page:#x}", "give a multiple, or leave it out"
        )
    if align & (align - 1):
        raise UsageError(f"alignment {align:#x} is not a power of two", "give a power of two, such as align=2M")
    if config.offset % page:
        raise UsageError(
            f"offset {config.offset:#x} is not a multiple of the page size {page:#x}", "give a multiple of it"
        )
    if size < page:
        raise UsageError(f"memory size {size:#x} is smaller than the page size {page:#x}", f"give at least size={page}")
    if size % page:
        raise UsageError(
            f"memory size {size:#x} is not a multiple of the page size {page:#x}",
            f"give size={size // page * page}, or so",
        )
    return max(align, page)
