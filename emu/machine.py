"""The machine: life cycle and run loop.

One thread runs the guest (the caller of ``run``). Everything else - a monitor, a signal, a migration, a timer - talks
to it through ``call``, ``end``, ``pause``, ``resume`` and ``reset``, which may be used from any thread: they stop the
CPU between two basic blocks and take effect between two slices.

Rules that keep this free of races:

- What the loop decides by (exit, reset, pause, queued calls) changes only under ``_changed``, and who changes it then
  notifies the condition and stops the CPU. A stop request is never lost, so no slice starts in ignorance of it.
- The end is final: the first request counts, and afterwards the machine is neither paused nor resumed.
- A call is always answered: by the loop, at its end by what runs in ``finally``, without a loop by the caller's own
  thread, which holds the lock meanwhile, so that no loop can start under it.
- The guest is booted once, by whoever comes first: the loop, or someone who was told to let it run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from emu.config import Clock, MachineConfig, NvdimmConfig, RunOptions
from emu.cpu import DEBUG_STOPS, Stop, StopKind
from emu.devices.contract import ExitRequest
from emu.entry import Entry
from emu.enumeration import StrEnum
from emu.errors import EmuError, Status, UsageError
from emu.hints import TYPE_CHECKING, Any, Protocol, TypeVar
from emu.host import faults
from emu.memory import Backend
from emu.parts import Parts, PluggedNvdimm
from emu.record import NamedTuple
from emu.state import Saveable, SavedState, parse_all

if TYPE_CHECKING:
    from emu.cpu.debugging import Debugging
    from emu.host.claims import Claims

T = TypeVar("T")
_FOREVER = None
GUEST_RESET = "guest-reset"


class RunState(StrEnum):
    """QEMU's run states, as far as this machine has them."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    DEBUG = "debug"
    INMIGRATE = "inmigrate"
    FINISH_MIGRATE = "finish-migrate"
    POSTMIGRATE = "postmigrate"
    SHUTDOWN = "shutdown"
    GUEST_PANICKED = "guest-panicked"


class _Call:
    """A function that one thread has another one run. A Future of ``concurrent.futures`` would bring ``logging``."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._over = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()

    def result(self) -> Any:
        """What the function returned, once it has; raises what it raised."""
        self._over.wait()
        if self._error is not None:
            raise self._error
        return self._result


class Exit(NamedTuple):
    """How a run ended: the reason, the exit status of the process, and the value written to an exit port if any.

    Reasons: power-off, exit-port, halt, reset, panic, triple-fault, exception, timeout, interrupted, power-failure,
    quit, migrated, host-error (``run`` raised it). ``cause`` says of a reset who asked for it.
    """

    reason: str
    status: int
    code: int | None = None
    detail: str = ""
    cause: str = ""


class Observer(Protocol):
    """Someone who is told of the machine's life (the monitor's events). Called in the machine's thread."""

    def machine_event(self, name: str, data: Mapping[str, Any]) -> None: ...


class HotPlug(Protocol):
    """Where NVDIMMs go (the board's slots)."""

    def plug_backend(self, config: NvdimmConfig, backend: Backend, *, hot: bool) -> PluggedNvdimm: ...


class Firmware(Protocol):
    """What happens before the guest's first instruction."""

    @property
    def bootable(self) -> bool:
        """Whether there is an image."""

    @property
    def tables(self) -> Mapping[str, bytes]:
        """The ACPI tables by signature, as last made: when the machine was built, or at its last start."""

    def start(self) -> Entry:
        """Make RAM what it is at power-on, with tables and image in it; where the CPU starts. Also at every reset."""


class Requests:
    """What is asked of a machine while its loop runs: to end, to reset. From any thread, and from devices.

    ``changed`` guards the answers and whatever else the loop decides by; ``stop`` makes the CPU come out.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.exit: Exit | None = None
        self.reset_cause: str | None = None
        self._stop = stop

    def end(self, request: ExitRequest) -> None:
        """End the run with ``request``; the first request wins."""
        with self.changed:
            if self.exit is None:
                self.exit = Exit(*request)
            self.wake()

    def reset(self, cause: str = GUEST_RESET) -> None:
        """Reset the machine. ``cause``: who asks for it, a word of QEMU's ShutdownCause, for the event."""
        with self.changed:
            self.reset_cause = cause
            self.wake()

    def wake(self) -> None:
        """Make the loop look; whoever holds ``changed`` calls it after a change."""
        self.changed.notify_all()
        self._stop()


