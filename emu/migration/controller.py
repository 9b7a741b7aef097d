"""One migration of one machine at a time, behind the commands that QMP offers. It owns the migration's thread."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from emu.devices.contract import ExitRequest
from emu.errors import EmuError, UsageError
from emu.host.sockets import Listener, SocketAddress
from emu.host.waiting import wait_for
from emu.machine import Machine, RunState
from emu.migration import uri as addresses
from emu.migration.adapter import MachineGuest, lock_files
from emu.migration.channel import Channel, FileReader, FileWriter, Interrupt, SocketChannel
from emu.migration.destination import Destination
from emu.migration.errors import Cancelled, OutcomeUnknown, Refused, internal_error
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.progress import Emit, Progress, Status
from emu.migration.reception import Door
from emu.migration.source import Phase, Source
from emu.migration.stream import FROM_DESTINATION, FROM_SOURCE, Decoder, Frame
from emu.words import printable

_SWITCH_S = 0.0001
_PUTTING_AWAY_S = 1.0
"""What the thread of a migration that is over may still take to close its channel."""
"""How often who waits looks for signals: Python handles them in the main thread, which the kernel need not wake up."""


class MigrationControl:
    """Starts, watches and cancels migrations of ``machine``. Every method may be called from any thread."""

    def __init__(
        self,
        machine: Machine,
        emit: Emit | None = None,
        *,
        allow_weaker_persistence: bool = False,
    ) -> None:
        """``emit(event, data)`` is told MIGRATION and MIGRATION_PASS, from the migration's thread."""
        self._emit = emit
        self._machine = machine
        self._guest = MachineGuest(machine)
        self._capabilities = Capabilities(allow_weaker_persistence=allow_weaker_persistence)
        self._parameters = Parameters()
        self._progress = Progress()
        self._interrupt: Interrupt | None = None
        self._source: Source | None = None
        # Not the thread itself: Python 3.11 takes one whose join an exception interrupted (Ctrl-C) for ended.
        self._over = threading.Event()
        self._over.set()
        self._lock = threading.RLock()
        self._leaves_for = ""
        self.waits_at = ""
        self.error: EmuError | None = None

    # -- what QMP asks ----------------------------------------------------------------------------------------------

    def start(self, uri: str) -> None:
        """``migrate``: begin to migrate to the address ``uri``, in the background."""
        address = addresses.parse(uri)
        with self._lock:
            self._refuse_second()
            if self._machine.state is RunState.INMIGRATE:
                raise UsageError("this machine waits for an incoming migration", "let it arrive first")
            if self._gone_to():
                raise UsageError(f"this machine has been handed over to {self._gone_to()}", "quit here")
            if self._capabilities.multifd and not isinstance(address, SocketAddress):
                raise UsageError(
                    f"{address} takes one connection only, and multifd opens several",
                    "use a unix: or tcp: address, or switch multifd off",
                )
            interrupt = self._begin()
            # Opened here, so that an address nobody listens at is an error of the command.
            try:
                channel = self._open_source(address, interrupt)
            except BaseException:
                self._progress.enter(Status.FAILED)
                raise
            self._source = Source(
                self._guest,
                channel,
                capabilities=self._capabilities,
                parameters=lambda: self._parameters,
                progress=self._progress,
                interrupt=interrupt,
                dial=lambda: self._dial(address, interrupt),
            )
            self._leaves_for = str(address) if channel.live else ""
            self._spawn(self._send, self._source, channel)

    def incoming(self, uri: str) -> None:
        """``migrate-incoming``: wait for a machine at the address ``uri``, in the background.

        The machine stands in the run state inmigrate until the hand-over; a failure ends it. ``waits_at`` is the
        address in full, with the port that a port 0 became.
        """
        address = addresses.parse(uri)
        with self._lock:
            self._refuse_second()
            if self._machine.state not in (RunState.INMIGRATE, RunState.PRELAUNCH):
                raise UsageError("this machine has run already", "start another one with -incoming")
            self._machine.pause(RunState.INMIGRATE)
            interrupt = self._begin()
            listener: Listener | None = None
            match address:
                case addresses.FileAddress():
                    self._spawn(self._receive_file, address, interrupt)
                case addresses.DescriptorAddress():
                    self._spawn(self._receive_socket, addresses.inherited(address), interrupt)
                case _:
                    listener = Listener(address, option="migration address")
                    self._spawn(self._receive_caller, listener, interrupt)
            self.waits_at = str(address if listener is None else listener.address)

    def cancel(self) -> None:
        """``migrate_cancel``: give up; UsageError when it is too late. Harmless when nothing is under way."""
        with self._lock:
            if self._interrupt is not None and self._progress.status.under_way and not self._interrupt.set():
                raise UsageError("it is too late to cancel: the migration is just ending", self._how_it_ends())

    def continue_(self) -> None:
        """``migrate-continue``: go on after pause-before-switchover."""
        with self._lock:
            if self._source is None or self._progress.status is not Status.PRE_SWITCHOVER:
                raise UsageError("the migration does not wait before its switch-over", "see query-migrate")
            self._source.switch_over()

    def query(self) -> dict[str, Any]:
        """``query-migrate``."""
        return self._progress.query()

    @property
    def status(self) -> Status:
        return self._progress.status

    def capabilities(self) -> list[dict[str, Any]]:
        return self._capabilities.listing()

    def set_capabilities(self, states: Mapping[str, bool]) -> None:
        """``migrate-set-capabilities``: all of ``states`` or, with a UsageError, none."""
        with self._lock:
            self._refuse_second()
            self._capabilities = self._capabilities.with_states(states)

    def parameters(self) -> dict[str, Any]:
        return self._parameters.listing()

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """``migrate-set-parameters``, all or none: takes effect at once, also while a migration runs."""
        with self._lock:
            self._parameters = self._parameters.with_values(values)

    def take_back(self, *, force: bool) -> None:
        """Called before ``cont`` lets the guest run: UsageError or HostError when another emulator may own it.

        After a hand-over it never may. When the outcome is unknown it may with ``force``, the user having looked at the
        destination; shared files must then be free, which their locks decide.
        """
        with self._lock:
            if self._machine.state is RunState.INMIGRATE:
                raise UsageError("this machine waits for an incoming migration", "it runs when it has arrived")
            if self._progress.status is Status.OUTCOME_UNKNOWN:
                if not force:
                    raise UsageError(
                        "the hand-over was sent and not answered: the destination may be running this guest",
                        "look there first; 'cont' with x-emu-force=true if it never ran, 'quit' if it did",
                    )
                lock_files(self._machine)
                self._progress.enter(Status.FAILED)
                return
            if self._gone_to():
                raise UsageError(f"this machine has been handed over to {self._gone_to()}", "quit here")
            if self._progress.status in (Status.PRE_SWITCHOVER, Status.DEVICE):
                if self._source is not None and self._source.phase is Phase.HANDOVER:
                    raise UsageError("the hand-over was sent and is not answered yet", self._how_it_ends())
                raise UsageError("the guest is being handed over", "cancel the migration first")
            lock_files(self._machine)

    def wait(self, timeout: float | None = None) -> Status:
        """Wait until the migration is over, at most ``timeout`` seconds; its status."""
        if timeout is not None:
            self._over.wait(timeout)
        else:
            wait_for(self._over)
        return self._progress.status

    def finish(self) -> None:
        """Cancel what is under way and wait for it: call before the machine is closed."""
        with self._lock:
            if self._interrupt is not None and not self._progress.status.over:
                self._interrupt.set()
        self.wait()

    def _how_it_ends(self) -> str:
        return (
            f"see query-migrate: it ends within {self._stall():g} s; without an answer 'cont' with x-emu-force=true"
            " lets the guest run here again, once you know that it does not run there"
        )

    # -- threads ----------------------------------------------------------------------------------------------------

    def _refuse_second(self) -> None:
        if self._progress.status.over:
            self._over.wait(_PUTTING_AWAY_S)
        if not self._over.is_set():
            raise UsageError("There's a migration process in progress", "wait for it or cancel it")

    def _begin(self) -> Interrupt:
        self._progress = Progress(self._emit)
        if self._interrupt is not None:
            self._interrupt.close()
        self._interrupt = Interrupt()
        self._source = None
        self._leaves_for = ""
        self.error = None
        return self._interrupt

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        over = self._over = threading.Event()

        def do() -> None:
            try:
                work(*arguments)
            finally:
                over.set()

        thread = threading.Thread(target=do, name="migration", daemon=True)
        # Ctrl-C in the middle of the start would leave a thread that cannot be waited for.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        try:
            thread.start()
        except BaseException:
            over.set()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _stall(self) -> float:
        return float(self._parameters.x_emu_stall_timeout)

    def _open_source(self, address: addresses.Address, interrupt: Interrupt) -> Channel:
        if isinstance(address, addresses.FileAddress):
            return FileWriter(self._machine.claims().writes(address.path, "the snapshot"), interrupt)
        return self._dial(address, interrupt)

    def _dial(self, address: addresses.Address, interrupt: Interrupt) -> SocketChannel:
        assert not isinstance(address, addresses.FileAddress)
        sock = addresses.connect(address, interrupt, self._stall())
        return SocketChannel(sock, Decoder(FROM_DESTINATION), interrupt, stall_timeout=self._stall())

    def _gone_to(self) -> str:
        """Where the machine was handed over to, or nothing; true from the moment at which a client can learn of it."""
        return self._leaves_for if self._progress.status is Status.COMPLETED else ""

    def _send(self, source: Source, channel: Channel) -> None:
        # The guest's I/O needs the interpreter for microseconds at a time; by default it would wait 5 ms for each.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            source.run()
        except OutcomeUnknown as error:
            self._machine.pause(RunState.POSTMIGRATE)
            self._end(error, Status.OUTCOME_UNKNOWN)
        except Cancelled as error:
            self._end(error, Status.CANCELLED)
        except EmuError as error:
            self._end(error, Status.FAILED)
        except Exception as error:
            self._end(EmuError(f"internal error of the migration: {error}", "this is a bug in emu"), Status.FAILED)
        finally:
            sys.setswitchinterval(interval)
            channel.close()

    def _end(self, error: EmuError, status: Status) -> None:
        self.error = error
        # It may quote the other side.
        self._progress.error = printable(str(error).replace("\n", "; "))
        if isinstance(error, Refused):
            self._progress.reasons = [printable(reason) for reason in error.reasons]
        self._progress.enter(status)

    def _receive_caller(self, listener: Listener, interrupt: Interrupt) -> None:
        """Take the machine over from the first source that connects to ``listener``."""

        door = Door(listener, interrupt, patience=self._stall())

        def arrive(side: Destination) -> tuple[Channel, Frame]:
            return door.source(lambda sock: self._from_source(sock, side, interrupt))

        with contextlib.closing(door):
            self._receive(arrive, interrupt, door)

    def _receive_socket(self, sock: socket.socket, interrupt: Interrupt) -> None:
        self._receive(lambda side: (self._from_source(sock, side, interrupt), None), interrupt)

    def _receive_file(self, address: addresses.FileAddress, interrupt: Interrupt) -> None:
        def arrive(side: Destination) -> tuple[Channel, Frame | None]:
            return FileReader(address.path, Decoder(FROM_SOURCE, side.place), interrupt), None

        self._receive(arrive, interrupt)

    def _from_source(self, sock: socket.socket, side: Destination, interrupt: Interrupt) -> SocketChannel:
        return SocketChannel(sock, Decoder(FROM_SOURCE, side.place), interrupt, stall_timeout=self._stall())

    def _receive(
        self,
        arrive: Callable[[Destination], tuple[Channel, Frame | None]],
        interrupt: Interrupt,
        door: Door | None = None,
    ) -> None:
        channel: Channel | None = None
        side: Destination | None = None
        try:
            side = Destination(
                self._guest, capabilities=self._capabilities, progress=self._progress, interrupt=interrupt
            )
            channel, preamble = arrive(side)
            runs = side.run(channel, preamble, door)
            if runs and not self._machine.options.start_paused:
                self._machine.resume()
            else:
                self._machine.pause(RunState.PAUSED)
            side.taken_over(channel)
        except EmuError as error:
            self._incoming_failed(error)
        except Exception as error:
            self._incoming_failed(internal_error(error))
        finally:
            if side is not None:
                side.close()
            if channel is not None:
                channel.close()

    def _incoming_failed(self, error: EmuError) -> None:
        self._end(error, Status.CANCELLED if isinstance(error, Cancelled) else Status.FAILED)
        self._machine.end(ExitRequest("migration-failed", error.status, None, self._progress.error))
