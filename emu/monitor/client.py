"""A QMP client: one command after the other, on a socket."""

from __future__ import annotations

import json
import socket
from typing import Any

from emu.errors import HostError
from emu.words import printable

_LONGEST_REPLY = 16 << 20


class QmpClient:
    """A QMP client that does one thing after the other. HostError when the machine is not there or says no."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._received = b""
        self._socket = _connect(address)
        try:
            if "QMP" not in self._read():
                raise HostError(f"{address} does not greet as QMP", "name the socket given to emu run -qmp")
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> QmpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """What ``command`` returns; HostError with its description when it fails. Events are skipped."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._gone(error.strerror or "") from None
        while True:
            reply = self._read()
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise HostError(f"{command}: {printable(str(reply['error'].get('desc', reply['error'])))}")

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise self._gone(error.strerror or "") from None
            if not data or len(self._received) > _LONGEST_REPLY:
                raise self._gone("it closed the connection")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except ValueError:
            raise self._gone("it does not speak QMP") from None
        return reply if isinstance(reply, dict) else {}

    def _gone(self, why: str) -> HostError:
        return HostError(f"the machine at {self._address} does not answer: {why}", "see whether its emu still runs")


def _connect(address: str) -> socket.socket:
    host, colon, port = address.removeprefix("tcp:").rpartition(":")
    try:
        if colon and port.isdigit() and "/" not in host and not address.startswith("unix:"):
            return socket.create_connection((host or "127.0.0.1", int(port)), timeout=30)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(30)
            sock.connect(address.removeprefix("unix:"))
        except BaseException:
            sock.close()
            raise
        return sock
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise HostError(
            f"no QMP at {address}: {why}", "start the machine with -qmp unix:PATH,server=on,wait=off"
        ) from None