class Machine:
    """A machine that runs what a board has put together. A context manager: ``close`` frees the parts."""

    def __init__(
        self,
        config: MachineConfig,
        options: RunOptions,
        parts: Parts,
        requests: Requests,
        firmware: Firmware,
        slots: HotPlug,
    ) -> None:
        self.config = config
        self.options = options
        self.cpu = parts.cpu
        self.memory = parts.memory
        self.bus = parts.bus
        self.pic = parts.pic
        self.devices = parts.devices
        self.nvdimms = parts.nvdimms
        self.backends = parts.backends
        self.spares = parts.spares
        self.output_files: Sequence[str] = ()
        self.firmware = firmware
        self.slots = slots
        self.observers: list[Observer] = []
        self.state = RunState.PRELAUNCH
        self.debug_stop: Stop | None = None
        self.on_debug_stop: Callable[[Stop], Stop | None] = lambda stop: stop
        self._debugging: Debugging | None = None
        self._died: Stop | None = None
        self._parts = parts
        self._timed = parts.timed
        self._clock_ports = parts.clock_ports
        self._requests = requests
        self._changed = requests.changed
        self._booted = False
        self._used = False
        self._paused_as: RunState | None = RunState.PRELAUNCH if options.start_paused else None
        self._calls: deque[_Call] = deque()
        self._loop_thread: int | None = None
        self.cpu.shows_self_test = True
        self.cpu.on_port_read = self.bus.read
        self.cpu.on_port_write = self._port_write

    def claims(self) -> Claims:
        """The files in use: image, memory, plugged or spare, and ``output_files``, which the guest's output goes to.
        None of them may become an output of anything else.
        """
        from emu.host.claims import claims_of_machine

        memory = (backend.config for backend in (*self.backends, *self.spares.values()))
        return claims_of_machine(self.config, memory, self.output_files)

    # -- what other threads may use ---------------------------------------------------------------------------------

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` in the machine's thread between two slices and return what it returns (or raises).

        Without a running loop, or from the machine's own thread, it runs at once. Also once the machine has ended, so a
        function that needs a live one looks at ``exit``.
        """
        with self._changed:
            if self._loop_thread in (None, threading.get_ident()):
                return function()
            call = _Call(function)
            self._calls.append(call)
            self._requests.wake()
        result: T = call.result()
        return result

    def end(self, request: ExitRequest) -> None:
        """End the run with ``request``; the first request wins."""
        self._requests.end(request)

    def pause(self, state: RunState = RunState.PAUSED) -> None:
        """Stop the guest; returns when it stands still. ``state`` is the run state shown meanwhile.

        Before the start: it will stand still when the loop begins. After the end: nothing.
        """

        def stop() -> None:
            if self.exit is not None:
                return
            was_running = self._paused_as is None
            self._paused_as = self.state = state
            if was_running:
                self._tell("STOP", {})

        self.call(stop)

    def resume(self) -> None:
        """Let the guest go on after ``pause`` or a paused start; after the end: nothing."""

        def go() -> None:
            if self._paused_as is not None and self.exit is None:
                self._paused_as = None
                self.state = RunState.RUNNING
                if self._debugging is not None and self.debug_stop is not None:
                    self._debugging.go_on(self.debug_stop)
                self.debug_stop = None
                self._tell("RESUME", {})

        self.call(go)

    def reset(self, cause: str = GUEST_RESET) -> None:
        """Reboot: devices to their power-on state, RAM cleared, image loaded again; NVDIMM contents stay.

        ``cause``: who asks for it, a word of QEMU's ShutdownCause, for the event.
        """
        self._requests.reset(cause)

    def debug(self) -> Debugging:
        """What debugs the guest's CPU, from the first call on. Use it between slices (``call``).

        At a stop that it asks for, the machine is paused as ``RunState.DEBUG`` and ``debug_stop`` says why.
        ``on_debug_stop`` may change that stop, or go on by itself with None; in the machine's thread.
        """
        if self._debugging is None:
            from emu.cpu.debugging import Debugging

            self._debugging = Debugging(self.cpu)
        return self._debugging

    @property
    def exit(self) -> Exit | None:
        """How the run ended, or None while it has not."""
        return self._requests.exit

    @property
    def tables(self) -> Mapping[str, bytes]:
        """The ACPI tables by signature, as the guest finds them."""
        return self.firmware.tables

    @property
    def paused(self) -> bool:
        return self._paused_as is not None

    # -- the run loop -----------------------------------------------------------------------------------------------

    def run(self, timeout: float | None = None) -> Exit:
        """Run until the guest, the user or the clock ends it. ``timeout`` is in seconds of real time, pauses included.

        HostError when a backing file loses its storage under the guest; whatever this raises, ``exit`` says that the
        machine has ended.
        """
        with self._changed:
            if self._loop_thread is not None:
                raise EmuError("the machine runs already", "call run() once")
            self._loop_thread = threading.get_ident()
        timer = None
        if timeout is not None:
            request = ExitRequest("timeout", Status.TIMEOUT, None, f"the guest was still running after {timeout:g} s")
            timer = threading.Timer(timeout, self.end, [request])
            timer.daemon = True
            timer.start()
        # A page that its file stopped backing stops the guest at once, not when it next needs us.
        faults.set_stop(*self.cpu.stop_function)
        try:
            self.boot()
            while (ended := self.step()) is None:
                pass
            return ended
        except BaseException as error:
            status = error.status if isinstance(error, EmuError) else Status.BUG
            self.end(ExitRequest("host-error", status, None, str(error)))
            raise
        finally:
            faults.set_stop(0, 0)
            if timer is not None:
                timer.cancel()
            with self._changed:
                self._loop_thread = None
                self.state = RunState.SHUTDOWN
                self._run_calls()
            assert self.exit is not None
            self._tell("SHUTDOWN", {"reason": self.exit.reason, "cause": self.exit.cause})

    def boot(self) -> None:
        """Power on: load the image and put the CPU at its entry. Once, and not where a migration brings the state."""
        with self._changed:
            if self._booted or self.state is RunState.INMIGRATE:
                return
            if not self.firmware.bootable:
                raise UsageError("this machine has no image to boot", "start it with an image, or with -incoming")
            self.cpu.enter(self.firmware.start())
            self._booted = True
            if self._paused_as is None:
                self.state = RunState.RUNNING

    def step(self) -> Exit | None:
        """One slice of the run loop, for those who drive the machine themselves; how it ended, once it has."""
        self._between_slices()
        if self.exit is None:
            self._slice()
        return self.exit

    @property
    def is_quiet(self) -> bool:
        """No interrupt waits, and no device has anything to do before the guest next accesses one."""
        return not self.pic.pending() and self._next_event() is None

    def run_quiet(self) -> Stop:
        """Where nothing but the guest's doings can happen: let it run until something needs the caller, which may be
        ``step``. To start with, it was quiet, and ``be_quiet`` was called since devices were put back.
        """
        self._used = True
        stop = self.cpu.run()
        self._check_backends()
        return stop

    def be_quiet(self) -> None:
        """Let the CPU know that it is quiet."""
        self.cpu.set_interrupt_pending(False)
        self.cpu.set_deadline(None)

    def go_on(self) -> None:
        """Forget that the run was ended from outside, between two slices. A reset that was asked for is still due."""
        with self._changed:
            self._requests.exit = None
            self.state = self._paused_as or RunState.RUNNING

    def rewind(self, devices: Mapping[str, SavedState]) -> None:
        """Forget that the run ended and put back ``devices``, all of them or, by StateError, none and nothing else.

        The caller puts back the CPU and the memory.
        """
        self.rewinder(devices)()

    def rewinder(self, devices: Mapping[str, SavedState]) -> Callable[[], None]:
        """What does as ``rewind`` any number of times, the states looked at once."""
        applies = parse_all({name: part for name, part in self.devices.items() if name in devices}, devices)

        def rewind() -> None:
            with self._changed:
                self._requests.exit = None
                self._requests.reset_cause = None
                self.state = RunState.RUNNING
            for apply in applies:
                apply()

        return rewind

    def _between_slices(self) -> None:
        with self._changed:
            while self.exit is None:
                self._run_calls()
                if (cause := self._requests.reset_cause) is not None:
                    self._requests.reset_cause = None
                    self._do_reset(cause)
                elif self._paused_as is not None:
                    self._changed.wait()
                else:
                    return

    def _slice(self) -> None:
        self._used = True
        now = self.cpu.now()
        for device in self._timed:
            device.catch_up(now)
        self.cpu.set_interrupt_pending(self.pic.pending())
        self.cpu.set_deadline(self._next_event())
        stop = self.cpu.run()
        self._check_backends()
        match stop.kind:
            case StopKind.HALT if stop.interrupts_enabled:
                self._wait_for_interrupt()
            case StopKind.HALT:
                self.end(ExitRequest("halt", Status.OK, None, ""))
            case StopKind.INTERRUPT_WINDOW:
                if self.pic.pending():
                    self.cpu.raise_interrupt(self.pic.acknowledge())
            case StopKind.TRIPLE_FAULT | StopKind.BAD_STATE if self._debugging is not None and self._died != stop:
                self._died = stop  # a debugger may look at it; when it goes on, it ends
                self._stop_for_debugger(stop)
            case StopKind.TRIPLE_FAULT:
                self._guest_died("triple-fault", stop)
            case StopKind.BAD_STATE:
                self._guest_died("exception", stop)
            case kind if kind in DEBUG_STOPS:
                self._stop_for_debugger(stop)
            case StopKind.REQUESTED | StopKind.TIMER:
                pass

    def _stop_for_debugger(self, found: Stop) -> None:
        stop = self.on_debug_stop(found)
        if stop is None:
            return
        self.debug_stop = stop
        self._paused_as = self.state = RunState.DEBUG
        self._tell("STOP", {})

    def _wait_for_interrupt(self) -> None:
        """The CPU is halted with interrupts on: let time pass until a device has one, or someone asks for something."""
        events = 0
        while not self.pic.pending():
            with self._changed:
                if self.exit is not None or self._calls or self._requests.reset_cause is not None:
                    return
                event = self._next_event()
                if self.options.patience is not None and (event is None or events >= self.options.patience):
                    detail = "the guest waits in hlt for an interrupt that does not come"
                    self.end(ExitRequest("timeout", Status.TIMEOUT, None, detail))
                    return
                events += 1
                if event is None or self.config.clock is Clock.REAL:
                    self._changed.wait(_FOREVER if event is None else max(0, event - self.cpu.now()) / 1e9)
                else:
                    self.cpu.advance_to(event)
            now = self.cpu.now()
            for device in self._timed:
                device.catch_up(now)
        self.cpu.raise_interrupt(self.pic.acknowledge())

    def _next_event(self) -> int | None:
        return min((event for device in self._timed if (event := device.next_event()) is not None), default=None)

    def _run_calls(self) -> None:
        while self._calls:
            self._calls.popleft().run()

    def _guest_died(self, reason: str, stop: Stop) -> None:
        self.state = RunState.GUEST_PANICKED
        self.end(ExitRequest(reason, Status.GUEST_CRASHED, None, stop.detail))

    def _check_backends(self) -> None:
        for mapping in [backend.mapping for backend in self.backends]:
            lost = mapping.lost()
            if lost is not None:
                mapping.check(self.memory.address_of(mapping, lost))

    def _do_reset(self, cause: str) -> None:
        if self.options.no_reboot:
            self.end(ExitRequest("reset", Status.OK, cause=cause))
            return
        if not self.firmware.bootable:
            raise UsageError(
                "this machine has no image to boot again", "it came from a migration; start it with an image"
            )
        for device in self.devices.values():
            device.reset()
        self.cpu.enter(self.firmware.start())
        self._tell("RESET", {"cause": cause})

    def _tell(self, name: str, data: Mapping[str, Any]) -> None:
        for observer in tuple(self.observers):  # others may come and go meanwhile
            observer.machine_event(name, data)

    # -- ports ------------------------------------------------------------------------------------------------------

    def _port_write(self, port: int, size: int, value: int) -> None:
        if faults.stopped():
            return  # behind a store that was lost, in the same block: nobody may be told that it was kept
        self.bus.write(port, size, value)
        if port in self._clock_ports or (size > 1 and not self._clock_ports.isdisjoint(range(port, port + size))):
            # The next event may have moved: the run loop sets a new deadline.
            self.cpu.request_stop()

    # -- saved state ------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, SavedState]:
        """The state of the CPU and every device by name, memory contents apart."""
        return {name: part.save() for name, part in self._components().items()}

    def restore(self, states: Mapping[str, SavedState]) -> None:
        """Take what ``save`` gave on a machine of the same configuration.

        StateError when anything does not fit; then nothing has changed.
        """
        applies = parse_all(self._components(), states)
        self._booted = self._used = True
        for apply in applies:
            apply()

    def _components(self) -> dict[str, Saveable]:
        return {"cpu": self.cpu, **self.devices}

    def close(self) -> None:
        """Free the CPU and unmap every backend. A machine that never ran leaves no file that it made."""
        self._parts.close(discard=not self._used)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
