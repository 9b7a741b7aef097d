"""Typed wrappers of the system calls and processor instructions that emu needs, over the cffi module ``_kernel``.

A call that fails raises ``HostError`` naming the operation, the file and what to do. Addresses are integers in this
process, sizes are bytes. Sources: mmap(2), madvise(2), mbind(2), fallocate(2), fcntl(2), statx(2); Intel SDM volume 2
for CLWB, CLFLUSHOPT and CLFLUSH.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from functools import cache

from emu.enumeration import IntEnum
from emu.errors import HostError
from emu.hints import TYPE_CHECKING
from emu.host._kernel import ffi, lib
from emu.record import NamedTuple

if TYPE_CHECKING:
    from typing import Any

PAGE_SIZE: int = os.sysconf("SC_PAGE_SIZE")
NO_MAP_SYNC = (errno.EOPNOTSUPP, errno.EINVAL)
"""What mmap answers when MAP_SYNC is not to be had: this file cannot, or this kernel (before 4.15) does not know it."""

_REMEDIES = {
    errno.ENOENT: "check the path; the directory must exist",
    errno.ENOTDIR: "check the path; one of its parts is not a directory",
    errno.EACCES: "change the file's permissions, or open it with readonly=on,unarmed=on",
    errno.EPERM: "this host does not permit it; check the file's attributes and the sandbox emu runs in",
    errno.EROFS: "use a writable file system, or open the file with readonly=on,unarmed=on",
    errno.ENOSPC: "free some space, or ask for a smaller size",
    errno.EDQUOT: "raise the disk quota, or ask for a smaller size",
    errno.EFBIG: "ask for a smaller size, or use a file system that allows files this large",
    errno.ENOMEM: "ask for a smaller size, or free memory (also check ulimit -v and vm.max_map_count)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close files; the whole host is at its limit of open files",
    errno.ELOOP: "check the path; its symbolic links go round in a circle",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ETXTBSY: "the file is a running program; use another one",
    errno.ENXIO: "nothing answers behind this file; use a regular file or a device DAX",
    errno.ENODEV: "this file cannot be mapped; use a regular file or a device DAX",
    errno.EIO: "the storage reported an error; see the kernel's log (dmesg)",
    errno.EOPNOTSUPP: "this file system does not support it",
    errno.ENOSYS: "this kernel does not have the system call",
    errno.EINVAL: "this kernel or file system does not support it",
}


class Advice(IntEnum):
    """What madvise(2) is told about a range."""

    DONTNEED = lib.MADV_DONTNEED
    REMOVE = lib.MADV_REMOVE
    MERGEABLE = lib.MADV_MERGEABLE
    UNMERGEABLE = lib.MADV_UNMERGEABLE
    HUGEPAGE = lib.MADV_HUGEPAGE
    DONTDUMP = lib.MADV_DONTDUMP
    DODUMP = lib.MADV_DODUMP
    POPULATE_WRITE = lib.MADV_POPULATE_WRITE


class NumaMode(IntEnum):
    """Memory policies of mbind(2); the default policy is to not call it."""

    PREFERRED = lib.MPOL_PREFERRED
    BIND = lib.MPOL_BIND
    INTERLEAVE = lib.MPOL_INTERLEAVE


class Lock(IntEnum):
    """Kinds of open-file-description lock (fcntl(2))."""

    READ = lib.F_RDLCK
    WRITE = lib.F_WRLCK
    NONE = lib.F_UNLCK


class FileSystem(NamedTuple):
    """What fstatfs(2) says: the magic number and the block size (on hugetlbfs: the size of a page)."""

    magic: int
    block_size: int

    @property
    def is_memory(self) -> bool:
        """Whether its files live in RAM and die with the kernel (tmpfs, ramfs, hugetlbfs, memfd)."""
        return int(self.magic) in (lib.TMPFS_MAGIC, lib.RAMFS_MAGIC, lib.HUGETLBFS_MAGIC)

    @property
    def is_hugetlbfs(self) -> bool:
        return bool(self.magic == lib.HUGETLBFS_MAGIC)


def host_error(what: str, number: int, remedy: str = "") -> HostError:
    """A HostError for errno ``number``; the remedy is chosen by the number unless given."""
    return HostError(f"{what}: {os.strerror(number)}", remedy or _REMEDIES.get(number, "see errno(3)"), errno=number)


def _check(result: int, what: str, remedy: str = "") -> int:
    if result < 0:
        raise host_error(what, -result, remedy)
    return result


def open_file(path: str | os.PathLike[str], *, write: bool, create: bool = False) -> int:
    """A descriptor of ``path``, never left open across exec. ``create`` makes a new file (mode 0600 less the umask: a
    guest's memory is nobody else's business), never opens one.

    The open does not wait (a FIFO without a peer) and does not take a controlling terminal.
    """
    flags = (lib.O_RDWR if write else lib.O_RDONLY) | lib.O_CLOEXEC | lib.O_NONBLOCK | lib.O_NOCTTY
    if create:
        flags |= lib.O_CREAT | lib.O_EXCL
    raw = os.fsencode(path)
    if not raw or b"\0" in raw:
        raise HostError(
            f"cannot open {os.fspath(path)!r}: not a file name", "give the path of a file", errno=errno.EINVAL
        )
    result = lib.emu_open(raw, flags, 0o600)
    remedy = "change the file's permissions" if result == -errno.EACCES and not write else ""
    return _check(result, f"cannot {'create' if create else 'open'} {os.fspath(path)}", remedy)


def open_unnamed(directory: str | os.PathLike[str]) -> int:
    """A descriptor of a new file in ``directory`` that has no name and vanishes when closed (O_TMPFILE).

    HostError with errno EOPNOTSUPP, EISDIR or ENOENT where the file system cannot do it.
    """
    flags = lib.O_RDWR | lib.O_CLOEXEC | lib.O_TMPFILE
    return _check(lib.emu_open(os.fsencode(directory), flags, 0o600), f"cannot create a file in {os.fspath(directory)}")


def map_memory(
    size: int,
    *,
    what: str,
    align: int = PAGE_SIZE,
    page_size: int = PAGE_SIZE,
    fd: int = -1,
    offset: int = 0,
    shared: bool = False,
    sync: bool = False,
    write: bool = True,
    reserve: bool = True,
) -> int:
    """Map ``size`` bytes of ``fd`` (anonymous memory when -1) at a multiple of ``align``; return the address.

    One inaccessible page follows the mapping. ``sync`` asks for MAP_SYNC with MAP_SHARED_VALIDATE, so that a file that
    cannot have it answers with one of NO_MAP_SYNC. ``what`` names the thing in the error. Undo with ``unmap_memory``.
    """
    flags = lib.MAP_PRIVATE
    if sync:
        if not lib.HAS_MAP_SYNC:
            raise host_error(f"cannot map {what} with MAP_SYNC", errno.EOPNOTSUPP)
        flags = lib.MAP_SHARED_VALIDATE | lib.MAP_SYNC
    elif shared:
        flags = lib.MAP_SHARED
    if fd < 0:
        flags |= lib.MAP_ANONYMOUS
    if not reserve:
        flags |= lib.MAP_NORESERVE
    protection = lib.PROT_READ | (lib.PROT_WRITE if write else 0)
    number = ffi.new("int *")
    align = max(align, page_size)
    address = ffi.NULL
    if size < 1 << 63 and align < 1 << 63:
        address = lib.emu_map(size, align, page_size, protection, flags, fd, offset, number)
    else:
        number[0] = errno.ENOMEM
    if address == ffi.NULL:
        raise host_error(f"cannot map {what} ({size} bytes){' with MAP_SYNC' if sync else ''}", number[0])
    return int(ffi.cast("uintptr_t", address))


def unmap_memory(address: int, size: int, page_size: int = PAGE_SIZE) -> None:
    """Undo ``map_memory`` with the same size and page size. No view of the memory may be used afterwards."""
    _check(lib.emu_unmap(_pointer(address), size, page_size), "cannot unmap memory")


def memory_view(address: int, size: int, *, readonly: bool = False) -> memoryview:
    """The bytes at ``address`` as a memoryview of format 'B'. It does not keep the memory mapped."""
    view = memoryview(ffi.buffer(_pointer(address), size))
    return view.toreadonly() if readonly else view


def msync(address: int, size: int, *, what: str) -> None:
    """Write the pages of [address, address + size) back and wait (MS_SYNC).

    Durable when: it returns; the data and the file system's metadata for it are then in the medium.
    """
    start = address // PAGE_SIZE * PAGE_SIZE
    _check(lib.emu_msync(_pointer(start), address + size - start), f"cannot write {what} back to its medium")


def advise(address: int, size: int, advice: Advice, *, what: str, remedy: str = "") -> None:
    """madvise(2); ``what`` names the operation in the error ("preallocate pmem.img")."""
    _check(lib.emu_madvise(_pointer(address), size, int(advice)), f"cannot {what}", remedy)


def populate(address: int, size: int, page_size: int, *, what: str, threads: int = 1) -> None:
    """Give every page of a writable range its memory now, in ``threads`` equal parts. The content does not change."""
    if threads > 1 and size > page_size:
        from concurrent.futures import ThreadPoolExecutor

        part = -(-size // page_size // threads) * page_size or page_size
        starts = range(0, size, part)
        with ThreadPoolExecutor(min(threads, 64)) as pool:
            for done in [
                pool.submit(populate, address + start, min(part, size - start), page_size, what=what)
                for start in starts
            ]:
                done.result()
        return
    result = lib.emu_madvise(_pointer(address), size, lib.MADV_POPULATE_WRITE)
    if result == -errno.EINVAL:  # a kernel before 5.14
        result = lib.emu_touch(_pointer(address), size, page_size)
    if result == -errno.EFAULT:  # what the kernel says where a store would have met SIGBUS
        raise HostError(
            f"cannot preallocate {what}: its storage or the pool of huge pages is exhausted",
            _REMEDIES[errno.ENOSPC],
            errno=errno.ENOSPC,
        )
    _check(result, f"cannot preallocate {what}")


def bind_memory(address: int, size: int, mode: NumaMode, nodes: Iterable[int], *, what: str) -> None:
    """mbind(2) the range to host NUMA nodes, strictly, moving pages that are elsewhere."""
    mask = sum(1 << node for node in set(nodes))
    width = 8 * ffi.sizeof("unsigned long")
    words = [mask >> shift & ((1 << width) - 1) for shift in range(0, mask.bit_length(), width)]
    result = lib.emu_mbind(_pointer(address), size, int(mode), words, len(words) * width)
    _check(
        result, f"cannot bind {what} to host NUMA nodes", "name nodes that exist: see /sys/devices/system/node/online"
    )


def allocate_blocks(fd: int, offset: int, size: int, *, what: str) -> bool:
    """Allocate the file's blocks for the range; content and length stay. False when the file system cannot.

    HostError (ENOSPC) when there is too little space. What surely does not fit is not tried: a file system may fill the
    disk to the last block before it finds out, and keep what it took.
    """
    disk, status = os.fstatvfs(fd), os.fstat(fd)
    if disk.f_blocks and size - status.st_blocks * 512 > disk.f_bavail * disk.f_frsize:
        raise host_error(f"cannot preallocate {what} ({size} bytes)", errno.ENOSPC)
    result = lib.emu_fallocate(fd, offset, size)
    if result in (-errno.EOPNOTSUPP, -errno.ENODEV, -errno.ESPIPE):
        return False
    _check(result, f"cannot preallocate {what}")
    return True


def truncate(fd: int, size: int, *, what: str) -> None:
    """Set the file's length; new bytes read as zeros and have no blocks yet."""
    _check(lib.emu_truncate(fd, min(size, (1 << 63) - 1)), f"cannot set the size of {what} to {size} bytes")


