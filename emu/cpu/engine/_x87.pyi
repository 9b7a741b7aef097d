"""The cffi module that ``_x87.cdef.txt`` declares."""

from emu.native import FFI, Pointer

class _Lib:
    @staticmethod
    def emu_x87_bind(library: Pointer, /) -> Pointer: ...

ffi: FFI
lib: _Lib
