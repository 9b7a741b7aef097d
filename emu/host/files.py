"""The one way to write the files that users name.

A regular file is written beside itself under a temporary name and renamed when it is complete: it holds the old content
or the new one, never a part. A device, a FIFO and an open descriptor (``/dev/stdout``, ``/proc/self/fd/3``) are written
into. Directories, sockets and the kernel's own files (proc, sysfs, new names in /dev) are refused, and so is a file
that another program has locked, as a running machine locks its NVDIMMs. Symbolic links are followed: what is replaced
is what they lead to. A hard link of a replaced file keeps the old content.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import re
import select
import stat
import time
from types import TracebackType

from emu.errors import FileInUse, HostError
from emu.host import kernel
from emu.host.kernel import Lock
from emu.record import NamedTuple

_MOST_LINKS = 40  # as the kernel
READER_S, STALL_S = 10.0, 60.0
"""How long a FIFO may take to get a reader, and a reader to read on."""
_LOOK_S = 0.05
_REMEDIES = {
    errno.ENOSPC: "make room on that file system",
    errno.EDQUOT: "raise the disk quota, or choose another file system",
    errno.ENXIO: "nobody reads from it: start its reader first",
    errno.EPIPE: "its reader has gone",
    errno.EBUSY: "the device is in use",
    errno.ETIMEDOUT: "nobody reads from it",
}


class Kind(enum.Enum):
    """What a name leads to: nothing yet, a regular file, a device or FIFO, or a descriptor of this process."""

    NEW = enum.auto()
    REGULAR = enum.auto()
    STREAM = enum.auto()
    DESCRIPTOR = enum.auto()


class Place(NamedTuple):
    """Where a name leads: ``path`` with every symbolic link followed, or a ``descriptor`` of this process."""

    path: str
    descriptor: int | None = None

    def stat(self) -> os.stat_result:
        """OSError when nothing is there."""
        return os.stat(self.path) if self.descriptor is None else os.fstat(self.descriptor)


def resolve(name: str) -> Place:
    """Follow ``name``, also where its last link leads to nothing. HostError for what is no file name."""
    if not name or "\0" in name:
        raise HostError(f"{name!r} is not a file name", "give the path of a file")
    path = name
    for _ in range(_MOST_LINKS):
        folder, last = os.path.split(path)
        folder = os.path.realpath(folder or ".")
        path = os.path.join(folder, last)
        # Not followed as other links: their text may name a file, but what they are is the open descriptor.
        if (process := re.fullmatch(r"(/proc/\d+)(/task/\d+)?/fd", folder)) and last.isdecimal():
            return Place(path, int(last) if process[1] == os.path.realpath("/proc/self") else None)
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:
            return Place(path)
    raise _failure(name, errno.ELOOP)


def examine(name: str) -> Target:
    """Look at ``name`` as a place to write to, before the work whose result it shall take; nothing is changed.

    HostError when it cannot be written: wrong kind, no permission, no such folder, locked by another program.
    """
    place = resolve(name)
    try:
        found = place.stat()
    except FileNotFoundError:
        _check_folder(name, place.path)
        return Target(name, place, Kind.NEW)
    except OSError as error:
        raise _failure(name, error.errno) from None
    return Target(name, place, _check_kind(name, place, found))


def _check_kind(name: str, place: Place, found: os.stat_result) -> Kind:
    if stat.S_ISDIR(found.st_mode):
        raise HostError(f"{name}: Is a directory", "name a file in it", errno=errno.EISDIR)
    if place.descriptor is not None:
        return Kind.DESCRIPTOR
    if stat.S_ISSOCK(found.st_mode):
        raise HostError(f"{name}: Is a socket, which only a connection can write to", "name a file", errno=errno.ENXIO)
    regular = stat.S_ISREG(found.st_mode)
    if regular:
        _check_folder(name, place.path)
    if not os.access(place.path, os.W_OK, effective_ids=True):
        raise _failure(name, errno.EACCES)
    if not regular:
        return Kind.STREAM
    _refuse_locked(name, place.path)
    return Kind.REGULAR


def _check_folder(name: str, path: str) -> None:
    """HostError when no file can be put at ``path``."""
    folder, last = os.path.split(path)
    if not last:
        raise HostError(f"{name}: Is a directory", "name a file in it", errno=errno.EISDIR)
    check_folder(name, folder)


def check_folder(name: str, folder: str) -> None:
    """HostError when no file can be made in ``folder``; ``name`` is what the user calls the file."""
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise _failure(name, errno.ENOTDIR)
    except OSError as error:
        raise _failure(name, error.errno) from None
    refuse_kernel_folder(name, folder)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise HostError(f"{name}: no file can be made in {folder}", "name a file elsewhere", errno=errno.EACCES)


def refuse_kernel_folder(name: str, folder: str) -> None:
    """HostError when ``folder`` is no place for regular files: /dev, which holds devices and dies with the host, and
    the kernel's own file systems. What cannot be looked into is left to whoever opens the file."""
    real = os.path.realpath(folder)
    if f"{real}/".startswith("/dev/shm/"):  # noqa: S108 - compared, not used
        return  # memory that is meant for files, with a file system of its own or without
    try:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        system = kernel.file_system_name(descriptor)
        # Not the file systems mounted in it, such as /dev/hugepages. In a container /dev itself is often a tmpfs.
        in_dev = f"{real}/".startswith("/dev/") and os.fstat(descriptor).st_dev == os.stat("/dev").st_dev
    finally:
        os.close(descriptor)
    if in_dev or system == "devtmpfs":
        raise HostError(
            f"{name}: there is no such device, and {real} is no place for files",
            "check the name (a device DAX needs its namespace enabled: ndctl list -N), or name a file elsewhere",
            errno=errno.ENOENT,
        )
    if system in kernel.KERNEL_FILE_SYSTEMS:
        raise HostError(f"{name}: no file can be kept on {system}", "name a file elsewhere", errno=errno.EPERM)