def lock(fd: int, kind: Lock, *, what: str, start: int = 0, length: int = 0) -> bool:
    """Set an open-file-description lock on a range (length 0: to the end); False when somebody else's is in the way.

    It belongs to the open file, not to the process: it ends when the last copy of ``fd`` is closed, by death too.
    """
    result = lib.emu_lock(fd, int(kind), start, length)
    if result in (-errno.EAGAIN, -errno.EACCES):
        return False
    _check(result, f"cannot lock {what}")
    return True


def lock_conflicts(fd: int, kind: Lock, *, what: str, start: int = 0, length: int = 0) -> bool:
    """Whether somebody else holds a lock that ``kind`` on this range would meet."""
    return bool(_check(lib.emu_lock_conflict(fd, int(kind), start, length), f"cannot query the locks of {what}"))


def is_dax(fd: int) -> bool | None:
    """Whether the file is reached without the page cache (statx(2) STATX_ATTR_DAX); None when nobody says."""
    result: int = lib.emu_statx_dax(fd)
    return None if result < 0 else bool(result)


def file_system(fd: int) -> FileSystem:
    """What kind of file system the file is on; number 0 when it does not say (9p, of a file without a name)."""
    result = ffi.new("emu_fs *")
    if lib.emu_fstatfs(fd, result) < 0:
        return FileSystem(0, PAGE_SIZE)
    return FileSystem(result.type, result.block_size)


