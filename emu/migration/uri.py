"""Migration addresses, as QEMU's users write them: ``unix:PATH``, ``tcp:HOST:PORT``, ``fd:NUMBER``, ``file:PATH``.

A tcp address without a host is this machine (127.0.0.1), for listening too: guest memory crosses a network only when
somebody names the network's address. ``exec:`` is refused: it would hand a monitor's user a shell.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass

from emu.errors import UsageError
from emu.host import sockets
from emu.host.sockets import SocketAddress, UnixAddress
from emu.migration.channel import Interrupt
from emu.migration.errors import ConnectionLost

_LOOPBACK = "127.0.0.1"
_HIGHEST_DESCRIPTOR = 1 << 20


@dataclass(frozen=True, slots=True)
class FileAddress:
    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class DescriptorAddress:
    number: int

    def __str__(self) -> str:
        return f"fd:{self.number}"


Address = SocketAddress | FileAddress | DescriptorAddress


def parse(uri: str) -> Address:
    """The address ``uri`` names; UsageError when it names none or one that is refused."""
    scheme, _, rest = uri.partition(":")
    if scheme == "file" and rest and "\0" not in rest:
        return FileAddress(rest)
    if scheme == "fd" and rest.isascii() and rest.isdigit() and len(rest) <= 7 and int(rest) <= _HIGHEST_DESCRIPTOR:
        return DescriptorAddress(int(rest))
    if scheme == "exec":
        raise UsageError(
            "migration address: exec: is refused, because it would run a command for whoever reaches the monitor",
            "use unix: or tcp: and let a tool of your own carry the bytes",
        )
    found = sockets.parse(uri, default_host=_LOOPBACK)
    if found is None:
        raise UsageError(
            f"migration address: '{uri[:100]}' is not one", "write unix:PATH, tcp:[HOST]:PORT, fd:NUMBER or file:PATH"
        )
    return found


def connect(address: SocketAddress | DescriptorAddress, interrupt: Interrupt, timeout: float) -> socket.socket:
    """A connected stream socket to ``address``; ConnectionLost when nobody answers there within ``timeout`` seconds."""
    if isinstance(address, DescriptorAddress):
        return inherited(address)
    if isinstance(address, UnixAddress):
        return _connect(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), address.path, address, interrupt, timeout)
    family, where = sockets.resolve(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _connect(sock, where, address, interrupt, timeout)


def _connect(
    sock: socket.socket, where: object, address: SocketAddress, interrupt: Interrupt, timeout: float
) -> socket.socket:
    sock.setblocking(False)
    try:
        failed = sock.connect_ex(where)  # type: ignore[arg-type]  # a path or what getaddrinfo gave
        if failed == errno.EINPROGRESS:
            if not interrupt.wait(timeout, sock.fileno(), writing=True):
                raise ConnectionLost(f"{address}: no connection within {timeout:g} s")
            failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            raise ConnectionLost(
                f"{address}: {os.strerror(failed)}", "start the destination first: emu run --incoming URI ..."
            )
    except BaseException:
        sock.close()
        raise
    return sock


def inherited(address: DescriptorAddress) -> socket.socket:
    """The stream socket that this process was started with at ``address``, as a copy; UsageError when it is none."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(address.number).st_mode)
    except OSError:
        raise UsageError(f"{address}: there is no such open descriptor", "pass a connected stream socket") from None
    if not is_socket:
        raise UsageError(
            f"{address} is not a socket: the destination must be able to answer",
            "pass one end of a stream socket pair",
        )
    # A copy, so that closing the channel does not close a descriptor that is not ours.
    return socket.socket(fileno=os.dup(address.number))
