"""A debugger's side of the protocol, over a socket file."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emu import board
from emu.config import BackendConfig, MachineConfig, NvdimmConfig
from emu.devices.contract import ExitRequest
from emu.gdb.packets import Reader, Signal, encode
from emu.gdb.server import Server
from emu.host.sockets import UnixAddress
from emu.machine import Exit, Machine

MIB = 1 << 20
PATIENCE_S = 20
CODE = 0x100000
PMEM = 0x1_0000_0000
RIP = 16


class Client:
    """Speaks the protocol without acknowledgements."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
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


@dataclass
class Debugged:
    """A machine that runs in a thread, and where a debugger reaches it."""

    machine: Machine
    path: Path
    thread: threading.Thread
    ends: list[Exit]
    output: bytearray

    def connect(self) -> Client:
        return Client(self.path)

    def ended(self) -> Exit:
        self.thread.join(PATIENCE_S)
        return self.ends[0]


@contextmanager
def debugged(folder: Path, code: bytes, *, paused: bool = True) -> Iterator[Debugged]:
    """``code`` as a flat guest with a blank NVDIMM of 2 MiB, standing before its first instruction."""
    image, output = folder / "guest.bin", bytearray()
    image.write_bytes(code)
    nvdimm = NvdimmConfig(backend=BackendConfig(id="m0", path=str(folder / "pmem.img"), size=2 * MIB, share=True))
    config = MachineConfig(
        image=str(image), ram_size=16 * MIB, nvdimms=(nvdimm,), slots=1, max_memory=256 * MIB, start_paused=paused
    )
    ends: list[Exit] = []
    with board.build(config, board.Outputs(serial=output.extend)) as machine:
        server = Server(machine, UnixAddress(str(folder / "gdb.sock")))
        thread = threading.Thread(target=lambda: ends.append(machine.run(PATIENCE_S)))
        thread.start()
        try:
            yield Debugged(machine, folder / "gdb.sock", thread, ends, output)
        finally:
            server.finish()
            machine.end(ExitRequest("quit", 0))
            thread.join()