def _lines(path: str) -> Iterator[str]:
    with open(path) as lines:  # noqa: PTH123 - pathlib is a tenth of what a start imports
        yield from lines


KERNEL_FILE_SYSTEMS = frozenset({
    "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs", "fusectl",
    "mqueue", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs",
})  # fmt: skip
"""File systems whose files are no places to keep bytes in."""


def file_system_name(fd: int) -> str:
    """The kernel's name for the file system of ``fd`` ("ext4"); "unknown" when /proc does not tell."""
    try:
        info = dict(line.split(":", 1) for line in _lines(f"/proc/self/fdinfo/{fd}") if ":" in line)
        mount = info["mnt_id"].strip()
        for line in _lines("/proc/self/mountinfo"):
            if line.split(" ", 1)[0] == mount:
                return line.split(" - ", 1)[1].split(" ", 1)[0]
    except (OSError, KeyError, IndexError, ValueError):
        pass
    return "tmpfs" if file_system(fd).magic == lib.TMPFS_MAGIC else "unknown"


def vm_flags(address: int) -> frozenset[str] | None:
    """The VmFlags of the mapping that starts at ``address`` (/proc/self/smaps); None when they cannot be read."""
    start = f"{address:x}-"
    try:
        inside = False
        for line in _lines("/proc/self/smaps"):
            if line.startswith("VmFlags:"):
                if inside:
                    return frozenset(line.split()[1:])
            elif not line[0].isupper():
                inside = line.lstrip("0").startswith(start)
    except OSError:
        pass
    return None


