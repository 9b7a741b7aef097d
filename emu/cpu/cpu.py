"""The CPU: one Unicorn engine made into a whole processor.

Unicorn executes instructions; this class adds what a machine needs around that: boot states, memory without holes,
exceptions and interrupts through the guest's IDT, SYSCALL, a deterministic clock, stops that are never lost, and a
state that can be saved.

Virtual time: one nanosecond for each byte of code in the basic blocks executed, about four per instruction; the time
stamp counter counts these nanoseconds. The hook that counts them is installed when first needed (a deadline, a pending
interrupt, a time stamp or clock read); before that time stands still, and nothing slows the guest down.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from emu.cpu import registers as r
from emu.cpu.delivery import Delivery, Fault, Source, TripleFault
from emu.cpu.engine import hooks, library
from emu.cpu.engine.layout import layout
from emu.cpu.memory import PhysicalMemory
from emu.cpu.paging import PageFault
from emu.cpu.saved import Architectural
from emu.cpu.state import CpuState, Places, Segment
from emu.cpu.stop import ExceptionRecord, Stop, StopKind
from emu.cpu.system_calls import enter_syscall, enter_sysenter
from emu.entry import Entry, Protected32
from emu.errors import EmuError, UsageError
from emu.hints import TYPE_CHECKING
from emu.memory import GuestMemory, Region
from emu.state import Apply, Fields, SavedState
from emu.units import PAGE, U64_MAX

if TYPE_CHECKING:
    from emu.cpu.sites import Site

MODELS = {"icelake-server": r.ICELAKE_SERVER}
"""Models that have CLWB and CLFLUSHOPT."""

_LONGEST_INSTRUCTION = 15
_INT1 = b"\xf1"
_STATE_KIND, _STATE_VERSION = "cpu", 2
_SELF_TEST = "EMU_STOP_EVERY_BLOCK"
"""Environment variable; with "1" every basic block is executed with a stop requested, which must change nothing."""
_SHOWN_EVERY = 16
"""Where the caller of ``run`` takes part in that, it sees this part of the stops, since it needs longer than we do."""


class Cpu:
    """One x86-64 processor. Not thread-safe, except ``request_stop``.

    It executes out of ``memory``, straight from and into the host memory of its regions, which must stay mapped until
    ``close``: what a guest store is worth is decided by how they were mapped. Stores to a read-only region, and to
    where there is none, are dropped.

    Exceptions and SYSCALL are delivered in C where that is plain; without ``native_delivery`` always in Python, which
    must make no difference but of speed.

    ``on_port_read(port, size)`` and ``on_port_write(port, size, value)`` answer I/O; assign them before running. What
    they raise comes out of ``run``, with the guest stopped behind the basic block of the I/O instruction.
    """

    def __init__(
        self,
        memory: GuestMemory,
        model: str = "icelake-server",
        *,
        real_time: bool = False,
        native_delivery: bool = True,
    ) -> None:
        if model not in MODELS:
            raise UsageError(f"there is no CPU model '{model}'", f"use one of {', '.join(MODELS)}")
        self.on_port_read: Callable[[int, int], int] = lambda port, size: (1 << 8 * size) - 1
        self.on_port_write: Callable[[int, int, int], None] = lambda port, size, value: None
        self._engine = library.open_engine(MODELS[model], _Ports(self))
        library.require_mended()
        self._state = CpuState(self._engine, layout())
        self._regions = memory
        self._memory = PhysicalMemory(self._engine, memory, self._state.system.host_wrote)
        self._delivery = Delivery(self._state, self._memory)
        self._native_delivery = native_delivery
        self._halted = False
        self._pending = False
        self._dead: Stop | None = None
        self._debug_stop: Stop | None = None
        self._want_flush = False
        self._deadline: int | None = None
        self._native_hooks: set[int] = set()
        self._watched = False
        self._self_test = os.environ.get(_SELF_TEST) == "1"
        self._self_tests = 0
        self.shows_self_test = False
        self._stop_between_blocks()
        self._engine.set_code_check(*self._state.system.code_check)
        if self._self_test:
            self._engine.watch_blocks(testing=True)
        if real_time:
            self._engine.set_real_time()
            self._engine.start_clock()
        self.enter(Protected32(0, 0, 0))
        memory.listen(self)

    def close(self) -> None:
        """Free the engine. The regions' host memory may go away afterwards, not before."""
        self._state.system.detach()
        self._engine.close()

    # Set-up

    def region_added(self, region: Region) -> None:
        """Guest memory has ``region`` now. A CPU that has run before needs a fresh engine, so native hooks come after.

        UsageError when the region is not whole pages, EmuError when there are native hooks.
        """
        if not self._memory.holes_filled:
            self._memory.show(region)
            self._deliver_in(region)
            return
        self._must_not_be_watched("added")
        self._memory.check(region)
        self._reopen()
        self._deliver_in(region)

    def region_removed(self, region: Region) -> None:
        """Guest memory has ``region`` no more; EmuError when there are native hooks."""
        self._must_not_be_watched("removed")
        self._engine.forget_ram()
        self._reopen()
        for other in self._regions.regions:
            self._deliver_in(other)

    def _must_not_be_watched(self, what: str) -> None:
        if self._native_hooks or self._watched:
            raise EmuError(
                f"memory cannot be {what} while native hooks are installed, or the guest is recorded or debugged",
                "do it before, or without them",
            )

    def _deliver_in(self, region: Region) -> None:
        """Let the engine deliver exceptions by itself where nobody else has to know of what it stores."""
        if self._native_delivery and region.kind == "ram" and not region.drops_stores:
            self._engine.add_ram(region.gpa, region.size, region.host_address)

    @property
    def last_exception(self) -> ExceptionRecord | None:
        """What the guest raised last."""
        found = self._engine.last_exception
        return None if found is None else ExceptionRecord(*found)

    @last_exception.setter
    def last_exception(self, value: ExceptionRecord | None) -> None:
        self._engine.last_exception = value

    def _stop_between_blocks(self) -> None:
        """Tell a new engine to stop between basic blocks only; see ``emu.cpu.engine.whole_blocks``."""
        hooks.view(self._engine.handle + layout().whole_blocks, 1)[0] = 1

    def _reopen(self) -> None:
        registers = Architectural.capture(self._state)
        self._engine.reopen()
        self._state.attach()
        self._memory.show_again()
        self._stop_between_blocks()
        registers.apply(self._state)

    def enter(self, entry: Entry) -> None:
        """Put the CPU in a boot state, as after a reset; memory and virtual time stay as they are."""
        self._load(Architectural.at_entry(entry))
        self._halted = False

    def _load(self, registers: Architectural) -> None:
        registers.apply(self._state)
        self._want_flush = True
        self._dead = None
        self._debug_stop = None
        self._engine.hold(False)
        self.last_exception = None
        self._engine.clock = self._engine.clock._replace(announced=False)

    # Running

    def run(self) -> Stop:
        """Execute until something needs the caller; see ``StopKind``."""
        while True:
            stop = self._stop_now()
            if stop is not None:
                return stop
            if not self._memory.holes_filled:
                self._memory.fill_holes()
            if self._want_flush:
                self._engine.flush()
                self._want_flush = False
            error = self._engine.run(self._state.rip)
            self._after(error, self._engine.reason)
            failure = self._engine.take_failure()
            if failure is not None:
                raise failure
            if self._debug_stop is not None and self._dead is None:
                return self._take_debug_stop()
            if self._self_test and self.shows_self_test:
                self._self_tests += 1
                if self._self_tests % _SHOWN_EVERY == 0:
                    return self._stop(StopKind.REQUESTED)

    def _stop_now(self) -> Stop | None:
        if self._engine.take_stop():
            return self._stop(StopKind.REQUESTED)
        if self._dead is not None:
            return self._dead
        if self._debug_stop is not None:
            return self._take_debug_stop()
        if self._engine.held:
            return None
        if self._pending and self.interrupts_enabled:
            return self._stop(StopKind.INTERRUPT_WINDOW)
        if self._deadline is not None and self._engine.now() >= self._deadline:
            return self._stop(StopKind.TIMER)
        if self._halted:
            return self._stop(StopKind.HALT)
        return None

    def _stop(self, kind: StopKind, detail: str = "", exception: ExceptionRecord | None = None) -> Stop:
        enabled = bool(self._state.flags & r.IF)
        return Stop(kind, self._state.rip, interrupts_enabled=enabled, exception=exception, detail=detail)

    def _after(self, error: int, reason: int) -> None:
        """Deal with what the engine stopped for."""
        if reason & (hooks.SYSCALL | hooks.SYSENTER):
            self._system_call(reason)
        elif reason & (hooks.EXCEPTION | hooks.INVALID_OPCODE):
            self._raise_exception(self._engine.vector, bool(reason & hooks.EXCEPTION))
        elif error:
            what = f"the guest executes at {self._state.rip:#x}, where it cannot: {hooks.describe(error)}"
            self._dead = self._stop(StopKind.BAD_STATE, what, self.last_exception)
        elif reason & hooks.HALT:
            self._halted = True
        self._look_for_debug_stop()

    def _look_for_debug_stop(self) -> None:
        """Keep what ``Debugging`` asked for, until ``run`` returns it: where the guest has come to by now."""
        reason = self._engine.take_debug_reason()
        if reason & hooks.WATCH:
            self._debug_stop = self._stop(StopKind.WATCH)._replace(watched=self._state.system.met[0])
        elif reason:
            self._debug_stop = self._stop(StopKind.BREAKPOINT if reason & hooks.BREAKPOINT else StopKind.STEP)

    def _take_debug_stop(self) -> Stop:
        stop, self._debug_stop = self._debug_stop, None
        assert stop is not None
        return stop

    def _raise_exception(self, vector: int, known_to_engine: bool) -> None:
        state = self._state
        software = known_to_engine and state.is_software
        state.clear_latch()
        code = (state.error_code if known_to_engine else 0) if vector in r.WITH_ERROR_CODE and not software else None
        if vector == r.GP and code == 0 and self._is_stack_fault():
            vector = r.SS_FAULT
        elif vector == r.UD and not software and self._code(1) == _INT1:  # which the engine does not know
            vector = r.DB
            state.rip += 1
        cr2 = self._engine.read(r.CR2) if vector == r.PF and not software else None
        if cr2 is not None and cr2 == self._linear_rip and self._engine.meets_breakpoint(cr2):
            self._debug_stop = self._stop(StopKind.BREAKPOINT)
            return
        self._deliver(Fault(vector, code, cr2), Source.SOFTWARE if software else Source.EXCEPTION)

    def _is_stack_fault(self) -> bool:
        """Whether #GP(0) is what the engine makes of a stack reference to an address that is not canonical."""
        if not self._state.code64:
            return False
        from emu.cpu.stack_fault import is_stack_fault

        canonical = self._delivery.paging().canonical
        return is_stack_fault(self._code(_LONGEST_INSTRUCTION), self._linear_rip, self._engine.read, canonical)

    def _code(self, most: int) -> bytes:
        """Of the bytes at RIP up to ``most``, and all of the instruction; none where they are no longer mapped."""
        at = self._linear_rip
        for size in (most, min(most, PAGE - at % PAGE)):
            try:
                return self._delivery.paging().read(self._memory, at, size, mark=False)
            except PageFault:
                continue
        return b""

    @property
    def _linear_rip(self) -> int:
        return self._state.rip + self._state.segment(r.CS).base & U64_MAX

    def _system_call(self, reason: int) -> None:
        """Enter the kernel; when single-stepping, the trap comes behind the entry, by the flags that it leaves."""
        state = self._state
        if reason & hooks.EXCEPTION:  # the engine's own single-step trap behind SYSENTER, which it takes for a no-op
            state.clear_latch()
        if reason & hooks.SYSCALL and self._engine.trap_flag:
            state.flags |= r.TF
        try:
            (enter_syscall if reason & hooks.SYSCALL else enter_sysenter)(state)
        except Fault as fault:
            self._deliver(fault, Source.EXCEPTION)
            return
        if state.flags & r.TF:
            self._engine.write(r.DR6, self._engine.read(r.DR6) | r.DR6_BS)
            self._deliver(Fault(r.DB), Source.EXCEPTION)

    def _deliver(self, fault: Fault, source: Source) -> None:
        if source is Source.EXCEPTION:
            self.last_exception = ExceptionRecord(fault.vector, self._state.rip, fault.error_code, fault.cr2)
        if self._delivery.on_push is not None and source is not Source.SOFTWARE and fault.vector != r.DB:
            self._engine.interrupts(self._linear_rip, from_outside=source is Source.EXTERNAL)
        if self._engine.clock_started:
            self._engine.set_time(self._engine.now() + hooks.DELIVERY_NS)
        if source is Source.EXTERNAL and self._engine.deliver_interrupt(fault.vector):
            return
        try:
            self._delivery.deliver(fault, source)
        except TripleFault:
            record = self.last_exception or ExceptionRecord(fault.vector, self._state.rip)
            self._dead = self._stop(StopKind.TRIPLE_FAULT, f"triple fault after {record}", record)

    def request_stop(self) -> None:
        """Make ``run`` return REQUESTED: the current call, or the next one. From any thread and from callbacks.

        The basic block that is being executed is executed to its end, with every callback.
        """
        self._engine.request_stop()

    def stop_before_block(self) -> None:
        """From a native block hook: as ``request_stop``, but the block that the hook announces is not executed yet."""
        self._engine.stop_before_block()

    @property
    def stop_function(self) -> tuple[int, int]:
        """Addresses of a C function and its argument that do the same as ``request_stop``, for a signal handler."""
        return self._engine.stop_function

    # Interrupts

    @property
    def interrupts_enabled(self) -> bool:
        """The guest would take an interrupt right now: IF is set and no STI or SS shadow holds it back."""
        return bool(self._state.flags & r.IF) and not self._state.shadow

    @property
    def halted(self) -> bool:
        """The guest waits in HLT."""
        return self._halted

    def set_interrupt_pending(self, pending: bool) -> None:
        """Say whether an interrupt waits; ``run`` then returns INTERRUPT_WINDOW when it can be taken.

        From callbacks too. The first call with True starts the clock.
        """
        self._pending = pending
        self._engine.set_interrupt_pending(pending)
        if pending:
            self._engine.start_clock()

    def raise_interrupt(self, vector: int) -> None:
        """Deliver an external interrupt through the guest's IDT; ends HLT. Only while ``interrupts_enabled``."""
        if not 0 <= vector <= 255 or not self.interrupts_enabled or self._engine.running:
            raise EmuError(f"interrupt {vector} raised while the guest cannot take it", "report this as a bug")
        self._halted = False
        self._deliver(Fault(vector), Source.EXTERNAL)
        self._look_for_debug_stop()

    # Time

    def now(self) -> int:
        """Nanoseconds since power-on. Asked from a callback, this starts the virtual clock."""
        return self._engine.look_at_clock()

    @property
    def time_passes(self) -> bool:
        """Somebody has asked for the time: from then on it is never the same again."""
        return self._engine.clock_started

    def set_deadline(self, deadline: int | None) -> None:
        """``run`` returns TIMER at the first basic block at or after ``deadline`` (absolute, ns); None for never."""
        self._deadline = deadline
        self._engine.set_deadline(min(deadline, hooks.NO_DEADLINE) if deadline is not None else hooks.NO_DEADLINE)
        if deadline is not None:
            self._engine.start_clock()

    def advance_to(self, now: int) -> None:
        """Let virtual time pass while the guest waits in HLT; never backwards."""
        self._engine.set_time(max(now, self._engine.now()))

    # Looking and saving

    def invalidate(self, gpa: int, size: int) -> None:
        """The host changed guest memory at ``gpa``: forget code translated from it, before the next basic block."""
        if size > 0 and not self._want_flush:
            self._want_flush = True
            self._engine.service()

    def written(self, gpa: int, data: bytes) -> None:
        """``data`` was stored at ``gpa`` by others than the guest: as ``invalidate``, when there is code to forget."""
        if any(self._state.system.has_code(*span) for span in self._memory.spans(gpa, len(data))):
            self.invalidate(gpa, len(data))

    def take_code_change(self) -> bool:
        """Since it was last asked, the guest has executed from new pages, or stored to pages that it executed from. If
        not, none of the memory that it stored to has code that ``restored`` would forget.
        """
        return self._state.system.take_code_change()

    def restored(self, host_address: int, size: int) -> None:
        """The caller put back guest memory at ``host_address``, whole pages: forget just the code from there, at once.

        Only while the guest stands still.
        """
        system = self._state.system
        if system.has_code(host_address, size):
            for page in range(host_address, host_address + size, PAGE):
                system.host_wrote(page, PAGE)

    def registers(self) -> dict[str, int]:
        """General registers, ``rip``, ``rflags``, selectors, segment bases, control registers and ``efer``."""
        state = self._state
        values = {name: state.general(number) for number, name in enumerate(r.GENERAL)}
        values |= {"rip": state.rip, "rflags": state.flags}
        segments = {name: state.segment(number) for number, name in enumerate(r.SEGMENTS)}
        values |= {name: segment.selector for name, segment in segments.items()}
        values |= {f"{name}_base": segment.base for name, segment in segments.items()}
        values |= {
            f"cr{n}": self._engine.read(number) for n, number in ((0, r.CR0), (2, r.CR2), (3, r.CR3), (4, r.CR4))
        }
        return values | {"efer": state.msr(r.MSR_EFER)}

    def set_register(self, name: str, value: int) -> None:
        """Set a general register, ``rip`` or ``rflags`` of the stopped CPU; UsageError for any other name or value."""
        if not 0 <= value <= U64_MAX:
            raise UsageError(f"{value:#x} does not fit in register {name}", "give an unsigned 64-bit value")
        if name in r.GENERAL:
            self._state.set_general(list(r.GENERAL).index(name), value)
        elif name == "rip":
            self._state.rip = value
            self._halted = False
        elif name == "rflags":
            self._state.flags = value
        else:
            raise UsageError(f"register {name} cannot be set", f"use rip, rflags or {', '.join(r.GENERAL)}")

    def segment(self, name: str) -> Segment:
        """The segment register ``name`` (``cs``, ``ds`` ...) with its hidden part."""
        return self._state.segment(list(r.SEGMENTS).index(name))

    @property
    def mode(self) -> int:
        """The width of the code being executed, in bits: 16, 32 or 64."""
        if self._state.code64:
            return 64
        return 32 if self._state.segment(r.CS).flags & 1 << 22 else 16

    def read_linear(self, address: int, size: int) -> bytes:
        """Guest memory at a linear address, as the guest's page tables map it now; UsageError where they do not."""
        try:
            return self._delivery.paging().read(self._memory, address, size, mark=False)
        except PageFault as exc:
            raise UsageError(f"the guest maps nothing at linear address {exc.address:#x}", "give another one") from None

    def translate(self, address: int) -> int | None:
        """The guest-physical address behind a linear one; None where the guest's page tables map nothing."""
        try:
            return self._delivery.paging().translate(self._memory, address, mark=False)
        except PageFault:
            return None

    def save(self) -> SavedState:
        """The architectural state, the clock and whether the guest halts; not the memory."""
        clock = self._engine.clock
        own = {
            "now": clock.now,
            "clock_started": clock.started,
            "block_charged": clock.announced,
            "last_block": clock.last_block,
            "halted": self._halted,
        }
        return SavedState(_STATE_KIND, _STATE_VERSION, Architectural.capture(self._state).fields() | own)

    def parse(self, state: SavedState) -> Apply:
        """See ``Saveable``. Who applies it sets deadlines again."""
        fields = Fields(state, kind=_STATE_KIND, version=_STATE_VERSION)
        registers = Architectural.from_fields(fields)
        clock = hooks.Clock(
            now=fields.integer("now"),
            started=fields.boolean("clock_started"),
            announced=fields.boolean("block_charged"),
            last_block=fields.integer("last_block"),
        )
        halted = fields.boolean("halted")
        fields.finish()

        def apply() -> None:
            self._load(registers)
            self._engine.clock = clock._replace(started=clock.started or self._engine.clock_started)
            self._halted = halted

        return apply

    # Instrumentation

    @property
    def engine(self) -> int:
        """Unicorn's handle of the engine, for hooks written in C.

        Who adds block hooks asks ``watch_blocks`` before.
        """
        return self._engine.handle

    def watch_blocks(self) -> None:
        """Put the CPU's own block hook before those of others, so that they see each block once."""
        self._engine.watch_blocks()

    def count_blocks(self, counter: tuple[int, int, int, int]) -> None:
        """Count the blocks that begin, quicker than by one more hook: addresses of the count, of the number from which
        on a C function is called for each, of that function and of its argument.
        """
        self._engine.watch_blocks()
        self._engine.count_blocks(*counter)

    @property
    def rip(self) -> int:
        return self._state.rip

    @property
    def paging_enabled(self) -> bool:
        return bool(self._engine.read(r.CR0) & r.CR0_PG)

    def linear_address(self, site: Site) -> int:
        """The linear address of the memory operand of ``site``, were it executed now."""
        address = site.displacement
        address += self._engine.read(site.base) if site.base else 0
        address += self._engine.read(site.index) * site.scale if site.index else 0
        base = self._state.segment(site.segment - 1).base if site.segment else 0
        return (address & site.address_mask) + base & site.linear_mask

    @property
    def places(self) -> Places:
        """Where the engine keeps the CPU's state, as long as it lives."""
        return self._state.places

    def watch(
        self,
        on_fault: Callable[[int], None],
        on_write: Callable[[int, bytes], None],
        native_on_fault: tuple[int, int] = (0, 0),
        on_read: Callable[[int, int], None] | None = None,
    ) -> None:
        """Tell what no hook sees. ``on_fault(rip)``: the instruction there raised an exception; its delivery begins.
        ``on_write(gpa, data)``: that delivery, or a page walk for it, has just stored ``data`` within one page, or is
        about to read there (``on_read(gpa, size)``); not told of RAM. ``native_on_fault``: addresses of a C function
        and of its first argument that do what ``on_fault`` does; with it, delivery stays in C.
        """
        self._watched = True
        self._engine.watch_faults(*native_on_fault)
        self._delivery.on_fault = on_fault
        self._memory.on_write, self._memory.on_read = on_write, on_read

    def add_native_hook(self, kind: int, function: int, user_data: int, begin: int = 1, end: int = 0) -> int:
        """Install the C callback at address ``function`` for Unicorn's hook ``kind``; a handle for ``remove_hook``.

        ``begin`` > ``end`` means everywhere. Code translated before is translated again, so that it is seen.
        """
        self._engine.watch_blocks()
        handle = self._engine.add_hook(kind, function, user_data, begin, end)
        self._native_hooks.add(handle)
        self.invalidate(0, 1)
        return handle

    def add_instruction_hook(self, address: int, function: int) -> int:
        """Call the C function at the address ``function`` before each execution of the instruction at ``address``."""
        return self.add_native_hook(hooks.CODE_HOOK, function, 0, address, address)

    def remove_hook(self, handle: int) -> None:
        self._engine.delete_hook(handle)
        self._native_hooks.discard(handle)
        self.invalidate(0, 1)


class _Ports:
    """Forwards to the CPU's callbacks, which may be assigned at any time."""

    def __init__(self, cpu: Cpu) -> None:
        self._cpu = cpu

    def port_read(self, port: int, size: int) -> int:
        return self._cpu.on_port_read(port, size)

    def port_write(self, port: int, size: int, value: int) -> None:
        self._cpu.on_port_write(port, size, value)
