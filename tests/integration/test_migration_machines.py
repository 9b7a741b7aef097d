"""Two whole machines in one process: a guest that counts in persistent memory moves while it counts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from emu import board, guest
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig, RunOptions
from emu.devices.contract import ExitRequest
from emu.errors import UsageError
from emu.host.pagemap import Untouched
from emu.machine import Machine, RunState
from emu.memory import Mapping, incomplete
from emu.migration.adapter import MachineGuest
from emu.migration.channel import FileWriter
from emu.migration.controller import MigrationControl
from emu.migration.progress import Status

MIB = 1 << 20
PMEM = 4 * MIB
LABELS = 128 << 10


@dataclass
class Running:
    """A machine that runs in a thread of its own."""

    machine: Machine
    control: MigrationControl
    serial: bytearray
    thread: threading.Thread | None = None
    outcome: list[Any] = field(default_factory=list)

    def go(self) -> None:
        self.thread = threading.Thread(target=lambda: self.outcome.append(self.machine.run()), daemon=True)
        self.thread.start()

    def wait_for(self, text: bytes, timeout: float = 60) -> None:
        wait_until(
            lambda: text in self.serial, timeout, f"{text!r} on the serial port, got {bytes(self.serial)[-200:]!r}"
        )

    def ended(self) -> None:
        """Wait until the machine has."""
        assert self.thread is not None
        self.thread.join(120)
        assert not self.thread.is_alive()

    def close(self) -> None:
        self.control.finish()
        self.machine.end(ExitRequest("quit", 0))
        if self.thread is not None:
            self.ended()
        self.machine.close()


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.01)


def config(path: Path, *, image: str | None = "count", cmdline: str = "0 20000", **changes: Any) -> MachineConfig:
    found = guest.find(image) if image else None
    backend = BackendConfig(id="m1", path=str(path), size=PMEM, share=True)
    nvdimm = NvdimmConfig(backend=backend, id="nv1", label_size=LABELS)
    made = MachineConfig(
        image=str(found.path) if found else None, cmdline=cmdline, ram_size=16 * MIB, slots=2, max_memory=1 << 30,
        nvdimms=(nvdimm,),
    )  # fmt: skip
    return replace(made, **changes)


class Start(Protocol):
    """Starts a machine; the names are those of ``RunOptions``."""

    def __call__(self, settings: MachineConfig, **how: Any) -> Running: ...


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Running] = []

    def make(settings: MachineConfig, **how: Any) -> Running:
        serial = bytearray()
        options = RunOptions(**how)
        machine = board.build(settings, board.Outputs(serial=serial.extend), options)
        running = Running(machine, MigrationControl(machine), serial)
        made.append(running)
        if options.incoming is not None:
            running.control.incoming(options.incoming)
        running.go()
        return running

    yield make
    for running in reversed(made):
        running.close()


def numbers(serial: bytes) -> list[int]:
    """The numbers of the whole lines."""
    return [int(line.split()[1]) for line in serial.decode().split("\n")[:-1] if line.startswith("count ")]


def gapless(before: bytes, after: bytes) -> bool:
    """Whether what two machines printed is one count, also where a line was printed partly here and partly there."""
    found = numbers(before + after)
    return len(found) > 1 and found == list(range(20000, 20000 * (len(found) + 1), 20000))


def test_a_counting_guest_moves_and_goes_on_without_a_gap(start: Start, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m.sock"
    destination = start(config(tmp_path / "b.img", image=None), incoming=uri)
    source = start(config(tmp_path / "a.img"))
    source.wait_for(b"count 20000")
    source.machine.call(
        lambda: source.machine.backends[-1].mapping.view.__setitem__(slice(PMEM - 9, PMEM), b"label end")
    )
    source.control.start(uri)
    assert source.control.wait(60) is Status.COMPLETED, source.control.query()
    assert source.machine.state is RunState.POSTMIGRATE
    moved = len(source.serial)
    last = numbers(bytes(source.serial))[-1]
    destination.wait_for(f"count {last + 40000}".encode())
    destination.machine.pause()
    assert len(source.serial) == moved
    assert gapless(bytes(source.serial), bytes(destination.serial))
    assert destination.machine.backends[-1].mapping.view[PMEM - 9 :].tobytes() == b"label end"
    assert incomplete.reason(tmp_path / "b.img") is None
    with pytest.raises(UsageError, match="handed over"):
        source.control.take_back(force=True)
    report = source.control.query()["x-emu-persistence"]
    assert report[0]["bytes"] >= PMEM


def test_the_moved_guest_computes_what_the_unmoved_one_does(start: Start, tmp_path: Path) -> None:
    # A stop in every block makes each turn twenty times as long.
    turns = 1_500_000 if os.environ.get("EMU_STOP_EVERY_BLOCK") else 30_000_000
    still = start(config(tmp_path / "still.img", cmdline=f"{turns} 20000"))
    still.ended()
    uri = f"unix:{tmp_path}/m.sock"
    destination = start(config(tmp_path / "b.img", image=None), incoming=uri)
    source = start(config(tmp_path / "a.img", cmdline=f"{turns} 20000"))
    source.wait_for(b"count 20000")
    source.control.start(uri)
    assert source.control.wait(60) is Status.COMPLETED, source.control.query()
    destination.ended()
    assert bytes(source.serial) + bytes(destination.serial) == bytes(still.serial)
    assert destination.outcome[0].code == still.outcome[0].code
    assert (tmp_path / "b.img").read_bytes() == (tmp_path / "still.img").read_bytes()
    ours, theirs = destination.machine.save(), still.machine.save()
    assert ours.keys() == theirs.keys()


def test_a_refused_migration_leaves_the_guest_counting(start: Start, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m.sock"
    settings = config(tmp_path / "b.img", image=None)
    other = replace(settings.nvdimms[0], label_size=256 << 10)
    destination = start(replace(settings, nvdimms=(other,)), incoming=uri)
    source = start(config(tmp_path / "a.img"))
    source.wait_for(b"count 20000")
    source.control.start(uri)
    assert source.control.wait(60) is Status.FAILED
    answer = source.control.query()
    assert "label-size is 128 KiB at the source and 256 KiB at the destination" in answer["error-desc"]
    at = numbers(bytes(source.serial))[-1]
    source.wait_for(f"count {at + 40000}".encode())
    destination.ended()
    assert destination.outcome[0].status == 4
    assert incomplete.reason(tmp_path / "b.img") is None


def test_a_snapshot_resumes_where_it_was_taken(start: Start, tmp_path: Path) -> None:
    uri = f"file:{tmp_path}/machine.emu"
    source = start(config(tmp_path / "a.img"))
    source.wait_for(b"count 20000")
    source.control.start(uri)
    assert source.control.wait(60) is Status.COMPLETED, source.control.query()
    before = bytes(source.serial)
    last = numbers(before)[-1]
    source.control.take_back(force=False)
    source.machine.resume()
    source.wait_for(f"count {last + 40000}".encode())
    restored = start(config(tmp_path / "b.img", image=None), incoming=uri)
    restored.wait_for(f"count {last + 40000}".encode())
    assert gapless(bytes(before), bytes(restored.serial))
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_the_same_file_is_handed_over_without_copying(start: Start, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m.sock"
    source = start(config(tmp_path / "a.img"))
    destination = start(config(tmp_path / "a.img", image=None), incoming=uri)
    source.wait_for(b"count 20000")
    source.control.set_capabilities({"x-ignore-shared": True})
    source.control.start(uri)
    assert source.control.wait(60) is Status.COMPLETED, source.control.query()
    assert source.control.query()["ram"]["total"] == 16 * MIB
    last = numbers(bytes(source.serial))[-1]
    destination.wait_for(f"count {last + 40000}".encode())
    assert gapless(bytes(source.serial), bytes(destination.serial))


def test_ram_that_a_reset_clears_counts_as_stored_to(tmp_path: Path) -> None:
    """Nobody stores the zeros: the kernel drops the pages."""
    with board.build(config(tmp_path / "a.img"), board.Outputs()) as machine:
        seen = MachineGuest(machine)
        ram = next(block for block in seen.blocks() if not block.persistent)
        tracker = seen.tracker(ram)
        machine.boot()
        tracker.start()
        machine.reset()
        machine.step()
        assert tracker.collect() == [(0, ram.pages)]
        assert sum(count for _, count in tracker.collect()) < ram.pages, "it is told once"
        tracker.stop()


def test_with_a_paused_start_the_guest_arrives_and_waits(start: Start, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m.sock"
    destination = start(config(tmp_path / "b.img", image=None), incoming=uri, start_paused=True)
    source = start(config(tmp_path / "a.img"))
    source.wait_for(b"count 20000")
    source.control.start(uri)
    assert source.control.wait(60) is Status.COMPLETED, source.control.query()
    assert destination.machine.state is RunState.PAUSED
    assert destination.serial == b""
    last = numbers(bytes(source.serial))[-1]
    destination.machine.resume()
    destination.wait_for(f"count {last + 40000}".encode())
    assert gapless(bytes(source.serial), bytes(destination.serial))


def test_cancel_and_migrate_again(start: Start, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m.sock"
    first = start(config(tmp_path / "b.img", image=None), incoming=uri)
    source = start(config(tmp_path / "a.img"))
    source.wait_for(b"count 20000")
    source.control.set_parameters({"max-bandwidth": 200_000})
    source.control.start(uri)
    with pytest.raises(UsageError, match="in progress"):
        source.control.start(uri)
    wait_until(lambda: source.control.status is Status.ACTIVE, 10, "active migration")
    source.control.cancel()
    assert source.control.wait(60) is Status.CANCELLED
    first.ended()
    assert incomplete.reason(tmp_path / "b.img") is not None
    with pytest.raises(UsageError, match="incomplete"):
        board.build(config(tmp_path / "b.img"), board.Outputs())
    first.machine.close()
    source.control.set_parameters({"max-bandwidth": 0})
    second = start(config(tmp_path / "b.img", image=None), incoming=uri)
    source.control.start(uri)
    assert source.control.wait(60) is Status.COMPLETED, source.control.query()
    second.wait_for(b"count ")
    assert incomplete.reason(tmp_path / "b.img") is None


def test_what_nobody_uses_costs_nothing(start: Start, tmp_path: Path) -> None:
    """2 GiB of RAM and 16 GiB of NVDIMM, all but untouched: neither is read, or brought into memory, at either end."""
    size, uri = 16 << 30, f"unix:{tmp_path}/m.sock"

    def roomy(name: str, image: str | None) -> MachineConfig:
        backend = BackendConfig(id="m1", path=str(tmp_path / name), size=size, share=True)
        return config(
            tmp_path / name, image=image, ram_size=2 << 30, max_memory=32 << 30,
            nvdimms=(NvdimmConfig(backend=backend, id="nv1", label_size=LABELS),),
        )  # fmt: skip

    destination = start(roomy("b.img", None), incoming=uri)
    source = start(roomy("a.img", "count"))
    source.wait_for(b"count 20000")
    source.control.start(uri)
    assert source.control.wait(60) is Status.COMPLETED, source.control.query()
    destination.wait_for(b"count ")
    assert source.control.query()["ram"]["duplicate"] > (17 << 30) // 4096
    for running in (source, destination):
        ram = next(b.mapping for b in running.machine.backends if b.config.kind is BackendKind.RAM)
        assert touched(ram) < 8 * MIB
        assert (tmp_path / "ab"[running is destination]).with_suffix(".img").stat().st_blocks * 512 < 8 * MIB


def touched(mapping: Mapping) -> int:
    """Bytes of private memory that somebody has touched."""
    untouched, at, found = Untouched(mapping.address, mapping.size), 0, 0
    while (start := untouched.next_data(at)) < mapping.size:
        at = min(untouched.next_hole(start), mapping.size)
        found += at - start
    return found


def test_a_snapshot_is_completed_when_the_guest_stands_still_for_good(tmp_path: Path) -> None:
    """Who sees "completed" may let the guest run: nothing stops it again after that."""
    states: list[RunState] = []

    def emit(event: str, data: dict[str, Any]) -> None:
        if event == "MIGRATION" and data["status"] == "completed":
            states.append(machine.state)

    serial = bytearray()
    machine = board.build(config(tmp_path / "a.img"), board.Outputs(serial=serial.extend))
    running = Running(machine, MigrationControl(machine, emit), serial)
    running.go()
    running.wait_for(b"count 20000\n")
    running.control.start(f"file:{tmp_path}/snapshot")
    assert running.control.wait(60) is Status.COMPLETED
    assert states == [RunState.POSTMIGRATE]
    running.close()


def test_what_is_over_is_no_migration_in_progress(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sees "completed" may go on at once, though the thread of the migration still puts its channel away."""
    close = FileWriter.close

    def slowly(writer: FileWriter) -> None:
        time.sleep(0.3)
        close(writer)

    monkeypatch.setattr(FileWriter, "close", slowly)
    source = start(config(tmp_path / "a.img"))
    source.wait_for(b"count 20000\n")
    source.control.start(f"file:{tmp_path}/snapshot")
    with pytest.raises(UsageError, match="in progress"):
        source.control.set_capabilities({"events": True})
    wait_until(lambda: source.control.status is Status.COMPLETED, 60, "snapshot")
    source.control.set_capabilities({"events": True})


