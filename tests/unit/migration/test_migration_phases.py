"""Source and destination against each other, over a socket pair, with real mappings, faults and locks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emu.errors import HostError
from emu.host.faults import DirtyLog
from emu.memory import incomplete
from emu.migration.errors import Cancelled, DestinationFailed, Refused
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.passed import PassedFile
from emu.migration.progress import Status
from tests.unit.migration.migration_doubles import FakeGuest, Memory, fill, make_guest, migrate, tcp_pair

Pair = Callable[..., tuple[FakeGuest, FakeGuest]]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made: list[FakeGuest] = []

    def make(*, same_file: bool = False, **changes: Any) -> tuple[FakeGuest, FakeGuest]:
        source = make_guest(tmp_path / "source.img")
        destination = make_guest(
            tmp_path / ("source.img" if same_file else "destination.img"), running=False, **changes
        )
        made.extend((source, destination))
        fill(source)
        return source, destination

    yield make
    for guest in made:
        guest.close()


def same_memory(one: FakeGuest, other: FakeGuest) -> bool:
    assert one.pmem is not None
    assert other.pmem is not None
    return one.ram.view == other.ram.view and one.pmem.view == other.pmem.view


def test_everything_arrives_and_is_durable_before_the_mark_goes(pair: Pair) -> None:
    source, destination = pair()
    source.counter = 42
    assert destination.pmem is not None
    destination.pmem.view[5 * 4096] = 99  # what was there before must go, zero pages included
    result = migrate(source, destination)
    assert (result.source, result.destination, result.runs) == (None, None, True)
    assert same_memory(source, destination)
    assert destination.counter == 42
    assert not source.running
    assert source.history == ["stop", "protect", "handed-over pc.ram,m1"]
    assert incomplete.reason(destination.path or "") is None
    covered = bytearray(destination.pmem.size)
    for offset, length in destination.pmem.persisted:
        covered[offset : offset + length] = b"\1" * length
    assert 0 not in covered
    answer = result.source_progress.query()
    assert answer["status"] == "completed"
    assert answer["ram"]["normal"] + answer["ram"]["duplicate"] == (source.ram.size + source.pmem.size) // 4096  # type: ignore[union-attr]
    assert answer["x-emu-persistence"][0]["means"] == "msync"


@pytest.mark.parametrize("local", [True, False])
def test_a_peer_on_this_host_copies_from_the_file_and_any_other_gets_the_bytes(pair: Pair, local: bool) -> None:
    source, destination = pair()
    assert destination.pmem is not None
    result = migrate(source, destination, sockets=None if local else tcp_pair())
    assert (result.source, result.destination) == (None, None)
    assert same_memory(source, destination)
    assert (destination.pmem.copied > 0) is local


def test_pages_dirtied_while_it_runs_arrive(pair: Pair) -> None:
    source, destination = pair()
    assert source.pmem is not None
    pmem = source.pmem

    def last_stores() -> None:
        pmem.view[0:8] = b"counter!"
        source.ram.view[4096:4104] = b"the last"

    source.on_stop = last_stores
    result = migrate(source, destination)
    assert result.source is None
    assert same_memory(source, destination)
    assert bytes(destination.ram.view[4096:4104]) == b"the last"


def medium_of(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """What a power failure would leave of ``memory``; making anything durable takes a while."""
    medium = bytearray(memory.view)
    honest = memory.persist

    def persist(offset: int, length: int) -> None:
        time.sleep(0.1)
        honest(offset, length)
        medium[offset : offset + length] = memory.view[offset : offset + length]

    monkeypatch.setattr(memory, "persist", persist)
    return medium


def test_the_last_stores_are_durable_before_the_source_hears_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = pair()
    pmem = source.pmem
    assert pmem is not None
    assert destination.pmem is not None
    medium = medium_of(destination.pmem, monkeypatch)
    durable: list[bytes] = []

    def last_stores() -> None:
        pmem.view[0:8] = b"the last"

    source.on_stop = last_stores
    # The first that the source does when it has heard: from here on it may let go.
    monkeypatch.setattr(source, "protect_files", lambda: durable.append(bytes(medium)))
    assert migrate(source, destination).source is None
    assert durable == [bytes(pmem.view)]


def test_the_last_stores_to_a_shared_file_are_durable_at_the_hand_over(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = pair(same_file=True)
    pmem = source.pmem
    assert pmem is not None
    medium = medium_of(pmem, monkeypatch)
    durable: list[bytes] = []

    def last_stores() -> None:
        pmem.view[0:8] = b"the last"

    source.on_stop = last_stores
    monkeypatch.setattr(source, "protect_files", lambda: durable.append(bytes(medium)))
    assert migrate(source, destination, capabilities=Capabilities(x_ignore_shared=True)).source is None
    assert durable == [bytes(pmem.view)]


def test_a_guest_that_is_let_run_meanwhile_arrives_running_and_whole(pair: Pair) -> None:
    source, destination = pair()
    source.running = False

    def go(side: Any, interrupt: Any) -> None:
        source.running = True

    def store() -> None:
        source.ram.view[3 * 4096] = 77

    source.on_stop = store
    result = migrate(source, destination, on_source=go)
    assert (result.source, result.runs) == (None, True)
    assert same_memory(source, destination)


def test_a_stopped_guest_arrives_stopped(pair: Pair) -> None:
    source, destination = pair()
    source.running = False
    result = migrate(source, destination)
    assert (result.source, result.destination, result.runs) == (None, None, False)
    assert same_memory(source, destination)


@pytest.mark.parametrize(
    ("side", "change", "word"),
    [
        ("nvdimm", {"label_size": 131072}, "label-size"),
        ("nvdimm", {"uuid": "other"}, "uuid"),
        ("nvdimm", {"unarmed": True}, "unarmed"),
        ("nvdimm", {"slot": 3}, "slot"),
        ("nvdimm", {"gpa": 2 << 32}, "address"),
        ("nvdimm", {"readonly": True}, "readonly"),
        ("nvdimm", {"size": 4096}, "size"),
        ("nvdimm", {"granularity": "none"}, "granularity"),
        ("nvdimm", {"survives_emulator_kill": False}, "killed emulator"),
        ("machine", {"persistence": "cpu"}, "persistence domain"),
        ("machine", {"ram_size": 4096}, "RAM"),
        ("machine", {"nvdimms": ()}, "the device"),
    ],
)
def test_mismatches_are_refused_before_the_first_page(pair: Pair, side: str, change: dict[str, Any], word: str) -> None:
    source, destination = pair(**{side: change})
    result = migrate(source, destination)
    assert isinstance(result.source, Refused)
    assert isinstance(result.destination, Refused)
    assert word in str(result.source)
    assert result.source.reasons == result.destination.reasons
    assert source.running
    assert "stop" not in source.history
    assert bytes(destination.ram.view) == bytes(destination.ram.size)
    assert incomplete.reason(destination.path or "") is None
    assert result.source_progress.normal == 0


@pytest.mark.parametrize("side", ["capabilities", "there"])
def test_a_weaker_mapping_passes_with_consent_of_either_side(pair: Pair, side: str) -> None:
    source, destination = pair(nvdimm={"granularity": "none", "survives_emulator_kill": False})
    result = migrate(source, destination, **{side: Capabilities(allow_weaker_persistence=True)})  # type: ignore[arg-type]
    assert result.source is None
    assert same_memory(source, destination)


def test_ignore_shared_copies_no_page_of_the_file_and_moves_the_lock(pair: Pair) -> None:
    source, destination = pair(same_file=True)
    assert source.pmem is not None
    assert destination.pmem is not None
    assert destination.pmem.lock is not None
    assert not destination.pmem.lock.held
    result = migrate(source, destination, capabilities=Capabilities(x_ignore_shared=True))
    assert (result.source, result.destination) == (None, None)
    assert result.source_progress.total == source.ram.size
    assert source.ram.view == destination.ram.view
    assert destination.pmem.lock.held
    assert source.pmem.lock is not None
    assert not source.pmem.lock.held
    assert sum(length for _, length in source.pmem.persisted) >= source.pmem.size
    assert destination.pmem.persisted == []
    with pytest.raises(HostError, match="in use"):
        source.pmem.lock.take()


def test_ignore_shared_with_another_file_is_refused(pair: Pair) -> None:
    source, destination = pair()
    result = migrate(source, destination, capabilities=Capabilities(x_ignore_shared=True))
    assert isinstance(result.source, Refused)
    assert "not the file" in str(result.source)
    assert source.running
    assert source.pmem is not None
    assert source.pmem.lock is not None
    assert source.pmem.lock.held


def test_copying_into_the_sources_own_file_is_refused(pair: Pair) -> None:
    source, destination = pair(same_file=True)
    before = bytes(source.pmem.view)  # type: ignore[union-attr]
    result = migrate(source, destination)
    assert isinstance(result.source, Refused)
    assert "same file" in str(result.source)
    assert bytes(source.pmem.view) == before  # type: ignore[union-attr]


def test_a_destination_that_cannot_persist_leaves_the_source_running(pair: Pair) -> None:
    source, destination = pair()
    assert destination.pmem is not None
    destination.pmem.fail_persist = HostError("the medium is full", "")
    result = migrate(source, destination)
    assert isinstance(result.source, DestinationFailed)
    assert "the medium is full" in str(result.source)
    assert source.running
    assert result.runs is None
    assert incomplete.reason(destination.path or "") is not None


def test_a_full_disk_at_the_destination_is_an_error_and_not_a_crash(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = pair()
    written = []

    def full(file: PassedFile, offset: int, count: int) -> None:
        written.append(offset)
        raise HostError("No space left on device", "make room")

    monkeypatch.setattr(destination.pmem, "copy_from", full)
    result = migrate(source, destination)
    assert isinstance(result.source, DestinationFailed)
    assert "No space left" in str(result.source)
    assert isinstance(result.destination, HostError)
    assert source.running
    assert incomplete.reason(destination.path or "") is not None


def test_state_that_does_not_fit_is_found_while_the_source_still_owns_the_machine(pair: Pair) -> None:
    source, destination = pair()
    source.counter = -1
    result = migrate(source, destination)
    assert isinstance(result.source, DestinationFailed)
    assert source.running
    assert result.runs is None


def test_cancel_during_the_rounds(pair: Pair) -> None:
    source, destination = pair()
    slow = Parameters(max_bandwidth=100_000)
    result = migrate(source, destination, parameters=slow, on_source=lambda side, interrupt: interrupt.set())
    assert isinstance(result.source, Cancelled)
    assert result.destination is not None
    assert source.running
    assert result.runs is None


def test_pause_before_switchover_waits_and_goes_on(pair: Pair) -> None:
    source, destination = pair()

    def later(side: Any, interrupt: Any) -> None:
        def work() -> None:
            while side._progress.status is not Status.PRE_SWITCHOVER:
                time.sleep(0.01)
            time.sleep(0.3)  # counted from there on, however long the way there took
            side.switch_over()

        threading.Thread(target=work, daemon=True).start()

    result = migrate(source, destination, capabilities=Capabilities(pause_before_switchover=True), on_source=later)
    assert (result.source, result.destination) == (None, None)
    assert result.source_progress.status is Status.COMPLETED
    assert (result.source_progress.downtime_ms or 0) >= 250


def test_the_bandwidth_limit_holds(pair: Pair) -> None:
    source, destination = pair()
    began = time.monotonic()
    result = migrate(source, destination, parameters=Parameters(max_bandwidth=1_000_000))
    assert result.source is None
    moved = result.source_progress.normal * 4096
    assert time.monotonic() - began >= moved / 1_000_000 * 0.8


class Busy:
    """A guest that stores to another page of its NVDIMM every millisecond until it is stopped: 4 MB a second."""

    def __init__(self, guest: FakeGuest) -> None:
        assert guest.pmem is not None
        self._view, self._pages = guest.pmem.view, guest.pmem.size // 4096
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._store, daemon=True)
        guest.on_stop = self.stop

    def _store(self) -> None:
        n = 0
        while not self._over.wait(0.001):
            self._view[n % self._pages * 4096] = n & 0xFF
            n += 1

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def stop(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    __exit__ = stop


class Restless(DirtyLog):
    """Whenever it is looked at, the guest has stored to fifty pages again: more than goes over the line meanwhile."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory.address, memory.size)
        self._view = memory.view

    def collect(self) -> list[tuple[int, int]]:
        for page in range(50):
            self._view[page * 4096] ^= 1
        return super().collect()


