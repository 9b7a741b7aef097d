"""The _DSM port against QEMU's: the same pages written to both give the same answers and the same label areas."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.config import BackendConfig, MachineConfig, NvdimmConfig, PersistenceDomain
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.nvdimm.dsm import DsmPort
from emu.devices.nvdimm.placement import DeviceMemory
from emu.units import GIB, KIB, MIB
from tests.oracle.requirements import require

PAGE = 0x10000
RAM = 1 * MIB
LABEL_SIZE = 128 * KIB
SIZE = 2 * MIB


class QtestQemu:
    """A QEMU whose CPU stands still: ports and memory are reached through its test protocol."""

    def __init__(self, options: list[str], scratch: Path) -> None:
        address = scratch / "qtest"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(address))
        listener.listen(1)
        listener.settimeout(10)
        qemu = require("qemu-system-x86_64", "qemu-system-x86")
        self.process = subprocess.Popen(
            [
                qemu,
                *options,
                "-nodefaults",
                "-display",
                "none",
                "-S",
                "-qtest",
                f"unix:{address}",
                "-qtest-log",
                "/dev/null",
            ],
            stderr=subprocess.PIPE,
        )
        try:
            self._socket = listener.accept()[0]
        except TimeoutError:
            self.process.kill()
            pytest.fail(f"QEMU did not connect: {self.process.communicate()[1].decode()}")
        finally:
            listener.close()
        self._socket.settimeout(30)
        self._lines = self._socket.makefile("r")

    def command(self, text: str) -> str:
        self._socket.sendall(text.encode() + b"\n")
        answer = self._lines.readline().split()
        assert answer[:1] == ["OK"], answer
        return answer[1] if len(answer) > 1 else ""

    def write(self, gpa: int, data: bytes) -> None:
        self.command(f"write {gpa:#x} {len(data):#x} 0x{data.hex()}")

    def read(self, gpa: int, size: int) -> bytes:
        return bytes.fromhex(self.command(f"read {gpa:#x} {size:#x}")[2:])

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
        self.process.kill()
        self.process.communicate()


class Ram:
    def __init__(self) -> None:
        self.content = bytearray(RAM)

    def read(self, gpa: int, length: int) -> bytes:
        return bytes(self.content[gpa : gpa + length])

    def write(self, gpa: int, data: bytes) -> None:
        self.content[gpa : gpa + len(data)] = data


class Nothing:
    host_power_loss = False


class NotDurable:
    survives = Nothing()


class Bytes:
    """A mapping of a file's content."""

    alignment = 4096
    readonly = False

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.size = len(content)
        self.view = memoryview(self.content)
        self.durability = NotDurable()

    def persist(self, offset: int, length: int) -> None:
        assert 0 <= offset <= offset + length <= self.size


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[QtestQemu, DsmPort, Ram, Bytes, Path]]:
    """QEMU and our port with the same two NVDIMMs: slot 0 with labels, slot 2 without."""
    labelled, plain = tmp_path / "labelled", tmp_path / "plain"
    labelled.write_bytes(random.Random(1).randbytes(SIZE))
    plain.write_bytes(bytes(SIZE))
    options = ["-machine", "q35,nvdimm=on,nvdimm-persistence=cpu", "-m", "64M,slots=3,maxmem=1G"]
    for name, path, words in (("a", labelled, f"label-size={LABEL_SIZE}B"), ("b", plain, "slot=2")):
        options += ["-object", f"memory-backend-file,id={name},share=on,mem-path={path},size={SIZE}B"]
        options += ["-device", f"nvdimm,memdev={name},id=nv{name},{words}"]
    machine = MachineConfig(ram_size=64 * MIB, slots=3, max_memory=GIB)
    window, ram = DeviceMemory(machine), Ram()
    port = DsmPort(ram, PersistenceDomain.EADR)
    backing = Bytes(labelled.read_bytes())
    for config, mapping in (
        (NvdimmConfig(backend=BackendConfig(id="a"), id="nva", label_size=LABEL_SIZE), backing),
        (NvdimmConfig(backend=BackendConfig(id="b"), id="nvb", slot=2), Bytes(bytes(SIZE))),
    ):
        placed = window.plug(config, SIZE, 4096)
        port.plug(NvdimmDevice(config, mapping, gpa=placed.gpa, slot=placed.slot))
    qemu = QtestQemu(options, tmp_path)
    try:
        yield qemu, port, ram, backing, labelled
    finally:
        qemu.close()


def calls(chance: random.Random, count: int) -> Iterator[tuple[int, bytes]]:
    """(address, page) of calls: sensible ones and nonsense, except what makes QEMU abort (a transfer of zero bytes)."""
    numbers = (
        0,
        1,
        2,
        3,
        4,
        16,
        0x1000,
        LABEL_SIZE - 1,
        LABEL_SIZE,
        LABEL_SIZE + 1,
        0x7FFFFFFF,
        0xFFFFFFFE,
        0xFFFFFFFF,
    )
    for _ in range(count):
        handle = chance.choice((0, 1, 1, 1, 2, 3, 4, 0x10000, 0x10000, 0x10001, chance.getrandbits(32)))
        revision = 1 if chance.random() < 0.95 else chance.choice((0, 2, chance.getrandbits(32)))
        function = chance.choice((0, 1, 1, 2, 3, 4, 5, 5, 6, 6, 7, chance.getrandbits(32)))
        offset = chance.choice((*numbers, chance.randrange(LABEL_SIZE), 200, 184))
        length = chance.choice((1, 7, 8, 4075, 4076, 4077, chance.randrange(1, 4077), *(n for n in numbers if n)))
        page = struct.pack("<IIIII", handle, revision, function, offset, length) + chance.randbytes(4076)
        yield PAGE + chance.choice((0, 0, 0, 1, 4, 4095)), page


def test_the_same_answers(both: tuple[QtestQemu, DsmPort, Ram, Bytes, Path]) -> None:
    qemu, port, ram, backing, file = both
    for number, (address, page) in enumerate(calls(random.Random(42), 2000)):
        qemu.write(address, page)
        ram.write(address, page)
        qemu.command(f"outl 0xa18 {address:#x}")
        port.write(0, 4, address)
        theirs, ours = qemu.read(address, 4096), ram.read(address, 4096)
        assert ours == theirs, (number, page[:20].hex(), ours[:32].hex(), theirs[:32].hex())
    assert qemu.command("inl 0xa18") == "0x0000"
    deadline = time.monotonic() + 10
    while file.read_bytes() != bytes(backing.content):
        assert time.monotonic() < deadline, "the label areas differ"


def test_the_fit_is_stale_until_read_from_its_start(both: tuple[QtestQemu, DsmPort, Ram, Bytes, Path]) -> None:
    qemu, port, ram, _, _ = both
    for offset in (16, 0, 16, 384, 385, 4096):
        page = struct.pack("<IIII", 0x10000, 1, 1, offset).ljust(4096, b"\xaa")
        qemu.write(PAGE, page)
        ram.write(PAGE, page)
        qemu.command(f"outl 0xa18 {PAGE:#x}")
        port.write(0, 4, PAGE)
        assert ram.read(PAGE, 4096) == qemu.read(PAGE, 4096), offset
