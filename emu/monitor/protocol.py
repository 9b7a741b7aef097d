"""A QMP session without sockets: bytes in, requests out; answers and events in, bytes out.

Order on the wire (docs/interop/qmp-spec of QEMU): the server greets; until the client has sent ``qmp_capabilities``
every other command is CommandNotFound and no event is sent; afterwards ``qmp_capabilities`` itself is an error. Each
request is answered in order, with its ``id`` when it had one. Lines are ASCII and end in CRLF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from emu import __version__
from emu.monitor.errors import COMMAND_NOT_FOUND, QmpError
from emu.monitor.jsonstream import Decoded, JsonDecoder, encode_line
from emu.monitor.schema import Array, Enum, Struct, optional

# The QEMU release whose commands, names and defaults these are; clients choose by it what they dare to use.
MODEL = (7, 2, 0)
VERSION: Final[dict[str, Any]] = {
    "qemu": dict(zip(("major", "minor", "micro"), MODEL, strict=True)),
    "package": f"emu {__version__}",
}
NEGOTIATE = "qmp_capabilities"
NEGOTIATE_ARGUMENTS = Struct(f"{NEGOTIATE}-arg", (optional("enable", Array(Enum("QMPCapability", ("oob",)))),))
_MEMBERS = ("execute", "arguments", "id")
_SHOWN = 64


@dataclass(frozen=True, slots=True)
class Request:
    """A command to execute; hand it back with the answer. ``tag`` is () or the client's (id,)."""

    name: str
    arguments: dict[str, Any]
    tag: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, with the wall-clock time in nanoseconds when it did."""

    name: str
    data: dict[str, Any]
    time_ns: int

    def encode(self) -> bytes:
        seconds, rest = divmod(self.time_ns, 1_000_000_000)
        body: dict[str, Any] = {
            "timestamp": {"seconds": seconds, "microseconds": rest // 1000},
            "event": self.name,
        }
        return encode_line(body | ({"data": self.data} if self.data else {}))


class Session:
    """One client. Feed bytes with ``receive``, take requests with ``next_request`` and answer each with ``succeed`` or
    ``fail`` before taking the next; send what ``data_to_send`` gives. Nothing here raises for what a client sends.

    A ``strict`` session breaks at malformed input before the negotiation. It is for tcp: a web browser can be made to
    send any text to a port of its own host, but always behind a line of HTTP.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self.broken = False
        self._decoder = JsonDecoder()
        self._outgoing = bytearray(encode_line({"QMP": {"version": VERSION, "capabilities": []}}))
        self.negotiated = False

    @property
    def pending(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._outgoing)

    @property
    def idle(self) -> bool:
        """Whether everything received was looked at: only then should more be read."""
        return self._decoder.idle

    def data_to_send(self) -> bytearray:
        """The buffer of outgoing bytes; the caller deletes from its front what it sent."""
        return self._outgoing

    def receive(self, data: bytes) -> None:
        self._decoder.feed(data)

    def next_request(self, *, output_limit: int) -> Request | None:
        """The next command, or None when more bytes are needed or ``output_limit`` bytes wait to be sent.

        Malformed input and negotiation are answered here.
        """
        while self.pending < output_limit and not self.broken:
            item = self._decoder.next_item()
            if item is None:
                return None
            if not isinstance(item, Decoded):
                self.broken = self._strict and not self.negotiated
                self._send_error((), QmpError(item.why))
                continue
            tag: tuple[Any, ...] = ()
            try:
                if isinstance(item.value, dict) and "id" in item.value:
                    tag = (item.value["id"],)
                request = _parse(item.value, tag)
                if request.name == NEGOTIATE or not self.negotiated:
                    self._negotiate(request)
                    continue
            except QmpError as error:
                self._send_error(tag, error)
                continue
            return request
        return None

    def succeed(self, request: Request, value: Any) -> None:
        """Answer ``request`` with ``value``."""
        self._send({"return": value}, request.tag)

    def fail(self, request: Request, error: QmpError) -> None:
        """Answer ``request`` with ``error``."""
        self._send_error(request.tag, error)

    def event(self, event: Event) -> None:
        """Tell the client of ``event``, if it has negotiated."""
        if self.negotiated:
            self._outgoing += event.encode()

    def _negotiate(self, request: Request) -> None:
        if self.negotiated:
            what = "Capabilities negotiation is already complete, command ignored"
            raise QmpError(what, COMMAND_NOT_FOUND)
        if request.name != NEGOTIATE:
            raise QmpError(f"Expecting capabilities negotiation with '{NEGOTIATE}'", COMMAND_NOT_FOUND)
        NEGOTIATE_ARGUMENTS.check(request.arguments)
        if request.arguments.get("enable"):
            raise QmpError("Capability 'oob' is not available")
        self.negotiated = True
        self._send({"return": {}}, request.tag)

    def _send(self, answer: dict[str, Any], tag: tuple[Any, ...]) -> None:
        self._outgoing += encode_line(answer | ({"id": tag[0]} if tag else {}))

    def _send_error(self, tag: tuple[Any, ...], error: QmpError) -> None:
        self._send({"error": {"class": error.error_class, "desc": error.description}}, tag)


def _parse(value: Any, tag: tuple[Any, ...]) -> Request:
    if not isinstance(value, dict):
        raise QmpError("QMP input must be a JSON object")
    for name in value:
        if name not in _MEMBERS:
            raise QmpError(f"QMP input member '{name[:_SHOWN]}' is unexpected")
    if "execute" not in value:
        raise QmpError("QMP input lacks member 'execute'")
    if not isinstance(value["execute"], str):
        raise QmpError("QMP input member 'execute' must be a string")
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise QmpError("QMP input member 'arguments' must be an object")
    return Request(value["execute"], arguments, tag)
