"""One Unicorn engine driven from C (``_hooks``): callbacks, virtual clock and stop requests.

Nothing here is linked against Unicorn: C looks its functions up when the library is loaded, so engines come from
``library.open_engine``. Register and error numbers go through uninterpreted; what they mean, ``emu.cpu`` knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from emu.cpu.engine._hooks import ffi, lib
from emu.errors import HostError
from emu.hints import TYPE_CHECKING, Any, Protocol
from emu.record import NamedTuple

if TYPE_CHECKING:
    from emu.cpu.engine._hooks import emu_engine
    from emu.native import Pointer

EXCEPTION = lib.EMU_EXCEPTION
INVALID_OPCODE = lib.EMU_INVALID_OPCODE
SYSCALL = lib.EMU_SYSCALL
SYSENTER = lib.EMU_SYSENTER
TIMER = lib.EMU_TIMER
WINDOW = lib.EMU_WINDOW
SERVICE = lib.EMU_SERVICE
HALT = lib.EMU_HALT
BREAKPOINT = lib.EMU_BREAKPOINT
STEP = lib.EMU_STEP
WATCH = lib.EMU_WATCH
CODE_HOOK = 4  # UC_HOOK_CODE

NO_DEADLINE = NEVER = (1 << 64) - 1
DELIVERY_NS: int = lib.EMU_DELIVERY_NS
"""An exception or interrupt takes time too: a guest that faults for ever without executing code meets its deadline."""
_RUNNING = "it is used while the guest runs"


class PortHandler(Protocol):
    """Who answers port accesses; called on the thread that runs the engine."""

    def port_read(self, port: int, size: int) -> int: ...

    def port_write(self, port: int, size: int, value: int) -> None: ...


class RegisterHandler(Protocol):
    """Who answers accesses to devices' registers in guest memory, in the same way."""

    def register_read(self, gpa: int, size: int) -> int: ...

    def register_write(self, gpa: int, size: int, value: int) -> None: ...


class Clock(NamedTuple):
    """Virtual time: whether it passes, nanoseconds, and whether the block at address ``last_block`` was announced, and
    charged, without being executed.
    """

    started: bool
    now: int
    announced: bool
    last_block: int


def describe(error: int) -> str:
    """Unicorn's text for one of its error numbers."""
    return ffi.string(lib.emu_describe(error)).decode("ascii", "replace")


def _check(error: int, doing: str) -> None:
    if error:
        raise HostError(f"Unicorn cannot {doing}: {describe(error)}", "see that unicorn 2.1 is installed whole")


