"""The cffi module that ``_pages.cdef.txt`` declares: checksums of pages, and copies of them."""

from emu.native import FFI, Pointer

class _Lib:
    @staticmethod
    def emu_has_crc32c() -> int: ...
    @staticmethod
    def emu_crc32c(crc: int, data: Pointer, size: int, hardware: int, /) -> int: ...
    @staticmethod
    def emu_pages_sum(data: Pointer, pages: int, sums: Pointer, hardware: int, /) -> None: ...
    @staticmethod
    def emu_is_zero(data: Pointer, size: int, /) -> int: ...
    @staticmethod
    def emu_pages_read(
        fd: int,
        offset: int,
        memory: Pointer,
        to: Pointer,
        pages: int,
        sums: Pointer,
        threads: int,
        hardware: int,
        /,
    ) -> int: ...
    @staticmethod
    def emu_pages_take(
        fd: int, offset: int, memory: Pointer, pages: int, to: Pointer, zero: Pointer, crc: Pointer, hardware: int, /
    ) -> int: ...
    @staticmethod
    def emu_pages_receive(fd: int, to: Pointer, size: int, crc: Pointer, hardware: int, /) -> int: ...
    @staticmethod
    def emu_pages_copy(
        source: int,
        offset: int,
        to: int,
        to_offset: int,
        pages: int,
        sums: Pointer,
        zero: Pointer,
        reading: Pointer,
        hardware: int,
        /,
    ) -> int: ...

ffi: FFI
lib: _Lib
