"""The cffi module that ``_sse.cdef.txt`` declares."""

from emu.native import FFI, Pointer

class _Lib:
    @staticmethod
    def emu_sse_bind(library: Pointer, /) -> Pointer: ...

ffi: FFI
lib: _Lib
