"""Where the monitor listens: ``-qmp unix:PATH,server=on,wait=off`` and ``tcp:HOST:PORT,...`` become bound sockets.

Whoever reaches the socket controls the machine and reads and writes files as its user. So a unix socket is made for its
owner alone (mode 0600), and a tcp address must be this host's own (loopback) unless the option says otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from emu.errors import HostError, UsageError
from emu.units import BOOLEANS

_UNIX_MAX = 107
_BACKLOG = 8
_HINT = "write unix:PATH,server=on,wait=off or tcp:HOST:PORT,server=on,wait=off"
_REMOTE = "x-emu-allow-remote"
_KEYS = ("server", "wait", _REMOTE)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """``path`` of a unix socket, or ``host`` and ``port``. ``wait``: the machine starts only when a client is there."""

    path: str | None = None
    host: str = ""
    port: int = 0
    wait: bool = True
    allow_remote: bool = False


def parse(text: str) -> ListenAddress:
    """The address that ``text`` names; UsageError when it names none."""
    kind, _, rest = text.partition(":")
    address, *options = _split(rest)
    switches = _switches(options, text)
    if not switches.get("server", False):
        raise UsageError(f"-qmp {text[:64]}: only listening sockets are offered", f"add server=on; {_HINT}")
    wait, remote = switches.get("wait", True), switches.get(_REMOTE, False)
    if kind == "unix" and address and "\0" not in address:
        if len(os.fsencode(address)) > _UNIX_MAX:
            raise UsageError(f"-qmp: the socket path is longer than {_UNIX_MAX} bytes", "use a shorter path")
        return ListenAddress(path=address, wait=wait)
    if kind == "tcp":
        host, colon, port = address.rpartition(":")
        if colon and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 0xFFFF:
            return ListenAddress(host=host.strip("[]"), port=int(port), wait=wait, allow_remote=remote)
    raise UsageError(f"-qmp {text[:64]}: not an address to listen at", _HINT)


def _split(text: str) -> list[str]:
    """At the commas; a doubled comma is one in the text."""
    parts = [""]
    rest = iter(re.findall(r",,|,|[^,]+", text))
    for piece in rest:
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += "," if piece == ",," else piece
    return parts


def _switches(options: list[str], text: str) -> dict[str, bool]:
    """QEMU's words: ``server=on``, or the old short ``server`` and ``nowait``."""
    found: dict[str, bool] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            key, value = (key[2:], "off") if key.startswith("no") else (key, "on")
        if key not in _KEYS or value not in BOOLEANS:
            raise UsageError(f"-qmp {text[:64]}: unknown option '{option[:64]}'", _HINT)
        found[key] = BOOLEANS[value]
    return found


class Listener:
    """A bound, listening, non-blocking socket. ``close`` removes the socket file, if it is still the same one."""

    def __init__(self, address: ListenAddress) -> None:
        """UsageError or HostError when nothing can listen there."""
        self.address = address
        self.is_tcp = address.path is None
        self._identity: tuple[int, int] | None = None
        self.socket = self._listen_tcp() if address.path is None else self._listen_unix(address.path)
        self.socket.setblocking(False)

    @property
    def name(self) -> str:
        """Where it listens; a tcp port of 0 has become the one that was chosen."""
        if self.address.path is not None:
            return f"unix:{self.address.path}"
        host, port = self.socket.getsockname()[:2]
        return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"

    def close(self) -> None:
        self.socket.close()
        if self.address.path is None or self._identity is None:
            return
        with contextlib.suppress(OSError):
            found = os.lstat(self.address.path)
            if (found.st_dev, found.st_ino) == self._identity:
                Path(self.address.path).unlink()

    def _listen_unix(self, path: str) -> socket.socket:
        _clear_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before bind: the file never exists with wider permissions
            listener.bind(path)
            found = os.lstat(path)
            self._identity = (found.st_dev, found.st_ino)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise _cannot_listen(f"unix:{path}", error) from None
        return listener

    def _listen_tcp(self) -> socket.socket:
        host, port = self.address.host, self.address.port
        where = f"tcp:{host}:{port}"
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise HostError(f"-qmp {where[:80]}: {error}", "give a host name or address of this host") from None
        family, _, _, _, bound = found[0]
        if not ipaddress.ip_address(str(bound[0]).partition("%")[0]).is_loopback and not self.address.allow_remote:
            raise UsageError(
                f"-qmp {where[:80]}: others could reach this address and would control the machine without a password",
                f"use tcp:127.0.0.1:{port} and a tunnel, or consent with {_REMOTE}=on",
            )
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(bound)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise _cannot_listen(where, error) from None
        return listener


def _clear_stale(path: str) -> None:
    """Remove a socket file that nobody listens at; refuse what is in use and what is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_listen(f"unix:{path}", error) from None
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"-qmp unix:{path}: the file exists and is not a socket", "give another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                with contextlib.suppress(FileNotFoundError):
                    Path(path).unlink()
                return
            if error.errno != errno.EAGAIN:
                raise _cannot_listen(f"unix:{path}", error) from None
    raise HostError(f"-qmp unix:{path}: another process listens there", "end it, or give another path")


def _cannot_listen(where: str, error: OSError) -> HostError:
    return HostError(
        f"-qmp {where}: cannot listen: {error.strerror}", "give an address that is free", errno=error.errno or 0
    )
