"""Migration addresses, as QEMU's users write them: ``unix:PATH``, ``tcp:HOST:PORT``, ``fd:NUMBER``, ``file:PATH``.

A tcp address without a host is this machine (127.0.0.1), for listening too: guest memory crosses a network only when
somebody names the network's address. ``exec:`` is refused: it would hand a monitor's user a shell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from emu.errors import HostError, UsageError
from emu.migration.channel import Interrupt
from emu.migration.errors import ConnectionLost

_LOOPBACK = "127.0.0.1"
_UNIX_MAX = 107


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URI: ``scheme`` unix, tcp, fd or file; ``text`` a path or host, ``number`` a port or descriptor."""

    scheme: str
    text: str = ""
    number: int = 0

    def __str__(self) -> str:
        match self.scheme:
            case "tcp":
                return f"tcp:{f'[{self.text}]' if ':' in self.text else self.text}:{self.number}"
            case "fd":
                return f"fd:{self.number}"
        return f"{self.scheme}:{self.text}"


def parse(uri: str) -> Address:
    """The address ``uri`` names; UsageError when it names none or one that is refused."""
    scheme, colon, rest = uri.partition(":")
    match scheme:
        case "unix" | "file" if rest and "\0" not in rest:
            if scheme == "unix" and len(os.fsencode(rest)) > _UNIX_MAX:
                raise UsageError(
                    f"migration address: the socket path is longer than {_UNIX_MAX} bytes", "use a shorter path"
                )
            return Address(scheme, rest)
        case "tcp" if colon:
            host, _, port = rest.rpartition(":")
            return Address("tcp", host.strip("[]") or _LOOPBACK, _number(port, 65535, uri))
        case "fd" if colon:
            return Address("fd", number=_number(rest, 1 << 20, uri))
        case "exec":
            raise UsageError(
                "migration address: exec: is refused, because it would run a command for whoever reaches the monitor",
                "use unix: or tcp: and let a tool of your own carry the bytes",
            )
    raise UsageError(
        f"migration address: '{uri[:100]}' is not one", "write unix:PATH, tcp:[HOST]:PORT, fd:NUMBER or file:PATH"
    )


def _number(text: str, most: int, uri: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 8 or int(text) > most:
        raise UsageError(f"migration address: '{uri[:100]}' has no valid number", f"give a number from 0 to {most}")
    return int(text)


def connect(address: Address, interrupt: Interrupt, timeout: float) -> socket.socket:
    """A connected stream socket to ``address`` (unix, tcp or fd)."""
    match address.scheme:
        case "unix":
            return _connect(
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), address.text, address, interrupt, timeout
            )
        case "tcp":
            family, where = _resolve(address)
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _connect(sock, where, address, interrupt, timeout)
    return _inherited(address.number)


def _resolve(address: Address) -> tuple[socket.AddressFamily, object]:
    try:
        found = socket.getaddrinfo(address.text, address.number, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HostError(f"{address}: {error}", "give a host name or address that resolves") from None
    return found[0][0], found[0][4]


def _connect(
    sock: socket.socket, where: object, address: Address, interrupt: Interrupt, timeout: float
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


def _inherited(number: int) -> socket.socket:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        raise UsageError(f"fd:{number}: there is no such open descriptor", "pass a connected stream socket") from None
    if not is_socket:
        raise UsageError(
            f"fd:{number} is not a socket: the destination must be able to answer",
            "pass one end of a stream socket pair",
        )
    # A copy, so that closing the channel does not close a descriptor that is not ours.
    return socket.socket(fileno=os.dup(number))


class Listener:
    """Waits at ``address`` for the one connection of an incoming migration."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._path: Path | None = None
        match address.scheme:
            case "unix":
                self._path = Path(address.text)
                _remove_stale(self._path)
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                where: object = address.text
            case "tcp":
                family, where = _resolve(address)
                self._socket = socket.socket(family, socket.SOCK_STREAM)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            case _:
                self._socket = _inherited(address.number)
                return
        try:
            self._socket.bind(where)  # type: ignore[arg-type]  # a path or what getaddrinfo gave
            if self._path is not None:
                self._path.chmod(0o600)
            self._socket.listen(1)
        except OSError as error:
            self._socket.close()
            raise HostError(f"{address}: {error.strerror}", "choose another address", errno=error.errno or 0) from None
        self._socket.setblocking(False)
        if address.scheme == "tcp":
            self.address = Address("tcp", address.text, self._socket.getsockname()[1])

    def accept(self, interrupt: Interrupt, timeout: float | None = None) -> socket.socket:
        """The connected socket; without ``timeout`` (seconds) it waits until somebody comes or ``interrupt`` is set."""
        if self.address.scheme == "fd":
            return self._socket.dup()
        while True:
            if not interrupt.wait(3600.0 if timeout is None else timeout, self._socket.fileno()):
                if timeout is None:
                    continue
                raise ConnectionLost(f"{self.address}: nobody connected within {timeout:g} s")
            with contextlib.suppress(BlockingIOError):
                return self._socket.accept()[0]

    def close(self) -> None:
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody listens at any more; anything else at ``path`` stays."""
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink(missing_ok=True)