class Engine:
    """A Unicorn x86 engine. ``ports`` answers IN and OUT; what it raises stops the engine.

    All numbers are host-endian unsigned; guest addresses are physical.
    """

    def __init__(self, model: int, ports: PortHandler) -> None:
        self._e: emu_engine = ffi.new("emu_engine *")
        _check(lib.emu_engine_open(self._e, model), "open an engine")
        self.ports = ports
        self.registers: RegisterHandler | None = None
        self._failure: BaseException | None = None
        self._owner = ffi.new_handle(self)
        self._e.owner = self._owner
        self._scratch: Any = ffi.new("uint64_t[4]")
        self._breakpoints: Any = None  # kept alive for C

    @property
    def handle(self) -> int:
        """Unicorn's own handle of the engine; 0 once closed."""
        return int(ffi.cast("uintptr_t", self._e.uc))

    def close(self) -> None:
        lib.emu_engine_close(self._e)

    def reopen(self) -> None:
        """Replace the engine by a fresh one, without memory and hooks of others; ``take_over`` it again.

        Time, deadline and requests stay.
        """
        assert not self.running, _RUNNING
        _check(lib.emu_engine_reopen(self._e), "open an engine")

    # Memory

    def map(self, gpa: int, size: int, host: int) -> None:
        """Let the guest see ``size`` bytes at host address ``host``; whole pages. The caller keeps them mapped."""
        _check(lib.emu_engine_map(self._e, gpa, size, ffi.cast("void *", host)), f"map memory at {gpa:#x}")

    def map_rom(self, gpa: int, size: int, host: int) -> None:
        """As ``map``, but guest stores are dropped."""
        _check(lib.emu_engine_map_rom(self._e, gpa, size, ffi.cast("void *", host)), f"map memory at {gpa:#x}")

    def map_registers(self, gpa: int, size: int) -> None:
        """A device's registers live there: ``registers`` answers."""
        _check(lib.emu_engine_map_registers(self._e, gpa, size), f"map registers at {gpa:#x}")

    def map_nothing(self, gpa: int, size: int) -> None:
        """Nobody lives there: reads give 0, writes are dropped."""
        _check(lib.emu_engine_map_nothing(self._e, gpa, size), f"fill the hole at {gpa:#x}")

    # Delivery without leaving ``run``, in the plain case; all else comes out as a reason

    def add_ram(self, gpa: int, size: int, host: int) -> None:
        """Plain RAM that the guest sees at ``gpa``: delivery may read and write it with no one knowing."""
        lib.emu_engine_add_ram(self._e, gpa, size, ffi.cast("void *", host))

    def forget_ram(self) -> None:
        """All of ``add_ram``, which is to be told again."""
        lib.emu_engine_forget_ram(self._e)

    def set_code_check(self, function: int, argument: int) -> None:
        """The address of a C function that says of ``argument``, host address and size whether code lies there."""
        lib.emu_engine_set_code_check(self._e, function, ffi.cast("void *", argument))

    def watch_faults(self, function: int, argument: int) -> None:
        """Tell the C function ``function(argument, rip)`` where an exception was raised; 0: leave all to others."""
        lib.emu_engine_watch_faults(self._e, function, argument)

    def deliver_interrupt(self, vector: int) -> bool:
        """Enter the handler of an external interrupt; False when that was declined and nothing has changed."""
        return bool(lib.emu_engine_deliver_interrupt(self._e, vector))

    @property
    def last_exception(self) -> tuple[int, int, int | None, int | None] | None:
        """Vector, RIP, error code and CR2 of the last exception."""
        e = self._e.last_exception
        if e.vector < 0:
            return None
        return e.vector, e.rip, e.code if e.has_code else None, e.address if e.has_address else None

    @last_exception.setter
    def last_exception(self, value: tuple[int, int, int | None, int | None] | None) -> None:
        e = self._e.last_exception
        if value is None:  # what there is before every recovery
            e.vector = -1
            return
        e.vector, e.rip, code, address = value
        e.has_code, e.code = code is not None, code or 0
        e.has_address, e.address = address is not None, address or 0

    # Running

    def take_over(self, cpu: int, slots: int, cpu_exit: int) -> None:
        """Put our functions in place of Unicorn's at host address ``slots``; once for each engine, before it runs.

        ``slots`` are two pointers: what the CPU object ``cpu`` calls when it begins to execute and when it has ended.
        ``cpu_exit`` is Unicorn's function that makes it end.
        """
        function = ffi.cast("void *", cpu_exit)
        lib.emu_engine_attach(self._e, ffi.cast("void *", cpu), ffi.cast("void *", slots), function)

    def run(self, pc: int) -> int:
        """Run from ``pc``; Unicorn's error number. ``reason`` says why it stopped; see also ``take_failure``.

        With a stop request that was not taken yet, nothing is executed and there is no reason.
        """
        assert self._e.cpu, "the engine was not taken over"
        _check(lib.emu_engine_prepare(self._e), "install the clock")
        return lib.emu_engine_run(self._e, pc)

    def take_failure(self) -> BaseException | None:
        """What ``ports`` raised during the last run, once."""
        failure, self._failure = self._failure, None
        return failure

    def fail(self, failure: BaseException) -> None:
        """From a callback: stop the engine and keep ``failure`` for ``take_failure``; the first one counts."""
        if self._failure is None:
            self._failure = failure
        lib.emu_engine_service(self._e)

    def request_stop(self) -> None:
        """Make ``run`` return, now or when it is next called; from any thread, also from a callback. Never lost."""
        lib.emu_engine_request_stop(self._e)

    @property
    def stop_function(self) -> tuple[int, int]:
        """Addresses of a C function and its argument that do what ``request_stop`` does.

        A signal handler may call it for a fault of the guest's code, when the faulting thread holds no lock of ours.
        """
        function = ffi.cast("uintptr_t", ffi.addressof(lib, "emu_engine_request_stop"))
        return int(function), int(ffi.cast("uintptr_t", self._e))

    def stop_before_block(self) -> None:
        """From a block hook that was added after ``watch_blocks``: a request that is taken before that block."""
        lib.emu_engine_stop_before_block(self._e)

    def take_stop(self) -> bool:
        """Whether a stop was requested since the last call."""
        return bool(lib.emu_engine_take_stop(self._e))

    @property
    def stop_asked(self) -> bool:
        """Whether ``take_stop`` would say so."""
        return bool(lib.emu_engine_stop_asked(self._e))

    # Port accesses whose answers are known, so that ``ports`` need not be asked

    def begin_known(self) -> None:
        """A run begins at the moment at which all such runs begin, with no port accessed."""
        if lib.emu_engine_begin_known(self._e):
            raise HostError("not enough memory for what devices answer", "close other programs")

    def end_known(self) -> None:
        """Ask ``ports`` from now on, until ``begin_known``."""
        lib.emu_engine_end_known(self._e)

    def learn_access(self, port: int, size: int, *, writes: bool, value: int, ends: bool) -> bool:
        """From now on, this access behind the run's accesses so far is known, and asks for a stop if it ``ends`` the
        run; it is the last one now. False when there is no room for it. Not after ``end_known``.
        """
        return bool(lib.emu_engine_learn_access(self._e, port, size, writes, value, ends))

    @property
    def known_at(self) -> int | None:
        """The number of the run's last access, 0 for none; they count up from there. None after ``end_known``."""
        at = self._e.known.at
        return None if at == lib.EMU_KNOWN_NOWHERE else at

    def service(self) -> None:
        """From a callback: leave ``run`` with SERVICE, behind the present block."""
        lib.emu_engine_service(self._e)

    @property
    def running(self) -> bool:
        return bool(lib.emu_engine_running(self._e))

    @property
    def reason(self) -> int:
        return self._e.reason

    @property
    def trap_flag(self) -> bool:
        """With SYSCALL: TF was set. It is clear in the flags, where Unicorn would have looked too early."""
        return bool(self._e.trap_flag)

    @property
    def vector(self) -> int:
        return self._e.vector

    def flush(self) -> None:
        """Forget all translated code. Not while running."""
        assert not self.running, _RUNNING
        _check(lib.emu_engine_flush(self._e), "drop translated code")

    # For a debugger

    def debug(self, instruction_blocks: int, universe: int) -> None:
        """Count blocks from now on, for the places below. At host address ``instruction_blocks`` is the word that makes
        each instruction a block; at offset ``universe`` of the CPU object, if that is not 0, is the one that tells
        translations of different kinds apart (``emu.cpu.universe``).
        """
        if lib.emu_engine_debug(self._e, instruction_blocks, universe):
            raise HostError("not enough memory for what a debugger needs", "close other programs")

    def stop_at(self, place: int) -> None:
        """Stop with STEP at ``place``, or the first instruction behind it. From callbacks, too."""
        lib.emu_engine_stop_at(self._e, place)

    def be_fine(self, place: int) -> None:
        """From ``place`` on, execute all blocks instruction by instruction."""
        lib.emu_engine_be_fine(self._e, place)

    def set_breakpoints(self, addresses: Iterable[int]) -> None:
        """Stop with BREAKPOINT before the instructions at these linear addresses."""
        ordered = sorted(addresses)
        self._breakpoints = ffi.new("uint64_t[]", ordered)
        lib.emu_engine_set_breakpoints(self._e, self._breakpoints, len(ordered))

    def meets_breakpoint(self, address: int) -> bool:
        """Whether it would stop before an instruction at linear ``address`` that it cannot fetch."""
        return bool(lib.emu_engine_meets_breakpoint(self._e, address))

    @property
    def place(self) -> int:
        """Of the instruction that begins next, while the guest stands still."""
        return lib.emu_engine_place(self._e)

    @property
    def place_announced(self) -> int:
        """Of the instruction that was announced last: while the guest runs, that is executed, or its whole block's."""
        return self._e.place

    @property
    def place_before(self) -> int:
        """The place of the instruction before the one announced last, as far as instructions were announced."""
        return self._e.before

    @property
    def single(self) -> bool:
        """Instructions are blocks now."""
        return bool(self._e.single)

    @property
    def block(self) -> tuple[int, int]:
        """Where the whole block begins in which the guest stands, and its size, which is 0 at a block's begin."""
        size = lib.emu_engine_block(self._e, self._scratch)
        return int(self._scratch[0]), int(size)

    def stand(self, place: int, block: tuple[int, int]) -> None:
        """The caller has taken CPU, clock and memory to another moment, where ``place`` and ``block`` were these."""
        _check(lib.emu_engine_stand(self._e, place, *block), "drop translated code")

    def interrupts(self, address: int, *, from_outside: bool) -> None:
        """Before an event is delivered: the instruction at linear ``address`` was begun, and is not met again as a
        breakpoint when the handler returns to it. Of an interrupt that is true between two turns of REP only.
        """
        lib.emu_engine_interrupts(self._e, address, from_outside)

    def hold(self, held: bool) -> None:
        """After BREAKPOINT or STEP: the next instruction begins before deadline, interrupt or breakpoint are looked at.

        They were looked at when it was announced.
        """
        lib.emu_engine_hold(self._e, held)

    def take_debug_reason(self) -> int:
        """BREAKPOINT, STEP or WATCH, once; 0 for none of them."""
        found = self._e.reason & (BREAKPOINT | STEP | WATCH)
        self._e.reason &= ~found
        return found

    @property
    def announced(self) -> bool:
        """The instruction at RIP was announced, and has not begun."""
        return bool(lib.emu_engine_announced(self._e))

    @property
    def held(self) -> bool:
        return bool(self._e.held)

    def pass_by(self, passing: bool) -> None:
        """Begin, or end, to go on where BREAKPOINT or WATCH would stop; not so for STEP."""
        lib.emu_engine_pass(self._e, passing)

    @property
    def passed(self) -> tuple[int, int]:
        """The last place where it would have stopped since it began to pass by; the reason, or 0."""
        reason = lib.emu_engine_passed(self._e, self._scratch)
        return int(self._scratch[0]), int(reason)

    @property
    def debug_functions(self) -> tuple[int, int, int, int]:
        """Addresses of three C functions and their argument: to stop with WATCH behind the instruction that is
        executed, to say that it begins again, and to ask where its block's code lies.
        """
        names = ("emu_engine_watch_met", "emu_engine_restarts", "emu_engine_spans")
        met, restarts, spans = (int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in names)
        return met, restarts, spans, int(ffi.cast("uintptr_t", self._e))

    # Clock

    def start_clock(self) -> None:
        """Let virtual time pass, and watch for deadlines and interrupts, from the next block on; from callbacks too."""
        lib.emu_engine_start_clock(self._e)

    @property
    def clock_started(self) -> bool:
        return bool(self._e.counting)

    def watch_blocks(self, *, testing: bool = False) -> None:
        """Install the block hook although time does not pass. With ``testing`` it asks for a stop in every block,
        and after the first 50,000 in one of 64.

        Block hooks that others add later see each block once, when it is executed, however often it is stopped before.
        """
        assert not self.running, _RUNNING
        lib.emu_engine_watch_blocks(self._e, testing)
        _check(lib.emu_engine_prepare(self._e), "watch blocks")

    def count_blocks(self, count: int, limit: int, function: int, argument: int) -> None:
        """Count the blocks that begin, in a number at the first address. From the number at the second on, the C
        function at the third is called for each, with the argument and the block's address. After ``watch_blocks``.
        """
        lib.emu_engine_count_blocks(self._e, count, limit, function, argument)

    def now(self) -> int:
        return lib.emu_engine_now(self._e)

    def look_at_clock(self) -> int:
        """As ``now``; while the guest runs, this starts the clock."""
        return lib.emu_engine_look_at_clock(self._e)

    def set_time(self, now: int) -> None:
        self._e.time = now

    def set_real_time(self) -> None:
        lib.emu_engine_set_real_time(self._e)

    def set_deadline(self, deadline: int) -> None:
        self._e.deadline = deadline

    def set_interrupt_pending(self, pending: bool) -> None:
        lib.emu_engine_set_interrupt_pending(self._e, pending)

    @property
    def clock(self) -> Clock:
        return Clock(self.clock_started, self.now(), bool(lib.emu_engine_announced(self._e)), int(self._e.last_block))

    @clock.setter
    def clock(self, value: Clock) -> None:
        lib.emu_engine_set_clock(self._e, *value)

    # Registers, by Unicorn's numbers

    def read(self, register: int) -> int:
        self._scratch[0] = 0
        _check(lib.emu_engine_read_register(self._e, register, self._scratch), "read a register")
        return int(self._scratch[0])

    def write(self, register: int, value: int) -> None:
        self._scratch[0] = value
        _check(lib.emu_engine_write_register(self._e, register, self._scratch), "write a register")

    def read_bytes(self, register: int, size: int, question: bytes = b"") -> bytes:
        """``size`` of at most 32 bytes of a wide register or of one of Unicorn's register structures.

        ``question`` fills the structure beforehand, for those that say in it what to read.
        """
        ffi.memmove(self._scratch, question, len(question))
        _check(lib.emu_engine_read_register(self._e, register, self._scratch), "read a register")
        return bytes(ffi.buffer(self._scratch, size))

    def write_bytes(self, register: int, value: bytes) -> None:
        ffi.memmove(self._scratch, value, len(value))
        _check(lib.emu_engine_write_register(self._e, register, self._scratch), "write a register")

    # Unicorn's own memory

    def watch_state(self, environment: int, eflags: int, hflags: int, halted: int = 0) -> None:
        """Tell where the CPU state is: its host address, the offsets of the flags and of those derived from them, and
        the host address of the word that HLT sets, without which there is no reason HALT.
        """
        self._e.env = ffi.cast("uint8_t *", environment)
        self._e.eflags_offset, self._e.hflags_offset = eflags, hflags
        self._e.halted = ffi.cast("uint32_t *", halted)

    def own_memory(self) -> bytes:
        """The bytes of Unicorn's engine structure."""
        return bytes(ffi.buffer(self._e.uc, lib.emu_allocation_size(self._e.uc)))

    # Instrumentation

    def add_hook(self, kind: int, function: int, user_data: int, begin: int, end: int) -> int:
        handle = ffi.new("uintptr_t *")
        error = lib.emu_engine_add_hook(self._e, handle, kind, function, user_data, begin, end)
        _check(error, "add a hook")
        return int(handle[0])

    def delete_hook(self, handle: int) -> None:
        _check(lib.emu_engine_delete_hook(self._e, handle), "remove a hook")