def _refuse_locked(name: str, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failure(name, error.errno) from None
    try:
        _refuse_locked_file(name, descriptor)
    finally:
        os.close(descriptor)


def _refuse_locked_file(name: str, descriptor: int) -> None:
    if kernel.lock_conflicts(descriptor, Lock.WRITE, what=name):
        raise FileInUse(
            f"{name} is in use: it is locked", "name another file, or end the program that uses it",
            errno=errno.EBUSY,
        )  # fmt: skip


class Target:
    """A place that was examined and can be written, by one of three ways. ``name`` is the user's word for it."""

    def __init__(self, name: str, place: Place, kind: Kind) -> None:
        self.name = name
        self.place = place
        self.kind = kind

    def write(self, *pieces: bytes | bytearray | memoryview, durable: bool = False) -> None:
        """Write the pieces, all or (to a regular file) nothing.

        Durable when it returns and ``durable`` was asked for: the file and its directory entry were fsynced.
        """
        with self.begin(durable=durable) as writing:
            writing.write(*pieces)

    def begin(self, *, durable: bool = False, wait: bool = True, mode: int = 0o666) -> Writing:
        """Begin to write; complete with ``finish``. ``mode`` (less the umask) is that of a new file.

        Without ``wait`` a FIFO must have a reader already, and the descriptor does not block.
        """
        if self.kind in (Kind.NEW, Kind.REGULAR):
            return _Replacement(self, durable=durable, mode=mode)
        descriptor = self._open_stream(wait=wait)
        if self.kind is Kind.STREAM:  # opened by us: nobody else sees that it does not block
            os.set_blocking(descriptor, False)
        return Writing(self.name, descriptor, durable=durable)

    def stream(self) -> int:
        """A descriptor for output that is to be seen while it comes, by ``tail -f`` for instance: a regular file is
        emptied and written in place."""
        if self.kind not in (Kind.NEW, Kind.REGULAR):
            return self._open_stream(wait=True)
        # Emptied only when it is known that it may be.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self.place.path, flags, 0o666)
        except OSError as error:
            raise _failure(self.name, error.errno) from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._changed()
            _refuse_locked_file(self.name, descriptor)
            os.ftruncate(descriptor, 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def stream_if_read(self) -> int | None:
        """As ``stream``; None at once, instead of waiting, for a FIFO that nobody reads."""
        if self.kind is not Kind.STREAM or not stat.S_ISFIFO(self.place.stat().st_mode):
            return self.stream()
        try:
            descriptor = self._open_stream(wait=False)
        except HostError as error:
            if error.errno == errno.ENXIO:
                return None
            raise
        os.set_blocking(descriptor, True)
        return descriptor

    def _open_stream(self, *, wait: bool) -> int:
        try:
            if self.place.descriptor is not None:
                return os.dup(self.place.descriptor)
            flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | (0 if wait else os.O_NONBLOCK)
            kind = self.place.stat().st_mode
            if stat.S_ISBLK(kind):
                flags |= os.O_EXCL  # EBUSY when it is mounted
            if not wait or not stat.S_ISFIFO(kind):
                return os.open(self.place.path, flags)
            return self._open_fifo(flags | os.O_NONBLOCK)
        except OSError as error:
            raise _failure(self.name, error.errno) from None

    def _open_fifo(self, flags: int) -> int:
        """Open it, and wait for its reader; OSError when none comes."""
        until = time.monotonic() + READER_S
        while True:
            try:
                descriptor = os.open(self.place.path, flags)
            except OSError as error:
                if error.errno != errno.ENXIO or time.monotonic() > until:
                    raise
                time.sleep(_LOOK_S)
            else:
                os.set_blocking(descriptor, True)
                return descriptor

    def _changed(self) -> HostError:
        return HostError(f"{self.name} became something else meanwhile", "name a file that nobody else changes")


class Writing:
    """An open output. ``finish`` completes it; ``abandon`` gives it up, and of a regular file nothing is to be seen
    then. As a context manager it does the one or the other."""

    def __init__(self, name: str, descriptor: int, *, durable: bool) -> None:
        self.name = name
        self.descriptor = descriptor
        self._durable = durable

    def write(self, *pieces: bytes | bytearray | memoryview) -> None:
        """Write all of the pieces; HostError names the file."""
        for piece in pieces:
            left = memoryview(piece)
            while left:
                try:
                    left = left[os.write(self.descriptor, left) :]
                except BlockingIOError:
                    self._await_reader()
                except OSError as error:
                    raise self.failure(error) from None

    def _await_reader(self) -> None:
        ready = select.poll()
        ready.register(self.descriptor, select.POLLOUT)
        if not ready.poll(1000 * STALL_S):
            raise _failure(self.name, errno.ETIMEDOUT)

    def skip(self, length: int) -> None:
        """As many zero bytes: a hole, where the file can have one."""
        self.write(bytes(length))

    def failure(self, error: OSError) -> HostError:
        """What ``error`` of a call on the descriptor means for the user."""
        return _failure(self.name, error.errno)

    def finish(self) -> None:
        """Complete the output. Durable when it returns and that was asked for, as far as the device keeps anything."""
        try:
            if self._durable:
                self._sync()
            self._close()
        except OSError as error:
            raise self.failure(error) from None
        finally:
            self.abandon()

    def _sync(self) -> None:
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a pipe, a terminal: nothing is kept there
                raise

    def abandon(self) -> None:
        """Harmless after ``finish``."""
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.finish()
        else:
            self.abandon()


class _Replacement(Writing):
    """A regular file in the making: without a name, where the file system can (so that even a killed emu leaves
    nothing), else under a temporary one in the same folder."""

    def __init__(self, target: Target, *, durable: bool, mode: int) -> None:
        self._target = target
        self._folder = os.path.dirname(target.place.path)
        self._temporary = os.path.join(self._folder, f".emu-{os.urandom(6).hex()}.tmp")
        self._named = False
        super().__init__(target.name, self._make(mode), durable=durable)
        try:
            self._keep_attributes()
        except BaseException:
            self.abandon()
            raise

    def _make(self, mode: int) -> int:
        with contextlib.suppress(OSError):  # no O_TMPFILE here; any other trouble comes again with a name
            return os.open(self._folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode)
        try:
            descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise _failure(self._target.name, error.errno) from None
        self._named = True
        return descriptor

    def _give_name(self) -> None:
        """The temporary name; a file gets no name that is taken, and a rename needs one."""
        if self._named:
            return
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:  # with a folder's descriptor, since only then the call follows the link in /proc
            os.link(f"/proc/self/fd/{self.descriptor}", os.path.basename(self._temporary), dst_dir_fd=folder)
        finally:
            os.close(folder)
        self._named = True

    def _keep_attributes(self) -> None:
        """The owner, as far as we may, and the mode of the file that is replaced."""
        try:
            old = os.stat(self._target.place.path)
        except OSError:
            return
        mode = stat.S_IMODE(old.st_mode)
        try:
            os.fchown(self.descriptor, old.st_uid, old.st_gid)
        except OSError:
            mode &= ~(stat.S_ISUID | stat.S_ISGID)  # they were the old owner's to give
        with contextlib.suppress(OSError):  # a file system without modes
            os.fchmod(self.descriptor, mode)

    def skip(self, length: int) -> None:
        os.lseek(self.descriptor, length, os.SEEK_CUR)

    def finish(self) -> None:
        """Give the file its name; with ``durable``, fsync it before and its folder after."""
        target = self._target
        try:
            os.ftruncate(self.descriptor, os.lseek(self.descriptor, 0, os.SEEK_CUR))  # a hole at the end
            if self._durable:
                os.fsync(self.descriptor)
            self._look_again()
            self._give_name()
            self._close()
            os.rename(self._temporary, target.place.path)
            self._named = False
            if self._durable:
                _sync_folder(self._folder)
        except OSError as error:
            raise self.failure(error) from None
        finally:
            self.abandon()

    def _look_again(self) -> None:
        """A rename would replace anything: what came to this name meanwhile must still be a file that may be."""
        path = self._target.place.path
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(found.st_mode):
            raise HostError(f"{self.name} became something else meanwhile", "name a file that nobody else changes")
        _refuse_locked(self.name, path)

    def abandon(self) -> None:
        super().abandon()
        if self._named:
            self._named = False
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(name: str, number: int | None) -> HostError:
    """What the error ``number`` of a system call on ``name`` means for the user."""
    remedy = _REMEDIES.get(number or 0, "give a path that can be written")
    return HostError(f"{name}: {os.strerror(number or 0)}", remedy, errno=number or 0)