@cache
def flush_instructions() -> tuple[str, ...]:
    """The cache flush instructions of this processor, best first: "clwb", "clflushopt", "clflush"; or none."""
    features = lib.emu_cpu_features()
    names = (("clwb", lib.CPU_CLWB), ("clflushopt", lib.CPU_CLFLUSHOPT), ("clflush", lib.CPU_CLFLUSH))
    return tuple(name for name, bit in names if features & bit)


def _instruction(name: str | None) -> int:
    chosen = name or next(iter(flush_instructions()), None)
    if chosen not in flush_instructions():
        raise HostError(
            f"this processor has no {name or 'cache flush instruction'}", "use msync, which works everywhere"
        )
    return int({"clwb": lib.CPU_CLWB, "clflushopt": lib.CPU_CLFLUSHOPT}.get(chosen, lib.CPU_CLFLUSH))


def flush_cache(address: int, size: int, *, instruction: str | None = None) -> None:
    """Write the cache lines of the range back and fence (SFENCE); the best instruction unless one is named.

    Durable when: it returns, on memory that the platform keeps (ADR) and whose metadata is durable: a MAP_SYNC mapping
    or a device DAX.
    """
    lib.emu_flush(_pointer(address), size, _instruction(instruction))


def _pointer(address: int) -> Any:
    return ffi.cast("void *", address)
