"""The server with real sockets and a machine of plain values."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from emu.errors import HostError, UsageError
from emu.monitor import server
from emu.monitor.control import Control
from emu.monitor.events import EventQueue
from emu.monitor.server import Server
from tests.fuzzing import times
from tests.unit.monitor.monitor_fakes import FakeMachine, FakeMigration

WAIT = 60
Connect = Callable[..., "Client"]


class Client:
    """A client that sends what it is told, without newlines, and reads lines."""

    def __init__(self, address: str, *, negotiate: bool = True) -> None:
        if address.startswith("unix:"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address[5:])
        else:
            host, _, port = address[4:].rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)))
        self.socket.settimeout(WAIT)
        self.file = self.socket.makefile("rb")
        if negotiate:
            try:
                self.greeting = self.read()
                assert self.ask("qmp_capabilities") == {}
            except BaseException:
                self.close()
                raise

    def read(self) -> Any:
        line = self.file.readline()
        return json.loads(line) if line else None

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def command(self, name: str, **arguments: Any) -> None:
        self.send(json.dumps({"execute": name, "arguments": arguments}).encode())

    def ask(self, name: str, **arguments: Any) -> Any:
        """The answer, events before it skipped."""
        self.command(name, **arguments)
        while "event" in (answer := self.read()):
            pass
        return answer.get("return", answer.get("error"))

    def at_end(self) -> bool:
        """Whether the server has hung up; a reset is that too, when it left bytes of ours unread."""
        try:
            return self.read() is None
        except ConnectionResetError:
            return True

    def flood(self, data: bytes) -> int:
        """Send until the server takes no more; how many bytes it took."""
        sent = 0
        self.socket.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            while True:
                sent += self.socket.send(data)
        return sent

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture
def events() -> EventQueue:
    return EventQueue()


@pytest.fixture
def machine(events: EventQueue) -> FakeMachine:
    return FakeMachine(events)


@pytest.fixture
def control(machine: FakeMachine) -> Control:
    return Control(machine, FakeMigration())


@pytest.fixture
def running(tmp_path: Path, control: Control, events: EventQueue) -> Iterator[Server]:
    with server.start([f"unix:{tmp_path}/qmp,server=on,wait=off"], control, events) as started:
        yield started


@pytest.fixture
def connect(running: Server) -> Iterator[Connect]:
    clients: list[Client] = []

    def connect(**how: Any) -> Client:
        clients.append(Client(running.addresses[0], **how))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def alive(running: Server) -> None:
    client = Client(running.addresses[0])
    try:
        assert client.ask("query-status")["status"]
    finally:
        client.close()


def test_a_conversation(connect: Connect) -> None:
    client = connect()
    assert client.greeting["QMP"]["capabilities"] == []
    assert client.ask("query-status")["running"] is True
    assert client.ask("nosuch")["class"] == "CommandNotFound"


def test_events_reach_everybody_who_negotiated_and_come_before_the_answer(connect: Connect) -> None:
    first, second, silent = connect(), connect(), connect(negotiate=False)
    assert "QMP" in silent.read()
    first.command("stop")
    assert first.read()["event"] == "STOP"
    assert first.read() == {"return": {}}
    assert second.read()["event"] == "STOP"
    silent.command("query-status")
    assert silent.read()["error"]["class"] == "CommandNotFound"


def test_events_from_other_threads_arrive_at_once(connect: Connect, events: EventQueue) -> None:
    client = connect()
    threading.Thread(target=events.emit, args=("GUEST_PANICKED", {"action": "poweroff"})).start()
    assert client.read()["data"] == {"action": "poweroff"}


def test_migration_events_come_only_when_asked_for(connect: Connect, events: EventQueue) -> None:
    client = connect()
    events.emit("MIGRATION", {"status": "setup"})
    client.ask("query-status")
    client.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    events.emit("MIGRATION", {"status": "active"})
    assert client.read()["data"] == {"status": "active"}


def test_two_addresses_and_tcp(tmp_path: Path, control: Control, events: EventQueue) -> None:
    specs = [f"unix:{tmp_path}/a,server=on,wait=off", "tcp:127.0.0.1:0,server=on,wait=off"]
    with server.start(specs, control, events) as started:
        for address in started.addresses:
            client = Client(address)
            assert client.ask("query-version")
            client.close()
    assert not (tmp_path / "a").exists()


def test_a_browser_is_turned_away(machine: FakeMachine, control: Control, events: EventQueue) -> None:
    with server.start(["tcp:127.0.0.1:0,server=on,wait=off"], control, events) as started:
        client = Client(started.addresses[0], negotiate=False)
        client.send(b'POST / HTTP/1.1\r\n\r\n{"execute":"qmp_capabilities"}{"execute":"quit"}')
        assert "QMP" in client.read()
        assert "error" in client.read()
        assert client.at_end()
        client.close()
        alive(started)
    assert not machine.quit_seen.is_set()


def test_it_waits_for_a_client_when_told(tmp_path: Path, control: Control, events: EventQueue) -> None:
    path = f"unix:{tmp_path}/qmp"
    started = []
    thread = threading.Thread(target=lambda: started.append(server.start([f"{path},server=on"], control, events)))
    thread.start()
    while not (tmp_path / "qmp").exists():
        time.sleep(0.01)
    assert not started
    client = Client(path)
    thread.join(WAIT)
    assert client.ask("query-status")
    started[0].finish()
    client.close()


def test_no_address_stays_bound_when_one_cannot_be_had(tmp_path: Path, control: Control, events: EventQueue) -> None:
    (tmp_path / "b").write_text("a file")
    with pytest.raises(UsageError):
        server.start([f"unix:{tmp_path}/a,server=on,wait=off", f"unix:{tmp_path}/b,server=on"], control, events)
    assert not (tmp_path / "a").exists()
    with pytest.raises(HostError):
        server.start(["unix:/no/such/dir/a,server=on"], control, events)


def test_last_events_are_delivered_before_the_end(running: Server, connect: Connect, events: EventQueue) -> None:
    client = connect()
    assert client.ask("quit") == {}
    events.emit("GUEST_PANICKED", {"action": "poweroff"})
    running.finish()
    seen = []
    while (message := client.read()) is not None:
        seen.append(message.get("event"))
    assert seen == ["GUEST_PANICKED"]
    running.finish()
    events.emit("STOP")


def test_commands_sent_together_are_all_answered_in_order(connect: Connect) -> None:
    client = connect()
    client.send(b"".join(json.dumps({"execute": "query-status", "id": n}).encode() for n in range(500)))
    assert [client.read()["id"] for _ in range(500)] == list(range(500))


def test_a_client_that_closes_its_half_still_gets_its_answer(connect: Connect) -> None:
    client = connect()
    client.command("query-version")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.read()["return"]
    assert client.read() is None


def test_an_answer_that_fails_inside_is_an_error_and_no_end(
    connect: Connect, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect()
    monkeypatch.setattr(control.machine, "status", lambda: {"here": 1}["gone"])
    answer = client.ask("query-status")
    assert answer["class"] == "GenericError"
    assert answer["desc"].startswith("internal error in query-status: KeyError")
    assert client.ask("query-version")


@pytest.mark.fuzz
def test_random_bytes_and_hang_ups_do_no_harm(running: Server, connect: Connect) -> None:
    random = Random(7)
    words = [b'{"execute":"query-status"}', b'{"execute":"qmp_capabilities"}', b"{", b"[" * 200, b"\xff", b'"', b"\n"]
    for _ in range(times(60)):
        client = connect(negotiate=False)
        for _ in range(random.randrange(4)):
            client.send(random.choice(words) if random.random() < 0.5 else random.randbytes(random.randrange(300)))
        if random.random() < 0.5:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    alive(running)


def test_a_client_that_floods_and_never_reads_is_not_read_from(running: Server, connect: Connect) -> None:
    client = connect()
    assert client.flood(b'{"execute":"query-qmp-schema"}' * 1000) < 8 << 20
    alive(running)


def test_a_client_that_never_reads_events_is_dropped(running: Server, connect: Connect, events: EventQueue) -> None:
    client = connect()
    for number in range(400):
        events.emit("GUEST_PANICKED", {"action": "poweroff", "x-emu-detail": "x" * 50_000})
        if number % 40 == 39:
            alive(running)
    with pytest.raises(ConnectionError):
        client.flood(b'{"execute":"query-status"}')
    alive(running)


def test_too_many_clients_are_turned_away(running: Server, connect: Connect) -> None:
    clients = [connect() for _ in range(32)]
    extra = connect(negotiate=False)
    assert extra.at_end()
    clients[0].close()
    deadline = time.monotonic() + WAIT
    while True:
        try:
            alive(running)
            break
        except (ConnectionError, AssertionError, TypeError):
            assert time.monotonic() < deadline


def test_a_fence_parts_what_a_command_caused_from_what_came_of_it() -> None:
    events = EventQueue()
    events.emit("RESUME")
    events.fence()
    events.emit("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"})
    assert [event.name for event in events.take()] == ["RESUME"]
    events.emit("STOP")
    assert [event.name for event in events.take()] == ["SHUTDOWN", "STOP"]
    assert events.take() == []
