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

import enum
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from emu.config import Clock, MachineConfig, NvdimmConfig
from emu.cpu import Cpu, Stop, StopKind
from emu.devices.bus import PortBus
from emu.devices.contract import Device, ExitRequest, Timed
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.pic import PicPair
from emu.entry import Entry
from emu.errors import EmuError, StateError, Status, UsageError
from emu.host import faults
from emu.memory import Backend, GuestMemory
from emu.state import Saveable, SavedState

if TYPE_CHECKING:
    from concurrent import futures

T = TypeVar("T")
_FOREVER = None
GUEST_RESET = "guest-reset"


class RunState(enum.StrEnum):
    """QEMU's run states, as far as this machine has them."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    INMIGRATE = "inmigrate"
    FINISH_MIGRATE = "finish-migrate"
    POSTMIGRATE = "postmigrate"
    SHUTDOWN = "shutdown"
    GUEST_PANICKED = "guest-panicked"


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


class PluggedNvdimm(NamedTuple):
    """An NVDIMM in its slot: the device model and the backend that holds its bytes."""

    device: NvdimmDevice
    backend: Backend
    hotplugged: bool = False

    def describe(self) -> dict[str, Any]:
        """What the NVDIMM is and what its mapping truly guarantees (an item of ``nvdimms`` in emu.run/1)."""
        durability = self.backend.mapping.durability
        return {
            "id": self.device.config.id,
            "file": self.backend.config.path,
            "size": self.device.size,
            "label_size": self.device.config.label_size,
            "gpa": self.device.gpa,
            "slot": self.device.slot,
            "unarmed": self.device.unarmed,
            "sync": {
                "requested": str(durability.requested),
                "effective": durability.effective,
                "why": durability.why,
            },
            "granularity": durability.granularity,
            "survives": {
                "guest_crash": durability.survives.guest_crash,
                "emulator_kill": durability.survives.emulator_kill,
                "host_power_loss": durability.survives.host_power_loss,
            },
        }


class Machine:
    """A machine; emu.board puts the parts in. A context manager: ``close`` unmaps the backends."""

    def __init__(self, config: MachineConfig, cpu: Cpu, memory: GuestMemory) -> None:
        self.config = config
        self.cpu = cpu
        self.memory = memory
        self.bus = PortBus()
        self.pic = PicPair(self._interrupt_line)
        self.devices: dict[str, Device] = {"pic": self.pic}
        self.nvdimms: list[PluggedNvdimm] = []
        self.backends: list[Backend] = []
        self._group = faults.new_group()
        self.tables: dict[str, bytes] = {}
        self.slots: HotPlug | None = None
        self.observers: list[Observer] = []
        self.state = RunState.PRELAUNCH
        self.start: Callable[[], Entry] | None = None
        # How many events of devices a wait in HLT may last without an interrupt; None for ever. Nobody interrupts a
        # machine that is driven by ``step`` alone.
        self.patience: int | None = None
        self._timed: list[Timed] = []
        # Ports through which a guest programs the timed devices.
        self.clock_ports: set[int] = set()
        self._exit: Exit | None = None
        self._booted = False
        self._used = False
        self._reset_asked: str | None = None
        self._paused_as: RunState | None = RunState.PRELAUNCH if config.start_paused else None
        self._calls: deque[tuple[Callable[[], Any], futures.Future[Any]]] = deque()
        self._changed = threading.Condition(threading.RLock())
        self._loop_thread: int | None = None
        self.bus.attach(self.pic)
        cpu.shows_self_test = True
        cpu.on_port_read = self.bus.read
        cpu.on_port_write = self._port_write

    def add_device(self, name: str, device: Device) -> None:
        """Make ``device`` part of reset and saved state under ``name``; its ports are the board's business."""
        self.devices[name] = device

    def add_timed(self, device: Timed) -> None:
        """Let ``device`` take part in time."""
        self._timed.append(device)

    def add_backend(self, backend: Backend) -> None:
        """Take ``backend``, closed with the machine. After a store that one of them loses, none gets another."""
        backend.mapping.join(self._group)
        self.backends.append(backend)

    # -- what other threads may use ---------------------------------------------------------------------------------

    def call(self, function: Callable[[], T]) -> T:
        """Run ``function`` in the machine's thread between two slices and return what it returns (or raises).

        Without a running loop, or from the machine's own thread, it runs at once. Also once the machine has ended, so a
        function that needs a live one looks at ``exit``.
        """
        with self._changed:
            if self._loop_thread in (None, threading.get_ident()):
                return function()
            from concurrent.futures import Future  # brings logging with it, and most runs call nothing

            future: Future[T] = Future()
            self._calls.append((function, future))
            self._interrupt()
        return future.result()

    def end(self, request: ExitRequest) -> None:
        """End the run with ``request``; the first request wins."""
        with self._changed:
            if self._exit is None:
                self._exit = Exit(*request)
            self._interrupt()

    def pause(self, state: RunState = RunState.PAUSED) -> None:
        """Stop the guest; returns when it stands still. ``state`` is the run state shown meanwhile.

        Before the start: it will stand still when the loop begins. After the end: nothing.
        """

        def stop() -> None:
            if self._exit is not None:
                return
            was_running = self._paused_as is None
            self._paused_as = self.state = state
            if was_running:
                self._tell("STOP", {})

        self.call(stop)

    def resume(self) -> None:
        """Let the guest go on after ``pause`` or a paused start; after the end: nothing."""

        def go() -> None:
            if self._paused_as is not None and self._exit is None:
                self._paused_as = None
                self.state = RunState.RUNNING
                self._tell("RESUME", {})

        self.call(go)

    def reset(self, cause: str = GUEST_RESET) -> None:
        """Reboot: devices to their power-on state, RAM cleared, image loaded again; NVDIMM contents stay.

        ``cause``: who asks for it, a word of QEMU's ShutdownCause, for the event.
        """
        with self._changed:
            self._reset_asked = cause
            self._interrupt()

    @property
    def exit(self) -> Exit | None:
        """How the run ended, or None while it has not."""
        return self._exit

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
            assert self._exit is not None
            self._tell("SHUTDOWN", {"reason": self._exit.reason, "cause": self._exit.cause})

    def boot(self) -> None:
        """Power on: load the image and put the CPU at its entry. Once, and not where a migration brings the state."""
        with self._changed:
            if self._booted or self.state is RunState.INMIGRATE:
                return
            if self.start is None:
                raise UsageError("this machine has no image to boot", "start it with an image, or with -incoming")
            self.cpu.enter(self.start())
            self._booted = True
            if self._paused_as is None:
                self.state = RunState.RUNNING

    def step(self) -> Exit | None:
        """One slice of the run loop, for those who drive the machine themselves; how it ended, once it has."""
        self._between_slices()
        if self._exit is None:
            self._slice()
        return self._exit

    def go_on(self) -> None:
        """Forget that the run was ended from outside, between two slices. A reset that was asked for is still due."""
        with self._changed:
            self._exit = None
            self.state = self._paused_as or RunState.RUNNING

    def rewind(self, devices: Mapping[str, SavedState]) -> None:
        """Forget that the run ended and put back the devices. The caller puts back the CPU and the memory."""
        with self._changed:
            self._exit = None
            self._reset_asked = None
            self.state = RunState.RUNNING
        for name, saved in devices.items():
            self.devices[name].restore(saved)

    def _between_slices(self) -> None:
        with self._changed:
            while self._exit is None:
                self._run_calls()
                if self._reset_asked is not None:
                    cause, self._reset_asked = self._reset_asked, None
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
            case StopKind.TRIPLE_FAULT:
                self._guest_died("triple-fault", stop)
            case StopKind.BAD_STATE:
                self._guest_died("exception", stop)
            case StopKind.REQUESTED | StopKind.TIMER:
                pass

    def _wait_for_interrupt(self) -> None:
        """The CPU is halted with interrupts on: let time pass until a device has one, or someone asks for something."""
        events = 0
        while not self.pic.pending():
            with self._changed:
                if self._exit is not None or self._calls or self._reset_asked is not None:
                    return
                event = self._next_event()
                if self.patience is not None and (event is None or events >= self.patience):
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
            function, future = self._calls.popleft()
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

    def _interrupt(self) -> None:
        self._changed.notify_all()
        self.cpu.request_stop()

    def _guest_died(self, reason: str, stop: Stop) -> None:
        self.state = RunState.GUEST_PANICKED
        self.end(ExitRequest(reason, Status.GUEST_CRASHED, None, stop.detail))

    def _check_backends(self) -> None:
        for mapping in [backend.mapping for backend in self.backends]:
            lost = mapping.lost()
            if lost is not None:
                mapping.check(self.memory.address_of(mapping, lost))

    def _do_reset(self, cause: str) -> None:
        if self.config.no_reboot:
            self.end(ExitRequest("reset", Status.OK, cause=cause))
            return
        if self.start is None:
            raise UsageError(
                "this machine has no image to boot again", "it came from a migration; start it with an image"
            )
        for device in self.devices.values():
            device.reset()
        self.cpu.enter(self.start())
        self._tell("RESET", {"cause": cause})

    def _tell(self, name: str, data: Mapping[str, Any]) -> None:
        for observer in tuple(self.observers):  # others may come and go meanwhile
            observer.machine_event(name, data)

    # -- ports ------------------------------------------------------------------------------------------------------

    def _port_write(self, port: int, size: int, value: int) -> None:
        if faults.stopped():
            return  # behind a store that was lost, in the same block: nobody may be told that it was kept
        self.bus.write(port, size, value)
        if not self.clock_ports.isdisjoint(range(port, port + size)):
            # The next event may have moved: the run loop sets a new deadline.
            self.cpu.request_stop()

    def _interrupt_line(self, level: bool) -> None:
        if level:
            self.cpu.request_stop()

    # -- saved state ------------------------------------------------------------------------------------------------

    def save(self) -> list[SavedState]:
        """The state of the CPU and every device, memory contents apart; each kind carries the component's name."""
        return [replace(part.save(), kind=name) for name, part in self._parts().items()]

    def restore(self, states: Sequence[SavedState]) -> None:
        """Take what ``save`` gave on a machine of the same configuration; StateError when anything does not fit."""
        parts = self._parts()
        found = {state.kind: state for state in states}
        if len(found) != len(states) or found.keys() != parts.keys():
            odd = sorted(found.keys() ^ parts.keys()) or ["a component named twice"]
            raise StateError(f"saved state and machine differ in their components: {', '.join(odd)}")
        self._booted = self._used = True
        for name, part in parts.items():
            part.restore(replace(found[name], kind=part.save().kind))

    def _parts(self) -> dict[str, Saveable]:
        return {"cpu": self.cpu, **self.devices}

    def close(self) -> None:
        """Free the CPU and unmap every backend. A machine that never ran leaves no file that it made."""
        self.cpu.close()
        for backend in self.backends:
            if self._used:
                backend.close()
            else:
                backend.discard()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
