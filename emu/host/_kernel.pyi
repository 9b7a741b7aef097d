"""The cffi module that ``_kernel.cdef.txt`` declares: system calls, processor instructions, the fault handler."""

from emu.native import FFI, Pointer

class emu_fs:
    type: int
    block_size: int

class emu_run:
    first: int
    count: int

class emu_loss:
    offset: int
    stored: int
    poisoned: int
    cut_off: int

class _Lib:
    O_RDONLY: int
    O_RDWR: int
    O_CREAT: int
    O_EXCL: int
    O_CLOEXEC: int
    O_NONBLOCK: int
    O_NOCTTY: int
    O_TMPFILE: int
    PROT_READ: int
    PROT_WRITE: int
    MAP_SHARED: int
    MAP_PRIVATE: int
    MAP_SHARED_VALIDATE: int
    MAP_SYNC: int
    MAP_ANONYMOUS: int
    MAP_NORESERVE: int
    MADV_DONTNEED: int
    MADV_REMOVE: int
    MADV_MERGEABLE: int
    MADV_UNMERGEABLE: int
    MADV_HUGEPAGE: int
    MADV_DONTDUMP: int
    MADV_DODUMP: int
    MADV_POPULATE_WRITE: int
    MPOL_PREFERRED: int
    MPOL_BIND: int
    MPOL_INTERLEAVE: int
    F_RDLCK: int
    F_WRLCK: int
    F_UNLCK: int
    TMPFS_MAGIC: int
    HUGETLBFS_MAGIC: int
    RAMFS_MAGIC: int
    HAS_MAP_SYNC: int
    HAS_CPU_FLUSH: int
    CPU_CLFLUSH: int
    CPU_CLFLUSHOPT: int
    CPU_CLWB: int
    @staticmethod
    def emu_open(path: bytes, flags: int, mode: int, /) -> int: ...
    @staticmethod
    def emu_map(
        size: int, align: int, page: int, prot: int, flags: int, fd: int, offset: int, error: Pointer, /
    ) -> Pointer: ...
    @staticmethod
    def emu_unmap(address: Pointer, size: int, page: int, /) -> int: ...
    @staticmethod
    def emu_msync(address: Pointer, size: int, /) -> int: ...
    @staticmethod
    def emu_madvise(address: Pointer, size: int, advice: int, /) -> int: ...
    @staticmethod
    def emu_touch(address: Pointer, size: int, page: int, /) -> int: ...
    @staticmethod
    def emu_mbind(address: Pointer, size: int, mode: int, nodes: list[int], bits: int, /) -> int: ...
    @staticmethod
    def emu_fallocate(fd: int, offset: int, size: int, /) -> int: ...
    @staticmethod
    def emu_truncate(fd: int, size: int, /) -> int: ...
    @staticmethod
    def emu_lock(fd: int, type: int, start: int, length: int, /) -> int: ...
    @staticmethod
    def emu_lock_conflict(fd: int, type: int, start: int, length: int, /) -> int: ...
    @staticmethod
    def emu_statx_dax(fd: int, /) -> int: ...
    @staticmethod
    def emu_fstatfs(fd: int, result: emu_fs, /) -> int: ...
    @staticmethod
    def emu_watch() -> int: ...
    @staticmethod
    def emu_watch_writes(watch: int, path: bytes, /) -> int: ...
    @staticmethod
    def emu_cpu_features() -> int: ...
    @staticmethod
    def emu_flush(address: Pointer, size: int, instruction: int, /) -> None: ...
    @staticmethod
    def emu_guard_add(address: int, size: int, page: int, fd: int, file_offset: int, /) -> int: ...
    @staticmethod
    def emu_guard_join(slot: int, group: int, /) -> None: ...
    @staticmethod
    def emu_guard_remove(slot: int, /) -> None: ...
    @staticmethod
    def emu_guard_loss(slot: int, /) -> emu_loss: ...
    @staticmethod
    def emu_set_stop(function: int, argument: int, /) -> None: ...
    @staticmethod
    def emu_stopped() -> int: ...
    @staticmethod
    def emu_dirty_start(address: int, size: int, page: int, /) -> int: ...
    @staticmethod
    def emu_dirty_collect(slot: int, runs: emu_run, capacity: int, more: Pointer, /) -> int: ...
    @staticmethod
    def emu_dirty_stop(slot: int, /) -> int: ...
    @staticmethod
    def emu_dirty_keep(slot: int, before: int, /) -> int: ...
    @staticmethod
    def emu_dirty_save(slot: int, pages: Pointer, copies: int, /) -> int: ...
    @staticmethod
    def emu_dirty_undo(slot: int, patience: int, pages: Pointer, count: int, copies: int, taken: int, /) -> None: ...
    @staticmethod
    def emu_dirty_next(slot: int, start: int, /) -> emu_run: ...

ffi: FFI
lib: _Lib