def test_a_guest_that_dirties_faster_than_the_line_is_not_stopped_for_longer_than_allowed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = pair()
    assert source.pmem is not None
    memories = {False: source.ram, True: source.pmem}
    monkeypatch.setattr(source, "tracker", lambda block: Restless(memories[block.persistent]))
    watcher: list[threading.Thread] = []

    def give_up_later(side: Any, interrupt: Any) -> None:
        def watch() -> None:
            while side._progress.rounds < 3 and not side._progress.status.over and source.running:
                time.sleep(0.01)
            interrupt.set()

        watcher.append(threading.Thread(target=watch))
        watcher[0].start()

    slow = Parameters(max_bandwidth=3_000_000, downtime_limit=1)
    result = migrate(source, destination, parameters=slow, on_source=give_up_later)
    watcher[0].join()
    assert isinstance(result.source, Cancelled)
    assert "stop" not in source.history
    assert source.running
    answer = result.source_progress.query()
    assert answer["ram"]["dirty-sync-count"] >= 2
    assert answer["ram"]["dirty-pages-rate"] > 0
    assert answer["expected-downtime"] > 1


def test_a_downtime_limit_that_allows_it_ends_the_rounds(pair: Pair) -> None:
    source, destination = pair()
    with Busy(source):
        result = migrate(source, destination, parameters=Parameters(max_bandwidth=4_000_000, downtime_limit=60_000))
    assert (result.source, result.destination) == (None, None)
    assert same_memory(source, destination)
    assert result.source_progress.rounds == 1


def test_auto_converge_holds_a_busy_guest_back(pair: Pair) -> None:
    source, destination = pair()
    assert source.pmem is not None
    over = threading.Event()
    pages = source.pmem.size // 4096

    def write() -> None:
        n = 0
        while not over.is_set() and source.history.count("held-back") < 3:
            source.pmem.view[n % pages * 4096] = n & 0xFF  # type: ignore[union-attr]
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = migrate(
            source, destination, capabilities=Capabilities(auto_converge=True),
            parameters=Parameters(max_bandwidth=3_000_000, downtime_limit=1),
        )  # fmt: skip
    finally:
        over.set()
        writer.join()
    assert result.source is None
    assert source.history.count("held-back") >= 3
