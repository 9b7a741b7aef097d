"""The cffi module that ``_trace.cdef.txt`` declares: the log of the guest's stores, flushes and fences."""

from emu.native import FFI, Pointer

class emu_trace_entry:
    pc: int
    address: int
    value: int
    instance: int
    size: int
    kind: int
    site: int
    detail: int

class emu_trace_read:
    unit: int
    mask: int
    value: int

class emu_trace_unit:
    unit: int
    unknown: int

class emu_trace:
    owner: Pointer
    count: int
    limit: int
    blocks: int
    budget: int
    next_look: int
    first_access: int
    starved: int
    sees_pages: int
    reads: emu_trace_read
    read_entries: Pointer
    read_count: int

class emu_trace_site:
    trace: emu_trace
    pc: int
    displacement: int
    address_mask: int
    linear_mask: int
    base: int
    index: int
    segment: int
    base_slot: int
    index_slot: int
    scale: int
    size: int
    site: int
    detail: int

class _Lib:
    EMU_TRACE_CHUNK: int
    EMU_TRACE_STORE: int
    EMU_TRACE_FLUSH: int
    EMU_TRACE_FENCE: int
    EMU_TRACE_SPECIAL: int
    EMU_TRACE_DEVICE: int
    EMU_SITE_FLUSH: int
    EMU_SITE_FENCE: int
    EMU_SITE_LOCKED: int
    EMU_SITE_NT: int
    EMU_SITE_REP: int
    EMU_SITE_CAS: int
    EMU_SITE_CAS_PAIR: int
    EMU_SITE_SPECIAL: int
    EMU_SPECIAL_PAGING: int
    EMU_TRACE_FULL: int
    EMU_TRACE_BUDGET: int
    EMU_TRACE_BLOCK: int
    EMU_TRACE_ACCESS: int
    EMU_TRACE_NOWHERE: int
    @staticmethod
    def emu_trace_bind(library: Pointer, /) -> Pointer: ...
    @staticmethod
    def emu_trace_open(t: emu_trace, uc: Pointer, /) -> int: ...
    @staticmethod
    def emu_trace_close(t: emu_trace, /) -> None: ...
    @staticmethod
    def emu_trace_set_budget(t: emu_trace, blocks: int, /) -> None: ...
    @staticmethod
    def emu_trace_await(t: emu_trace, until: int, /) -> None: ...
    @staticmethod
    def emu_trace_clear(t: emu_trace, /) -> None: ...
    @staticmethod
    def emu_trace_set_stop_block(t: emu_trace, block: int, /) -> None: ...
    @staticmethod
    def emu_trace_finish(t: emu_trace, /) -> None: ...
    @staticmethod
    def emu_trace_retract(t: emu_trace, pc: int, /) -> None: ...
    @staticmethod
    def emu_trace_note(
        t: emu_trace, kind: int, pc: int, address: int, value: int, size: int, begins: int, /
    ) -> None: ...
    @staticmethod
    def emu_trace_note_access(t: emu_trace, /) -> None: ...
    @staticmethod
    def emu_trace_at(t: emu_trace, number: int, /) -> emu_trace_entry: ...
    @staticmethod
    def emu_trace_translate_again(t: emu_trace, address: int, size: int, /) -> int: ...
    @staticmethod
    def emu_trace_add_region(t: emu_trace, gpa: int, size: int, host: Pointer, logged: int, /) -> int: ...
    @staticmethod
    def emu_trace_set_initial(t: emu_trace, gpa: int, initial: Pointer, /) -> None: ...
    @staticmethod
    def emu_trace_set_segment(t: emu_trace, number: int, base: Pointer, /) -> None: ...
    @staticmethod
    def emu_trace_set_state(t: emu_trace, general: Pointer, control: Pointer, hflags: Pointer, /) -> None: ...
    @staticmethod
    def emu_trace_learn_generator(t: emu_trace, generator: Pointer, /) -> int: ...
    @staticmethod
    def emu_trace_start_log(t: emu_trace, cpu: Pointer, env: Pointer, observed: Pointer, /) -> int: ...
    @staticmethod
    def emu_trace_watch(t: emu_trace, cpu: Pointer, env: Pointer, watched: Pointer, /) -> int: ...
    @staticmethod
    def emu_trace_executes(t: emu_trace, /) -> int: ...
    @staticmethod
    def emu_trace_at_block(trace: Pointer, address: int, /) -> None: ...
    @staticmethod
    def emu_trace_accessed(t: emu_trace, address: int, size: int, stores: int, /) -> None: ...
    @staticmethod
    def emu_trace_track(t: emu_trace, base: int, size: int, /) -> int: ...
    @staticmethod
    def emu_trace_set_unknown(t: emu_trace, units: Pointer, count: int, /) -> int: ...
    @staticmethod
    def emu_trace_restore_unknown(t: emu_trace, /) -> None: ...
    @staticmethod
    def emu_trace_known(t: emu_trace, units: emu_trace_unit, /) -> int: ...
    @staticmethod
    def emu_trace_know(t: emu_trace, units: emu_trace_unit, count: int, /) -> int: ...
    @staticmethod
    def emu_trace_pauses(t: emu_trace, since: int, distance: int, numbers: Pointer, blocks: Pointer, /) -> int: ...
    @staticmethod
    def emu_trace_ask(t: emu_trace, unit: int, ask: int, /) -> None: ...
    @staticmethod
    def emu_trace_give(t: emu_trace, unit: int, bytes: int, /) -> None: ...
    @staticmethod
    def emu_trace_note_read(t: emu_trace, unit: int, mask: int, value: int, /) -> None: ...
    @staticmethod
    def emu_trace_hook(
        t: emu_trace, handle: Pointer, which: int, type: int, site: emu_trace_site, begin: int, end: int, /
    ) -> int: ...
    @staticmethod
    def emu_trace_unhook(t: emu_trace, handle: int, /) -> int: ...
    @staticmethod
    def emu_trace_new_block(owner: Pointer, address: int, size: int, /) -> None: ...
    @staticmethod
    def emu_trace_new_instruction(owner: Pointer, pc: int, /) -> emu_trace_site: ...
    @staticmethod
    def emu_trace_unknown_read(owner: Pointer, unit: int, bytes: int, /) -> None: ...
    @staticmethod
    def emu_trace_next_page(owner: Pointer, pc: int, address: int, /) -> int: ...
    @staticmethod
    def emu_trace_stop(owner: Pointer, why: int, /) -> None: ...

ffi: FFI
lib: _Lib