def know_delivery(places: Mapping[str, int], *, works: bool) -> None:
    """Tell where in the CPU state is what delivery needs, and whether it may be used at all."""
    names = (name for name, _ in ffi.typeof("emu_delivery_layout").fields)
    lib.emu_delivery_know(ffi.new("emu_delivery_layout *", {name: places[name] for name in names}), works)


def address_of(buffer: Any) -> int:
    """The host address of a writable buffer, which must stay alive and in place."""
    return int(ffi.cast("uintptr_t", ffi.from_buffer(buffer, require_writable=True)))


def peek(address: int, size: int) -> bytes:
    """Up to ``size`` bytes of this process at ``address``; shorter, even empty, where nothing is mapped."""
    buffer = ffi.new("char[]", size)
    return bytes(ffi.buffer(buffer, lib.emu_peek(address, buffer, size)))


def allocation(address: int) -> int:
    """The size of the block of memory that the C library's allocator gave out at ``address``."""
    return int(lib.emu_allocation_size(ffi.cast("void *", address)))


def words(address: int, kind: str) -> Any:
    """An indexable C pointer at host ``address``; ``kind`` is a C integer type such as ``uint64_t``."""
    return ffi.cast(f"{kind} *", address)


def function_at(address: int, signature: str) -> Callable[..., Any]:
    """What is callable as C type ``signature``, such as ``int(*)(uintptr_t)``, at host ``address``."""
    function: Callable[..., Any] = ffi.cast(signature, address)
    return function


