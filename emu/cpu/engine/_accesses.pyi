"""The cffi module that ``_accesses.cdef.txt`` declares."""

from emu.native import FFI, Pointer

class _Lib:
    @staticmethod
    def emu_accesses_bind(library: Pointer, system: Pointer, translation: Pointer, /) -> Pointer: ...
    @staticmethod
    def emu_accesses_try(uc: Pointer, cpu: Pointer, env: Pointer, address: int, /) -> int: ...
    @staticmethod
    def emu_accesses_tried() -> int: ...

ffi: FFI
lib: _Lib
