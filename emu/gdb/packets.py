"""gdb's remote serial protocol as bytes: packets out of a stream, and into one.

A packet is ``$data#nn``, where nn is the sum of its bytes; ``}`` escapes a byte (gdb manual, "Overview", appendix
E.1). Whoever is at the other end may send anything: what is kept is bounded, and what is no packet is dropped.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

LONGEST = 0x4000
"""Bytes of data in one packet, in either direction; gdb is told."""

_ESCAPED = frozenset(b"#$}*")
_ESCAPE, _ESCAPE_XOR = 0x7D, 0x20
_INTERRUPT = 0x03


class Signal(enum.Enum):
    """What is no packet."""

    ACK = "+"
    NAK = "-"
    INTERRUPT = "interrupt"
    """Ctrl-C."""
    BROKEN = "broken"
    """A packet whose sum is wrong."""
    OVERLONG = "overlong"
    """A packet that is longer than was agreed."""


def checksum(data: bytes | bytearray) -> int:
    return sum(data) & 0xFF


def encode(data: bytes) -> bytes:
    """``data`` as a packet, its special bytes escaped."""
    escaped = bytearray()
    for byte in data:
        if byte in _ESCAPED:
            escaped += bytes((_ESCAPE, byte ^ _ESCAPE_XOR))
        else:
            escaped.append(byte)
    return b"$%b#%02x" % (bytes(escaped), checksum(escaped))


def unescape(data: bytes) -> bytes:
    """What binary ``data`` of a packet means. An escape at the end, which means nothing, is dropped."""
    plain, rest = bytearray(), iter(data)
    for byte in rest:
        if byte != _ESCAPE:
            plain.append(byte)
        elif (escaped := next(rest, None)) is not None:
            plain.append(escaped ^ _ESCAPE_XOR)
    return bytes(plain)


class Reader:
    """Takes the stream piece by piece; it keeps at most one packet."""

    def __init__(self) -> None:
        self._data: bytearray | None = None
        self._sum = b""
        self._in_sum = False

    def feed(self, stream: bytes) -> Iterator[bytes | Signal]:
        """What ``stream`` completes: the data of packets, still escaped, and signals."""
        for byte in stream:
            found = self._outside(byte) if self._data is None else self._inside(self._data, byte)
            if found is not None:
                yield found

    def _outside(self, byte: int) -> Signal | None:
        if byte == ord("$"):
            self._data, self._sum, self._in_sum = bytearray(), b"", False
        return {ord("+"): Signal.ACK, ord("-"): Signal.NAK, _INTERRUPT: Signal.INTERRUPT}.get(byte)

    def _inside(self, data: bytearray, byte: int) -> bytes | Signal | None:
        if self._in_sum:
            self._sum += bytes([byte])
            if len(self._sum) < 2:
                return None
            self._data = None
            try:
                whole = int(self._sum, 16) == checksum(data)
            except ValueError:
                whole = False
            return bytes(data) if whole else Signal.BROKEN
        if byte == ord("#"):
            self._in_sum = True
        elif byte == ord("$"):  # the packet before was cut off
            data.clear()
        elif len(data) == LONGEST:
            self._data = None
            return Signal.OVERLONG
        else:
            data.append(byte)
        return None
