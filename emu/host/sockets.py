"""Stream sockets by which others reach emu: what their addresses are, and listening at them.

One rule for socket files, whoever listens. A file that nobody listens at is replaced; one that is in use is refused,
and so is what is no socket; at the end a listener removes the file only while it is still its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import re
import socket
import stat
import time
import weakref
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from emu.errors import HostError, UsageError
from emu.units import BOOLEANS

# sizeof(sun_path) less the NUL at its end (unix(7)).
_LONGEST_PATH = 107
_BACKLOG = 8
_LOCK_S = 2.0
_LOCK_RETRY_S = 0.01


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """``host`` is a name or an address without brackets; empty means every address of this host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


SocketAddress = UnixAddress | TcpAddress


def parse(text: str, *, default_host: str = "") -> SocketAddress | None:
    """The address that ``unix:PATH`` or ``tcp:HOST:PORT`` names; None when ``text`` has neither form.

    ``default_host`` is meant where HOST is empty. UsageError when the path is too long for a socket.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest and "\0" not in rest:
        if len(os.fsencode(rest)) > _LONGEST_PATH:
            raise UsageError(f"{text[:40]}...: a socket's path has at most {_LONGEST_PATH} bytes", "use a shorter path")
        return UnixAddress(rest)
    if kind == "tcp":
        host, colon, port = rest.rpartition(":")
        if colon and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 0xFFFF:
            return TcpAddress(host.strip("[]") or default_host, int(port))
    return None


def split_words(text: str) -> list[str]:
    """``text`` at its commas; a doubled comma is one in a word."""
    parts = [""]
    for piece in re.findall(r",,|,|[^,]+", text):
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += "," if piece == ",," else piece
    return parts


def switches(words: Iterable[str], keys: Container[str], option: str, hint: str) -> dict[str, bool]:
    """QEMU's words behind an address: ``server=on``, or the old short ``server`` and ``nowait``.

    UsageError, which begins with ``option`` and ends with ``hint``, for one that is none of ``keys``.
    """
    found: dict[str, bool] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            key, value = (key[2:], "off") if key.startswith("no") else (key, "on")
        if key not in keys or value not in BOOLEANS:
            raise UsageError(f"{option}: unknown option '{word[:64]}'", hint)
        found[key] = BOOLEANS[value]
    return found


def resolve(address: TcpAddress, *, passive: bool = False) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """Family and socket address of ``address``, to connect to or (``passive``) to listen at; HostError for neither."""
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "is no host name"
        raise HostError(f"{str(address)[:80]}: {why}", "give a host name or address that resolves") from None
    return found[0][0], found[0][4]


class Listener:
    """A bound, listening, non-blocking ``socket``, and a socket file (mode 0600) if its address is one.

    ``address`` is where it listens: a tcp port of 0 has become the one that was chosen. ``option`` begins messages.
    One that is forgotten without ``close``, as by Ctrl-C in the wrong moment, removes its file all the same.
    """

    def __init__(self, address: SocketAddress, *, option: str, consent: str | None = None) -> None:
        """UsageError or HostError when nothing can or may listen there.

        With ``consent``, the words that would allow it, a tcp address that other hosts could reach is refused.
        """
        self.address = address
        self.is_tcp = isinstance(address, TcpAddress)
        self._put_away: Callable[[], object]
        self._option = option
        if isinstance(address, UnixAddress):
            self.socket = self._listen_unix(address)
        else:
            self.socket = self._listen_tcp(address, consent)
            self.address = TcpAddress(address.host, self.socket.getsockname()[1])
        self.socket.setblocking(False)

    def close(self) -> None:
        """Stop to listen, and remove the socket file if it is still this listener's."""
        self._put_away()

    def _listen_unix(self, address: UnixAddress) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with _folder_locked(address.path):
                self._clear_stale(address)
                os.fchmod(listener.fileno(), 0o600)  # before bind: the file never exists with wider permissions
                listener.bind(address.path)
                self._put_away = weakref.finalize(self, _put_away, listener, address.path, os.lstat(address.path))
                listener.listen(_BACKLOG)
        except BaseException as error:
            if listener.getsockname():  # it is bound
                Path(address.path).unlink(missing_ok=True)
            listener.close()
            if isinstance(error, OSError):
                raise self._failed(address, error) from None
            raise
        return listener

    def _clear_stale(self, address: UnixAddress) -> None:
        """Remove a socket file that nobody listens at."""
        try:
            mode = os.lstat(address.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise UsageError(f"{self._option} {address}: the file exists and is not a socket", "give another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.setblocking(False)
            try:
                probe.connect(address.path)
            except OSError as error:
                if error.errno == errno.ECONNREFUSED:
                    Path(address.path).unlink(missing_ok=True)
                    return
                if error.errno != errno.EAGAIN:  # its backlog is full, so somebody listens
                    raise
        raise self._in_use(address)

    def _listen_tcp(self, address: TcpAddress, consent: str | None) -> socket.socket:
        family, bound = resolve(address, passive=True)
        if consent is not None and not ipaddress.ip_address(str(bound[0]).partition("%")[0]).is_loopback:
            raise UsageError(
                f"{self._option} {str(address)[:80]}: others could reach this address, and it asks for no password",
                f"use tcp:127.0.0.1:{address.port} and a tunnel, or consent with {consent}",
            )
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(bound)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise self._failed(address, error) from None
        self._put_away = weakref.finalize(self, listener.close)
        return listener

    def _in_use(self, address: SocketAddress) -> HostError:
        what = f"{self._option} {str(address)[:120]}: in use: another process listens there"
        return HostError(what, "end it, or give another address", errno=errno.EADDRINUSE)

    def _failed(self, address: SocketAddress, error: OSError) -> HostError:
        if error.errno == errno.EADDRINUSE:
            return self._in_use(address)
        what = f"{self._option} {str(address)[:120]}: cannot listen: {error.strerror}"
        return HostError(what, "give an address that is free", errno=error.errno or 0)


def _put_away(listener: socket.socket, path: str, bound: os.stat_result) -> None:
    # The file before the socket: while that listens nobody takes the file for stale, and the kernel keeps the inode, so
    # that no other file can have its number.
    with contextlib.suppress(OSError):
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) == (bound.st_dev, bound.st_ino):
            Path(path).unlink()
    listener.close()


@contextlib.contextmanager
def _folder_locked(path: str) -> Iterator[None]:
    """Let one emu at a time look at a stale socket, remove it and bind its own, so that none removes another's.

    Where the folder cannot be opened or somebody keeps its lock for long, it goes without.
    """
    try:
        folder = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + _LOCK_S
        while time.monotonic() < end:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(_LOCK_RETRY_S)
            else:
                break
        yield
    finally:
        os.close(folder)