def view(address: int, size: int) -> memoryview:
    """A writable view of ``size`` bytes at host ``address``; valid as long as that memory is."""
    return memoryview(ffi.buffer(ffi.cast("char *", address), size))


@ffi.def_extern()
def emu_port_read(owner: Pointer, port: int, size: int) -> int:
    engine: Engine = ffi.from_handle(owner)
    try:
        return engine.ports.port_read(port, size) & ((1 << 8 * size) - 1)
    except BaseException as failure:
        engine.fail(failure)
        return (1 << 8 * size) - 1


@ffi.def_extern()
def emu_port_write(owner: Pointer, port: int, size: int, value: int) -> None:
    engine: Engine = ffi.from_handle(owner)
    try:
        engine.ports.port_write(port, size, value)
    except BaseException as failure:
        engine.fail(failure)


@ffi.def_extern()
def emu_register_read(owner: Pointer, gpa: int, size: int) -> int:
    engine: Engine = ffi.from_handle(owner)
    try:
        assert engine.registers is not None
        return engine.registers.register_read(gpa, size) & ((1 << 8 * size) - 1)
    except BaseException as failure:
        engine.fail(failure)
        return (1 << 8 * size) - 1


@ffi.def_extern()
def emu_register_write(owner: Pointer, gpa: int, size: int, value: int) -> None:
    engine: Engine = ffi.from_handle(owner)
    try:
        assert engine.registers is not None
        engine.registers.register_write(gpa, size, value)
    except BaseException as failure:
        engine.fail(failure)