def test_who_was_interrupted_waiting_still_waits_before_the_machine_is_closed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration reads the machine's memory to its end."""
    close, closing, go_on = FileWriter.close, threading.Event(), threading.Event()

    def slowly(writer: FileWriter) -> None:
        closing.set()
        go_on.wait(60)
        close(writer)
        closing.clear()

    monkeypatch.setattr(FileWriter, "close", slowly)
    source = start(config(tmp_path / "a.img"))
    source.wait_for(b"count 20000\n")
    source.control.start(f"file:{tmp_path}/snapshot")
    assert closing.wait(60)
    main = threading.get_ident()
    interrupting = threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGUSR1])

    def interrupted(*_: object) -> None:
        raise InterruptedError

    def wait() -> None:
        interrupting.start()
        source.control.wait()

    before = signal.signal(signal.SIGUSR1, interrupted)
    try:
        with pytest.raises(InterruptedError):
            wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    threading.Timer(0.3, go_on.set).start()
    source.control.finish()
    assert not closing.is_set(), "it returned before the migration's thread had ended"


def test_discard_data_waits_for_the_destination(start: Start, tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m.sock"
    settings = config(tmp_path / "a.img")
    nvdimm = settings.nvdimms[0]
    backend = replace(nvdimm.backend, discard_data=True, discard_shared=True)
    source = start(replace(settings, nvdimms=(replace(nvdimm, backend=backend),)))
    source.wait_for(b"count 20000")
    start(config(tmp_path / "b.img", image=None, ram_size=32 * MIB), incoming=uri)
    source.control.start(uri)
    assert source.control.wait(60) is Status.FAILED
    assert source.machine.backends[-1].config.discard_data
    assert any((tmp_path / "a.img").read_bytes())
    destination = start(config(tmp_path / "c.img", image=None), incoming=f"{uri}2")
    source.control.start(f"{uri}2")
    assert source.control.wait(60) is Status.COMPLETED
    assert source.machine.backends[-1].config.discard_data
    source.close()
    assert not any((tmp_path / "a.img").read_bytes())
    destination.wait_for(b"count ")
    assert any((tmp_path / "c.img").read_bytes())
