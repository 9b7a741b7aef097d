"""The cffi module that ``_system.cdef.txt`` declares."""

from emu.native import FFI, Pointer

class emu_system_layout:
    eflags: int
    hflags: int
    task_register: int
    control: int
    debug: int
    task_priority: int

class emu_watch:
    address: int
    size: int
    access: int

class emu_system:
    uc: Pointer
    cpu: Pointer
    env: Pointer
    random: int
    cr4_bits: int
    instruction_blocks: int
    met: int
    restarts: int
    spans: int
    argument: int
    met_address: int
    met_access: int
    code_changed: int

class _Lib:
    EMU_WATCHES: int

    @staticmethod
    def emu_system_bind(library: Pointer, translation: Pointer, accesses: Pointer, /) -> Pointer: ...
    @staticmethod
    def emu_system_know(layout: emu_system_layout, /) -> None: ...
    @staticmethod
    def emu_system_attach(s: emu_system, uc: Pointer, cpu: Pointer, env: Pointer, /) -> None: ...
    @staticmethod
    def emu_system_detach(s: emu_system, /) -> None: ...
    @staticmethod
    def emu_system_debug_off(s: emu_system, /) -> None: ...
    @staticmethod
    def emu_system_debug_on(s: emu_system, /) -> None: ...
    @staticmethod
    def emu_system_set_watches(s: emu_system, watches: emu_watch, count: int, /) -> None: ...
    @staticmethod
    def emu_system_accessed(s: emu_system, address: int, size: int, access: int, /) -> None: ...
    @staticmethod
    def emu_system_has_code(s: emu_system, host: Pointer, size: int, /) -> int: ...
    @staticmethod
    def emu_system_host_wrote(s: emu_system, host: Pointer, size: int, /) -> None: ...

ffi: FFI
lib: _Lib
