"""Where the monitor listens: ``-qmp unix:PATH,server=on,wait=off`` and ``tcp:HOST:PORT,...`` become bound sockets.

Whoever reaches the socket controls the machine and reads and writes files as its user. So a unix socket is made for its
owner alone (mode 0600), and a tcp address must be this host's own (loopback) unless the option says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from emu.errors import UsageError
from emu.host import sockets

_HINT = "write unix:PATH,server=on,wait=off or tcp:HOST:PORT,server=on,wait=off"
_REMOTE = "x-emu-allow-remote"
_KEYS = ("server", "wait", _REMOTE)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. ``wait``: the machine starts only when a client is there."""

    address: sockets.SocketAddress
    wait: bool = True
    allow_remote: bool = False


def parse(text: str) -> ListenAddress:
    """The address that ``text`` names; UsageError when it names none."""
    address, *options = sockets.split_words(text)
    switches = sockets.switches(options, _KEYS, f"-qmp {text[:64]}", _HINT)
    if not switches.get("server", False):
        raise UsageError(f"-qmp {text[:64]}: only listening sockets are offered", f"add server=on; {_HINT}")
    found = sockets.parse(address)
    if found is None:
        raise UsageError(f"-qmp {text[:64]}: not an address to listen at", _HINT)
    return ListenAddress(found, wait=switches.get("wait", True), allow_remote=switches.get(_REMOTE, False))


class Listener(sockets.Listener):
    """A monitor's listener: at an address that only this host reaches, unless the option lets others in."""

    def __init__(self, spec: ListenAddress) -> None:
        """UsageError or HostError when nothing can or may listen there."""
        super().__init__(spec.address, option="-qmp", consent=None if spec.allow_remote else f"{_REMOTE}=on")
        self.wait = spec.wait
