"""Test doubles for migration: a guest made of real mappings and real file locks, without a CPU."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from emu.errors import HostError, StateError
from emu.host import kernel, pages
from emu.host.faults import DirtyLog, Guard
from emu.host.pages import Copied, Taken
from emu.host.sockets import Listener, UnixAddress
from emu.memory.lock import FileLock
from emu.migration.channel import Interrupt, SocketChannel
from emu.migration.destination import Destination
from emu.migration.facts import BlockFacts, FileFacts, MachineFacts, NvdimmFacts
from emu.migration.guest import Block
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.passed import PassedFile
from emu.migration.progress import Progress
from emu.migration.proof import BackingFileLock
from emu.migration.reception import Door
from emu.migration.source import Source
from emu.migration.stream import FROM_DESTINATION, FROM_SOURCE, Decoder, FrameType
from emu.state import Fields, SavedState

RAM = 64 * 4096
PMEM = 128 * 4096


class Memory:
    """One mapping: anonymous, or shared of a file. Remembers what was persisted."""

    def __init__(self, size: int, path: Path | None = None) -> None:
        self.size = self.mapped = size
        self.fd = -1
        if path is not None:
            if not path.exists():
                path.touch()
                os.truncate(path, size)
            self.fd = kernel.open_file(path, write=True)
        self.address = kernel.map_memory(size, what="test", fd=self.fd, shared=self.fd >= 0)
        self.view = kernel.memory_view(self.address, size)
        self.guard = Guard(self.address, size)
        self.copied = 0
        self.populated = False
        self.persisted: list[tuple[int, int]] = []
        self.fail_persist: Exception | None = None
        self.lock = None
        if path is not None:
            lock = FileLock(self.fd, write=True, share=False, name=str(path))
            with contextlib.suppress(HostError):
                lock.acquire()
            self.lock = BackingFileLock(lock)

    def persist(self, offset: int, length: int) -> None:
        if self.fail_persist is not None:
            raise self.fail_persist
        self.persisted.append((offset, length))

    offset = 0

    def store(self, offset: int, data: memoryview) -> None:
        os.pwrite(self.fd, data, offset)

    def open_readonly(self) -> int:
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY)

    def copy_from(self, source: PassedFile, offset: int, count: int) -> Copied:
        self.copied += count * 4096
        if self.populated:
            return Copied(source.read(offset, self.view[offset : offset + count * 4096]), [])
        return source.copy(offset, self.fd, offset, count, to_what="test")

    def take(self, offset: int, target: memoryview, running: int) -> Taken:
        return pages.take(self.fd, offset, target, running, what="test")

    def populate(self, offset: int, length: int) -> None: ...

    def is_populated(self, offset: int, length: int) -> bool:
        return self.populated

    def lost(self) -> int | None:
        page = self.guard.lost()
        return None if page is None else page.offset

    def close(self) -> None:
        self.guard.close()
        self.view.release()
        kernel.unmap_memory(self.address, self.mapped)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass
class FakeGuest:
    """A machine with RAM, at most one NVDIMM, and one component of state."""

    ram: Memory
    pmem: Memory | None = None
    path: Path | None = None
    nvdimm: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    running: bool = True
    counter: int = 7
    history: list[str] = field(default_factory=list)
    on_stop: Any = None

    def facts(self) -> MachineFacts:
        blocks = [BlockFacts("pc.ram", self.ram.size)]
        nvdimms: tuple[NvdimmFacts, ...] = ()
        if self.pmem is not None:
            blocks.append(BlockFacts("m1", self.pmem.size))
            status = self.path.stat() if self.path else None
            one = NvdimmFacts(
                id="nv1", block="m1", size=self.pmem.size, label_size=0, uuid="u", unarmed=False, slot=0, gpa=1 << 32,
                node=0, readonly=False, granularity="page", survives_guest_crash=True, survives_emulator_kill=True,
                survives_host_power_loss=False, share=True,
                file=FileFacts(status.st_dev, status.st_ino, "boot") if status else None,
            )  # fmt: skip
            nvdimms = (replace(one, **self.nvdimm),)
        facts = MachineFacts(self.ram.size, "virtual", "none", tuple(blocks), nvdimms)
        return replace(facts, **self.machine)

    def blocks(self) -> list[Block]:
        found = [Block("pc.ram", self.ram.view, True, False, False, "none", self.ram)]
        if self.pmem is not None:
            path = str(self.path) if self.path else None
            found.append(
                Block(
                    "m1", self.pmem.view, True, True, True, "page", self.pmem, path, self.pmem.lock,
                    file=self.pmem if path else None, descriptor=self.pmem.fd if path else None,
                )
            )  # fmt: skip
        return found

    def tracker(self, block: Block) -> DirtyLog:
        memory = self.ram if block.name == "pc.ram" else self.pmem
        assert memory is not None
        return DirtyLog(memory.address, memory.size)

    def stop(self) -> None:
        if self.on_stop is not None:
            self.on_stop()
        self.running = False
        self.history.append("stop")

    def go_on(self) -> None:
        self.running = True
        self.history.append("go-on")

    def protect_files(self) -> None:
        self.history.append("protect")

    def rest(self) -> None:
        self.history.append("rest")

    def handed_over(self, copied: Iterable[str]) -> None:
        self.history.append(f"handed-over {','.join(copied)}")

    def save(self) -> Mapping[str, SavedState]:
        return {"cpu": SavedState("counter", 1, {"value": self.counter, "blob": b"\x00\xff", "list": [1, 2]})}

    def restore(self, states: Mapping[str, SavedState]) -> None:
        if states.keys() != {"cpu"}:
            raise StateError("saved state and machine differ in their components")
        fields = Fields(states["cpu"], kind="counter", version=1)
        self.counter = fields.integer("value")
        fields.octets("blob")
        fields.integers("list", 2)
        fields.finish()

    def hold_back(self, seconds: float) -> None:
        self.history.append("held-back")

    def close(self) -> None:
        self.ram.close()
        if self.pmem is not None:
            self.pmem.close()


def make_guest(path: Path | None = None, **changes: Any) -> FakeGuest:
    pmem = None if path is None else Memory(PMEM, path)
    return FakeGuest(Memory(RAM), pmem, path, **changes)


def fill(guest: FakeGuest, seed: int = 1) -> None:
    """Content with data pages, zero pages and runs of both."""
    generator = __import__("random").Random(seed)
    for memory in (guest.ram, guest.pmem):
        if memory is None:
            continue
        for page in range(memory.size // 4096):
            if generator.random() < 0.6:
                memory.view[page * 4096 : (page + 1) * 4096] = generator.randbytes(4096)


@dataclass
class Result:
    """What became of both sides: the exception each ended with, or None; ``runs`` is what the destination returned."""

    source: BaseException | None = None
    destination: BaseException | None = None
    runs: bool | None = None
    source_progress: Progress = field(default_factory=Progress)
    destination_progress: Progress = field(default_factory=Progress)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Over TCP all pages are sent; over a unix socket those of files are copied by reference."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname()), server.accept()[0]


@contextlib.contextmanager
def two_guests(folder: Path) -> Iterator[tuple[FakeGuest, FakeGuest]]:
    """A source with something in it, and a destination."""
    source, destination = make_guest(folder / "a"), make_guest(folder / "b", running=False)
    fill(source)
    yield source, destination
    source.close()
    destination.close()


def when_sent(kind: FrameType, do: Callable[[], None], times: int = 1) -> Callable[[Source, Interrupt], None]:
    """Do it just after the source has sent a frame of this kind, so many ``times``."""

    def hook(side: Source, _: Interrupt) -> None:
        send, left = side._channel.send, [do] * times

        def sent(frame: FrameType, *arguments: Any, **options: Any) -> None:
            send(frame, *arguments, **options)
            if frame is kind and left:
                left.pop()()

        side._channel.send = sent  # type: ignore[assignment, method-assign]

    return hook


def migrate(
    source: FakeGuest,
    destination: FakeGuest,
    *,
    capabilities: Capabilities | None = None,
    there: Capabilities | None = None,
    parameters: Parameters | None = None,
    sockets: tuple[socket.socket, socket.socket] | None = None,
    on_source: Any = None,
    on_destination: Any = None,
    door: Path | None = None,
    dial: Any = None,
    stall: float = 5.0,
    patience: float | None = None,
) -> Result:
    """Migrate over a socket pair, both sides in threads, and wait for both.

    Further connections arrive at the socket ``door``, which ``dial(number)`` may open in its own way, and which waits
    for them for ``patience`` seconds, or ``stall``.
    """
    left, right = sockets or socket.socketpair()
    result = Result()
    interrupts = Interrupt(), Interrupt()
    listener = None if door is None else Listener(UnixAddress(str(door)), option="test")
    numbers = itertools.count()

    def connect() -> SocketChannel:
        sock = (dial or (lambda number: connected(door)))(next(numbers))
        return SocketChannel(sock, Decoder(FROM_DESTINATION), interrupts[0], stall_timeout=stall)

    def source_side() -> None:
        channel = SocketChannel(left, Decoder(FROM_DESTINATION), interrupts[0], stall_timeout=stall)
        try:
            side = Source(
                source, channel, capabilities=capabilities or Capabilities(),
                parameters=lambda: parameters or Parameters(), progress=result.source_progress, interrupt=interrupts[0],
                dial=None if door is None else connect,
            )  # fmt: skip
            if on_source is not None:
                on_source(side, interrupts[0])
            side.run()
        except BaseException as error:
            result.source = error
        finally:
            channel.close()

    def destination_side() -> None:
        side = Destination(
            destination,
            capabilities=there or Capabilities(),
            progress=result.destination_progress,
            interrupt=interrupts[1],
        )
        channel = SocketChannel(right, Decoder(FROM_SOURCE, side.place), interrupts[1], stall_timeout=stall)
        try:
            if on_destination is not None:
                on_destination(side, channel)
            way_in = (
                None
                if listener is None
                else Door(listener, interrupts[1], patience=stall if patience is None else patience)
            )
            result.runs = side.run(channel, None, way_in)
            destination.running = result.runs
            side.taken_over(channel)
        except BaseException as error:
            result.destination = error
        finally:
            side.close()
            channel.close()

    threads = [threading.Thread(target=side, daemon=True) for side in (source_side, destination_side)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a side of the migration hangs"
    for interrupt in interrupts:
        interrupt.close()
    if listener is not None:
        listener.close()
    return result


def connected(path: Path | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock
