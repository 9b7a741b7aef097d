"""``-serial pty`` and ``-serial unix:PATH[,server=on][,wait=off]``: COM1 at a terminal of its own, or at a socket.

As under QEMU: a socket is listened at with ``server=on`` (one client at a time; the guest starts when one is there,
unless ``wait=off``) and connected to without, and what the guest says to nobody is lost. At a pseudo-terminal, where
nobody can tell whether somebody reads, the kernel keeps the first 4 KiB for who opens it later.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import tty
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.cli import output
from emu.cli.standard_input import Typist
from emu.devices.uart16550 import Uart16550
from emu.errors import HostError, UsageError
from emu.host import sockets

if TYPE_CHECKING:
    from emu.machine import Machine

_HINT = "write unix:PATH,server=on,wait=off, or unix:PATH of a socket that somebody listens at"
_PATIENCE_MS = 200


def make_line(stack: contextlib.ExitStack, target: str) -> SerialLine:
    """The line that ``target`` names; ``stack`` closes it. UsageError or HostError when it cannot be had."""
    return _PseudoTerminal(stack) if target == "pty" else _Socket(stack, target)


class SerialLine(ABC):
    """A sink for what the guest says and, from ``attach`` on, the source of what is typed at COM1."""

    def __init__(self) -> None:
        self._ended: Callable[[], bool] = lambda: False

    @abstractmethod
    def __call__(self, data: bytes) -> None:
        """The guest says this; in the machine's thread."""

    def attach(self, stack: contextlib.ExitStack, machine: Machine) -> None:
        """Connect it to ``machine``, which does not run yet, until ``stack`` closes."""
        com1 = machine.devices["com1"]
        assert isinstance(com1, Uart16550)
        self._ended = lambda: machine.exit is not None
        typist = Typist(machine, com1)
        self._begin()
        typist.start(lambda: self._follow(typist))
        stack.callback(typist.stop)

    @abstractmethod
    def _begin(self) -> None:
        """Tell the user where it is; wait for whom the guest must not start without."""

    @abstractmethod
    def _follow(self, typist: Typist) -> None:
        """Have ``typist`` type what comes, until it is stopped; in a thread of its own."""


class _PseudoTerminal(SerialLine):
    def __init__(self, stack: contextlib.ExitStack) -> None:
        super().__init__()
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise HostError(f"-serial pty: no pseudo-terminal: {error.strerror}", "use -serial unix:PATH") from None
        # Held open here: else the kernel takes nothing from the guest before somebody has come.
        for descriptor in (self._master, slave):
            stack.callback(os.close, descriptor)
        tty.setraw(slave)  # what the guest says is not to come back as typed
        self._name = os.ttyname(slave)
        os.set_blocking(self._master, False)
        self._read = True

    def __call__(self, data: bytes) -> None:
        # A slow reader gets everything. Nobody in sight for a moment: what comes then is lost until somebody reads.
        while data:
            try:
                data = data[os.write(self._master, data) :]
                self._read = True
            except BlockingIOError:
                if not self._read:
                    return
                self._read = _has_room(self._master)

    def _begin(self) -> None:
        output.note(f"emu: COM1 is at {self._name}")

    def _follow(self, typist: Typist) -> None:
        typist.follow(self._master)


class _Socket(SerialLine):
    def __init__(self, stack: contextlib.ExitStack, target: str) -> None:
        super().__init__()
        place, *words = sockets.split_words(target)
        switches = sockets.switches(words, ("server", "wait"), f"-serial {target[:64]}", _HINT)
        address = sockets.parse(place)
        if not isinstance(address, sockets.UnixAddress):
            raise UsageError(f"-serial {target[:64]}: not a socket's path", _HINT)
        self._address = address
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._listener: sockets.Listener | None = None
        self._wait = switches.get("wait", True)
        if switches.get("server", False):
            self._listener = sockets.Listener(address, option="-serial")
            stack.callback(self._listener.close)
        else:
            self._take(_connected(address))
        stack.callback(self._drop)

    def __call__(self, data: bytes) -> None:
        while data:
            with self._lock:  # so that nobody closes it, and its number is another file's, under our hands
                if self._client is None:
                    return
                try:
                    data = data[self._client.send(data) :]
                    continue
                except BlockingIOError:
                    descriptor = self._client.fileno()
                except OSError:  # it has gone
                    return
            while not _has_room(descriptor):
                if self._ended():
                    return

    def _begin(self) -> None:
        if self._listener is None:
            return
        if self._wait:
            output.note(f"emu: waiting for somebody at {self._address}, which is COM1")
            while self._client is None:
                select.select([self._listener.socket], [], [])
                self._accept(self._listener)

    def _follow(self, typist: Typist) -> None:
        while True:
            if self._client is not None:
                typist.follow(self._client.fileno())
                self._drop()
            if self._listener is None or not typist.awaits(self._listener.socket.fileno()):
                return
            self._accept(self._listener)

    def _accept(self, listener: sockets.Listener) -> None:
        with contextlib.suppress(OSError):  # it may have gone again
            self._take(listener.socket.accept()[0])

    def _take(self, client: socket.socket) -> None:
        client.setblocking(False)
        with self._lock:
            self._client = client

    def _drop(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None


def _connected(address: sockets.UnixAddress) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.connect(address.path)
    except OSError as error:
        client.close()
        raise HostError(f"-serial {address}: nobody listens there: {error.strerror}",
                        "start who listens first, or listen here: add ,server=on") from None  # fmt: skip
    return client


def _has_room(descriptor: int) -> bool:
    """Whether it takes something within ``_PATIENCE_MS``."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(_PATIENCE_MS))
