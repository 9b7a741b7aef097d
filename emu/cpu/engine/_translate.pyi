"""The cffi module that ``_translate.cdef.txt`` declares."""

from emu.native import FFI, Pointer

class _Lib:
    @staticmethod
    def emu_translate_bind(library: Pointer, /) -> Pointer: ...
    @staticmethod
    def emu_translate_active() -> int: ...

ffi: FFI
lib: _Lib
