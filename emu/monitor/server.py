"""The monitor's server: listening sockets, clients, and one thread that serves them all.

The thread executes one command at a time. What a command does to the machine happens in the machine's own thread
(``MachineControl``), so a slow guest delays answers, never the other way round. A client that does not read what it is
sent is not read from either, and is dropped when events pile up for it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from emu.host.waiting import wait_for
from emu.monitor.address import Listener, parse
from emu.monitor.commands import execute
from emu.monitor.control import Control
from emu.monitor.errors import QmpError
from emu.monitor.events import MIGRATION_EVENTS, EventQueue
from emu.monitor.protocol import Request, Session

_READ = 64 * 1024
_MOST_CLIENTS = 32
# Above the first nothing more is read from the client or executed for it; above the second it is gone.
_OUTPUT_LIMIT = 1 << 20
_DROP_LIMIT = 4 << 20
_ACCEPT_RETRY_S = 0.05
_LAST_RETRY_S = 0.005


class _Client:
    """A connection and its session."""

    def __init__(self, connection: socket.socket, *, strict: bool) -> None:
        self.connection = connection
        self.session = Session(strict=strict)
        self.at_end = False

    def read(self) -> None:
        try:
            data = self.connection.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.at_end = self.at_end or not data
        self.session.receive(data)

    def write(self) -> None:
        outgoing = self.session.data_to_send()
        try:
            while outgoing:
                del outgoing[: self.connection.send(outgoing)]
        except BlockingIOError:
            return
        except OSError:
            outgoing.clear()
            self.at_end = True

    @property
    def wants(self) -> int:
        """What to wait for, as selectors' flags."""
        reading = not self.at_end and self.session.idle and self.session.pending < _OUTPUT_LIMIT
        return (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if self.session.pending else 0)

    @property
    def busy(self) -> bool:
        """Whether there is something to do without waiting."""
        return not self.session.idle and self.session.pending < _OUTPUT_LIMIT

    @property
    def finished(self) -> bool:
        """Whether the connection is of no more use. A client that only closed its sending side gets its answers."""
        pending = self.session.pending
        return self.session.broken or pending > _DROP_LIMIT or (self.at_end and self.session.idle and not pending)


def start(specs: Sequence[str], control: Control, events: EventQueue) -> Server:
    """Listen at every address of ``specs`` (``-qmp`` options) and serve ``control`` in a thread of its own.

    ``events`` is where the machine and the migration emit theirs. With ``wait=on`` it returns when a client has
    connected. UsageError or HostError, and no socket left behind, when an address cannot be had.
    """
    addresses = [parse(spec) for spec in specs]
    with contextlib.ExitStack() as undo:
        listeners = []
        for address in addresses:
            listener = Listener(address)
            undo.callback(listener.close)
            listeners.append(listener)
        server = Server(listeners, control, events)
        undo.pop_all()
    try:
        server.wait_for_clients()
    except BaseException:
        server.finish()
        raise
    return server


class Server:
    """Serves until ``finish``. ``addresses`` is where, in the order of the options."""

    def __init__(self, listeners: Sequence[Listener], control: Control, events: EventQueue) -> None:
        self.addresses = [str(listener.address) for listener in listeners]
        self._listeners = listeners
        self._control = control
        self._events = events
        self._clients: list[_Client] = []
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._awaited = {id(listener): threading.Event() for listener in listeners if listener.wait}
        for listener in listeners:
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._serve, name="qmp", daemon=True)
        events.notify(self._wake)
        self._thread.start()

    def wait_for_clients(self) -> None:
        """Return when every address with ``wait=on`` has had a client."""
        for connected in self._awaited.values():
            wait_for(connected)

    def finish(self, timeout: float = 1.0) -> None:
        """Deliver the last events, for at most ``timeout`` seconds, then close everything and remove socket files."""
        if self._deadline is None:
            self._deadline = time.monotonic() + timeout
            self._wake()
        self._thread.join(timeout + 1)
        self._events.notify(None)
        for listener in self._listeners:
            listener.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def _wake(self) -> None:
        # A full buffer means that the thread is awake anyhow; a closed one, that there is nobody to wake.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"!")

    # -- the thread -------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            while self._deadline is None:
                self._turn()
            self._deliver_last(self._deadline)
        finally:
            for client in self._clients:
                client.connection.close()
            self._selector.close()
            self._wake_in.close()
            self._wake_out.close()

    def _turn(self) -> None:
        ready = self._selector.select(0 if any(client.busy for client in self._clients) else None)
        for key, flags in ready:
            if isinstance(key.data, Listener):
                self._accept(key.data)
            elif isinstance(key.data, _Client):
                if flags & selectors.EVENT_READ:
                    key.data.read()
            else:
                self._wake_in.recv(_READ)
        self._distribute_events()
        for client in list(self._clients):
            request = client.session.next_request(output_limit=_OUTPUT_LIMIT)
            if request is not None:
                self._execute(client.session, request)
        self._settle()

    def _accept(self, listener: Listener) -> None:
        try:
            connection, _ = listener.socket.accept()
        except BlockingIOError:
            return
        except OSError:
            # Out of descriptors, or the client has gone: try again, but not at once.
            time.sleep(_ACCEPT_RETRY_S)
            return
        if len(self._clients) >= _MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        client = _Client(connection, strict=listener.is_tcp)
        self._clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, client)
        if listener.wait:
            self._awaited[id(listener)].set()

    def _execute(self, session: Session, request: Request) -> None:
        try:
            answer = execute(self._control, request)
        except QmpError as error:
            failure: QmpError | None = error
        except Exception as error:
            # A bug of ours must not end the guest: the client is told, the others go on.
            failure = QmpError(f"internal error in {request.name}: {type(error).__name__}: {error}")
        else:
            failure = None
        self._distribute_events()  # what the command caused comes before its answer, as in QEMU
        if failure is None:
            session.succeed(request, answer)
        else:
            session.fail(request, failure)
        self._distribute_events()  # and behind it what the guest did as soon as it was let run

    def _distribute_events(self) -> None:
        for event in self._events.take():
            if event.name in MIGRATION_EVENTS and not self._migration_events_wanted():
                continue
            for client in self._clients:
                client.session.event(event)

    def _migration_events_wanted(self) -> bool:
        """QEMU sends them only with the migration capability "events"."""
        migration = self._control.migration
        return migration is not None and {"capability": "events", "state": True} in migration.capabilities()

    def _settle(self) -> None:
        """Send what can be sent; forget who is gone; say what to wait for."""
        for client in list(self._clients):
            client.write()
            if client.finished:
                self._clients.remove(client)
                self._forget(client)
            else:
                self._watch(client)

    def _watch(self, client: _Client) -> None:
        wants = client.wants
        watched = client.connection in self._selector.get_map()
        if wants and watched:
            self._selector.modify(client.connection, wants, client)
        elif wants:
            self._selector.register(client.connection, wants, client)
        elif watched:
            self._selector.unregister(client.connection)

    def _forget(self, client: _Client) -> None:
        if client.connection in self._selector.get_map():
            self._selector.unregister(client.connection)
        client.connection.close()

    def _deliver_last(self, deadline: float) -> None:
        self._distribute_events()
        self._settle()
        while time.monotonic() < deadline and any(client.session.pending for client in self._clients):
            time.sleep(_LAST_RETRY_S)
            self._settle()
