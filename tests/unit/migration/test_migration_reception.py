"""The door of an incoming migration: whoever else connects neither ends the wait nor blocks a real source."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.errors import EmuError
from emu.host.pages import crc32c
from emu.host.sockets import Listener, TcpAddress, UnixAddress
from emu.migration.channel import Interrupt, SocketChannel
from emu.migration.destination import Destination
from emu.migration.errors import Cancelled
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.progress import Progress
from emu.migration.reception import MOST_CALLERS, wait_for_source
from emu.migration.source import Source
from emu.migration.stream import FROM_DESTINATION, FROM_SOURCE, Decoder, Encoder, FrameType
from tests.unit.migration.migration_doubles import fill, make_guest


class Door:
    """A destination that waits at ``address``; ``ended`` is what became of it."""

    def __init__(self, listener: Listener, patience: float) -> None:
        self.listener = listener
        self.address = listener.address
        self.guest = make_guest(running=False)
        self.interrupt = Interrupt()
        self.ended: list[object] = []
        self._patience = patience
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        side = Destination(self.guest, capabilities=Capabilities(), progress=Progress(), interrupt=self.interrupt)

        def open_channel(sock: socket.socket) -> SocketChannel:
            return SocketChannel(sock, Decoder(FROM_SOURCE, side.place), self.interrupt, stall_timeout=60)

        try:
            channel, first = wait_for_source(
                self.listener.socket, open_channel, self.interrupt, patience=self._patience
            )
            with contextlib.closing(channel):
                self.ended.append(side.run(channel, first))
                side.taken_over(channel)
        except EmuError as error:
            self.ended.append(error)

    def connect(self) -> socket.socket:
        if isinstance(self.address, UnixAddress):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.address.path)
            return sock
        return socket.create_connection((self.address.host, self.address.port))

    def close(self) -> None:
        self.interrupt.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.listener.close()
        self.interrupt.close()
        self.guest.close()


@pytest.fixture(params=["unix", "tcp"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Door]]:
    made: list[Door] = []

    def make(patience: float = 60.0) -> Door:
        address = UnixAddress(f"{tmp_path}/s") if request.param == "unix" else TcpAddress("127.0.0.1", 0)
        made.append(Door(Listener(address, option="test"), patience))
        return made[-1]

    yield make
    for one in made:
        one.close()


def arrive(door: Door) -> None:
    """A real source connects, and the machine moves."""
    source, interrupt = make_guest(), Interrupt()
    fill(source)
    channel = SocketChannel(door.connect(), Decoder(FROM_DESTINATION), interrupt, stall_timeout=60)
    Source(
        source, channel, capabilities=Capabilities(), parameters=Parameters, progress=Progress(), interrupt=interrupt
    ).run()
    door.thread.join(60)
    assert door.ended == [True]
    assert bytes(door.guest.ram.view) == bytes(source.ram.view)
    channel.close()
    interrupt.close()
    source.close()


def sealed(kind: FrameType, document: object) -> bytes:
    encoder, data = Encoder(), json.dumps(document).encode()
    return encoder.opening + encoder.frame(kind, b"", [data]) + data


STRANGERS = {
    "closes at once": b"",
    "a browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(100_000),
    "noise": random.Random(5).randbytes(100_000),
    "half an opening": Encoder().opening[:7],
    "an opening only": Encoder().opening,
    "another version": Encoder().opening[:8] + b"\x02" + Encoder().opening[9:],
    "another frame": Encoder().opening + Encoder().frame(FrameType.COMMIT),
    "a preamble that is none": sealed(FrameType.PREAMBLE, []),
    "a preamble that lies": sealed(
        FrameType.PREAMBLE, {"machine": {}, "terms": {}, "not_copied": [], "by_reference": []}
    ),
    "a deep preamble": (lambda text: Encoder().opening + Encoder().frame(FrameType.PREAMBLE, b"", [text]) + text)(
        b"[" * 200_000
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_that_comes_and_goes(door: Callable[..., Door], stranger: str) -> None:
    waiting = door()
    with waiting.connect() as sock, contextlib.suppress(OSError):
        sock.sendall(STRANGERS[stranger])
    arrive(waiting)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_that_stays(door: Callable[..., Door], stranger: str) -> None:
    waiting = door()
    with waiting.connect() as sock:
        with contextlib.suppress(OSError):
            sock.sendall(STRANGERS[stranger])
        arrive(waiting)


def test_more_strangers_than_there_is_room_for(door: Callable[..., Door]) -> None:
    waiting = door()
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(waiting.connect()) for _ in range(MOST_CALLERS + 1)]
        first[0].settimeout(60)
        assert first[0].recv(1) == b"", "who waited longest was not let go"
        arrive(waiting)


def test_silence_is_heard_for_a_bounded_time(door: Callable[..., Door]) -> None:
    waiting = door(patience=1.5)  # which the real source below has to say who it is, too
    with waiting.connect() as sock:
        sock.sendall(Encoder().opening)
        sock.settimeout(60)
        answer = sock.recv(1000)
        assert b"no first frame in time" in answer
        while sock.recv(1000):
            pass
    arrive(waiting)


def test_an_emu_of_another_version_hears_why(door: Callable[..., Door]) -> None:
    waiting = door()
    head = b"emu-migr" + b"\x09\0\0\0"
    with waiting.connect() as sock:
        sock.sendall(head + crc32c(head).to_bytes(4, "little"))
        sock.settimeout(60)
        assert b"this emu reads version" in sock.recv(1000)


def test_the_wait_can_be_cancelled_while_strangers_stay(door: Callable[..., Door]) -> None:
    waiting = door()
    with waiting.connect():
        waiting.interrupt.set()
        waiting.thread.join(60)
    assert isinstance(waiting.ended[0], Cancelled)


def test_a_cancel_before_the_commit_is_heeded_and_one_behind_it_is_told_so() -> None:
    interrupt = Interrupt()
    assert interrupt.set()
    assert interrupt.disarm(), "a cancel that came in time is forgotten"
    assert not interrupt.set()
    interrupt.close()
    late = Interrupt()
    assert not late.disarm()
    assert not late.set()
    late.check()
    late.close()
