"""A debugger's side of the protocol, over a socket file."""

from __future__ import annotations

import socket
from pathlib import Path

from emu.gdb.packets import Reader, Signal, encode

PATIENCE_S = 60
CODE = 0x100000
PMEM = 0x1_0000_0000
RIP = 16


class Client:
    """Speaks the protocol without acknowledgements."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._reader = Reader()
        self._packets: list[bytes] = []
        assert self.ask(b"QStartNoAckMode") == b"OK"

    def send(self, packet: bytes) -> None:
        self.socket.sendall(encode(packet))

    def receive(self) -> bytes:
        """The next packet; b"" when the other side has closed."""
        while not self._packets:
            stream = self.socket.recv(1 << 16)
            if not stream:
                return b""
            self._packets += [found for found in self._reader.feed(stream) if not isinstance(found, Signal)]
        return self._packets.pop(0)

    def ask(self, packet: bytes) -> bytes:
        self.send(packet)
        return self.receive()

    def monitor(self, line: str) -> str:
        self.send(b"qRcmd," + line.encode().hex().encode())
        said = ""
        while (packet := self.receive()) != b"OK":
            assert packet.startswith(b"O"), packet
            said += bytes.fromhex(packet[1:].decode()).decode()
        return said

    @property
    def rip(self) -> int:
        return int.from_bytes(bytes.fromhex(self.ask(b"p%x" % RIP).decode()), "little")

    def interrupt(self) -> None:
        self.socket.sendall(b"\x03")

    def close(self) -> None:
        self.socket.close()
