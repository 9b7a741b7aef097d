"""A machine that runs in this process, and that a debugger reaches at a socket file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emu import board
from emu.config import BackendConfig, MachineConfig, NvdimmConfig, RunOptions
from emu.devices.contract import ExitRequest
from emu.gdb.gate import Gate
from emu.gdb.server import Server
from emu.host.sockets import UnixAddress
from emu.machine import Exit, Machine
from tests.gdb_client import PATIENCE_S, Client

MIB = 1 << 20


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
    config = MachineConfig(image=str(image), ram_size=16 * MIB, nvdimms=(nvdimm,), slots=2, max_memory=256 * MIB)
    ends: list[Exit] = []
    gate = Gate()
    outputs = gate.around(board.Outputs(serial=output.extend))
    with board.build(config, outputs, RunOptions(start_paused=paused)) as machine:
        server = Server(machine, UnixAddress(str(folder / "gdb.sock")))
        gate.seen = lambda: server.travel.seen
        server.start()
        thread = threading.Thread(target=lambda: ends.append(machine.run(PATIENCE_S)))
        thread.start()
        try:
            yield Debugged(machine, folder / "gdb.sock", thread, ends, output)
        finally:
            machine.end(ExitRequest("quit", 0))
            thread.join()
            server.finish()
