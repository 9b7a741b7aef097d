"""The cffi module that ``_chunks.cdef.txt`` declares: reads of recoveries in chunks."""

from emu.native import FFI, Pointer

class emu_read:
    unit: int
    mask: int
    value: int

class emu_chunks:
    chunk_count: int

class _Lib:
    @staticmethod
    def emu_chunks_new() -> emu_chunks: ...
    @staticmethod
    def emu_chunks_free(chunks: emu_chunks, /) -> None: ...
    @staticmethod
    def emu_chunks_settle(
        chunks: emu_chunks, unit: int, since: Pointer, values: Pointer, known: Pointer, count: int, /
    ) -> int: ...
    @staticmethod
    def emu_chunks_add(chunks: emu_chunks, reads: emu_read, count: int, numbers: Pointer, /) -> int: ...
    @staticmethod
    def emu_chunks_size(chunks: emu_chunks, numbers: Pointer, count: int, /) -> int: ...
    @staticmethod
    def emu_chunks_reads(chunks: emu_chunks, number: int, count: Pointer, /) -> emu_read: ...
    @staticmethod
    def emu_chunks_look(
        chunks: emu_chunks, numbers: Pointer, start: int, count: int, point: int, places: Pointer, found: Pointer, /
    ) -> int: ...

ffi: FFI
lib: _Lib
