"""The cffi module that ``_hooks.cdef.txt`` declares: one engine, and libraries and memory of this process."""

from emu.native import FFI, Pointer

class emu_uc_functions:
    open: Pointer
    close: Pointer
    emu_start: Pointer
    emu_stop: Pointer
    mem_map_ptr: Pointer
    mmio_map: Pointer
    mem_protect: Pointer
    hook_add: Pointer
    hook_del: Pointer
    reg_read: Pointer
    reg_write: Pointer
    ctl: Pointer

class emu_engine:
    uc: Pointer
    owner: Pointer
    reason: int
    vector: int
    env: Pointer
    eflags_offset: int
    hflags_offset: int
    halted: Pointer
    time: int
    deadline: int
    last_block: int
    counting: int
    trap_flag: int
    cpu: Pointer

class _Lib:
    EMU_EXCEPTION: int
    EMU_INVALID_OPCODE: int
    EMU_SYSCALL: int
    EMU_SYSENTER: int
    EMU_TIMER: int
    EMU_WINDOW: int
    EMU_SERVICE: int
    EMU_HALT: int
    @staticmethod
    def emu_engine_open(e: emu_engine, f: emu_uc_functions, cpu_model: int, /) -> int: ...
    @staticmethod
    def emu_engine_close(e: emu_engine, /) -> None: ...
    @staticmethod
    def emu_engine_reopen(e: emu_engine, /) -> int: ...
    @staticmethod
    def emu_engine_map(e: emu_engine, gpa: int, size: int, host: Pointer, /) -> int: ...
    @staticmethod
    def emu_engine_map_rom(e: emu_engine, gpa: int, size: int, host: Pointer, /) -> int: ...
    @staticmethod
    def emu_engine_map_nothing(e: emu_engine, gpa: int, size: int, /) -> int: ...
    @staticmethod
    def emu_engine_attach(e: emu_engine, cpu: Pointer, slots: Pointer, cpu_exit: Pointer, /) -> None: ...
    @staticmethod
    def emu_engine_prepare(e: emu_engine, /) -> int: ...
    @staticmethod
    def emu_engine_run(e: emu_engine, pc: int, /) -> int: ...
    @staticmethod
    def emu_engine_request_stop(e: emu_engine, /) -> None: ...
    @staticmethod
    def emu_engine_stop_before_block(e: emu_engine, /) -> None: ...
    @staticmethod
    def emu_engine_service(e: emu_engine, /) -> None: ...
    @staticmethod
    def emu_engine_watch_blocks(e: emu_engine, testing: int, /) -> None: ...
    @staticmethod
    def emu_engine_set_real_time(e: emu_engine, /) -> None: ...
    @staticmethod
    def emu_engine_set_interrupt_pending(e: emu_engine, pending: int, /) -> None: ...
    @staticmethod
    def emu_engine_announced(e: emu_engine, /) -> int: ...
    @staticmethod
    def emu_engine_set_clock(e: emu_engine, counting: int, time: int, announced: int, last_block: int, /) -> None: ...
    @staticmethod
    def emu_engine_take_stop(e: emu_engine, /) -> int: ...
    @staticmethod
    def emu_engine_running(e: emu_engine, /) -> int: ...
    @staticmethod
    def emu_engine_start_clock(e: emu_engine, /) -> None: ...
    @staticmethod
    def emu_engine_flush(e: emu_engine, /) -> int: ...
    @staticmethod
    def emu_engine_now(e: emu_engine, /) -> int: ...
    @staticmethod
    def emu_engine_read_register(e: emu_engine, id: int, value: Pointer, /) -> int: ...
    @staticmethod
    def emu_engine_write_register(e: emu_engine, id: int, value: Pointer, /) -> int: ...
    @staticmethod
    def emu_engine_add_hook(
        e: emu_engine, handle: Pointer, type: int, function: int, user_data: int, begin: int, end: int, /
    ) -> int: ...
    @staticmethod
    def emu_engine_delete_hook(e: emu_engine, handle: int, /) -> int: ...
    @staticmethod
    def emu_load_library(path: bytes, /) -> Pointer: ...
    @staticmethod
    def emu_show_library(path: bytes, /) -> Pointer: ...
    @staticmethod
    def emu_library_is_loaded(path: bytes, /) -> int: ...
    @staticmethod
    def emu_load_error() -> Pointer: ...
    @staticmethod
    def emu_symbol(library: Pointer, name: bytes, /) -> Pointer: ...
    @staticmethod
    def emu_allocation_size(pointer: Pointer, /) -> int: ...
    @staticmethod
    def emu_peek(address: int, buffer: Pointer, size: int, /) -> int: ...
    @staticmethod
    def emu_port_read(owner: Pointer, port: int, size: int, /) -> int: ...
    @staticmethod
    def emu_port_write(owner: Pointer, port: int, size: int, value: int, /) -> None: ...

ffi: FFI
lib: _Lib
