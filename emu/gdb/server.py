"""Listens for a debugger, and carries one conversation at a time, in a thread of its own."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
from collections.abc import Mapping
from typing import Any

from emu.errors import EmuError, UsageError
from emu.gdb.commands import Commands
from emu.gdb.session import Session
from emu.gdb.target import Target
from emu.host import sockets
from emu.machine import Machine

_READ = 64 * 1024
_LAST_WORDS_S = 1.0
_HINT = "write :PORT, tcp:127.0.0.1:PORT or unix:PATH"
_LOOPBACK = "127.0.0.1"
# QEMU's words for a socket that listens without waiting, which is what happens here.
_SERVER = re.compile(r",server(=on)?(,(nowait|wait=off))?\Z")


def address(text: str) -> sockets.SocketAddress:
    """What ``--gdb`` and ``-gdb`` name: ``:PORT``, ``tcp::PORT``, ``tcp:HOST:PORT`` or ``unix:PATH``; UsageError.

    Where no host is named, it is this one.
    """
    spec = _SERVER.sub("", text)
    found = sockets.parse(f"tcp:{spec}" if spec.startswith(":") else spec, default_host=_LOOPBACK)
    if found is None:
        raise UsageError(f"--gdb {text[:64]}: not an address to listen at", _HINT)
    return found


class Server:
    """Lets a debugger have ``machine``, until ``finish``. Make it before the machine runs.

    UsageError or HostError when nothing can listen at ``where``.
    """

    def __init__(self, machine: Machine, where: sockets.SocketAddress) -> None:
        self._machine = machine
        self._listener = sockets.Listener(where, option="--gdb", consent="a tunnel")
        self.address = self._listener.address
        self._target = Target(machine)
        self._commands = Commands(self._target)
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._finishing = False
        machine.observers.append(self)
        self._thread = threading.Thread(target=self._serve, name="gdb", daemon=True)
        self._thread.start()

    def machine_event(self, name: str, data: Mapping[str, Any]) -> None:
        """Called by the machine, in its thread."""
        if name in ("STOP", "SHUTDOWN"):
            self._wake()

    def finish(self) -> None:
        """Tell the debugger of the end, stop to listen and remove the socket file."""
        self._finishing = True
        self._wake()
        self._thread.join(_LAST_WORDS_S)
        self._machine.observers.remove(self)
        self._listener.close()

    def _wake(self) -> None:
        # A full buffer means that the thread is awake anyhow; a closed one, that there is nobody to wake.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"!")

    # -- the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            with selectors.DefaultSelector() as waiting:
                waiting.register(self._wake_in, selectors.EVENT_READ)
                waiting.register(self._listener.socket, selectors.EVENT_READ)
                while not self._finishing:
                    for key, _ in waiting.select():
                        if key.fileobj is self._wake_in:
                            self._drain()
                        elif (connection := self._accept()) is not None:
                            waiting.unregister(self._listener.socket)
                            with connection:
                                self._converse(connection)
                            waiting.register(self._listener.socket, selectors.EVENT_READ)
        finally:
            self._wake_in.close()
            self._wake_out.close()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(_READ)

    def _accept(self) -> socket.socket | None:
        try:
            connection, _ = self._listener.socket.accept()
        except OSError:  # it has gone again
            return None
        if isinstance(self.address, sockets.TcpAddress):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _converse(self, connection: socket.socket) -> None:
        """Until the debugger leaves, or the machine ends. What it asked to stop at goes with it."""
        connection.settimeout(_LAST_WORDS_S)
        try:
            session = Session(self._target, self._commands)
        except EmuError:
            return  # there is no guest to debug yet
        with selectors.DefaultSelector() as waiting, contextlib.suppress(OSError):
            waiting.register(self._wake_in, selectors.EVENT_READ)
            waiting.register(connection, selectors.EVENT_READ)
            while not session.closed:
                for key, _ in waiting.select():
                    if key.fileobj is self._wake_in:
                        self._drain()
                        session.look()
                    elif stream := connection.recv(_READ):
                        session.receive(stream)
                    else:
                        session.closed = True
                if session.outgoing:
                    connection.sendall(session.outgoing)
                    session.outgoing.clear()
                if self._finishing:
                    break
        self._target.call(self._target.clear)
