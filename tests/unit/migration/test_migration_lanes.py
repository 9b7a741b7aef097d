"""Several connections for pages (multifd): the promises are those of one connection."""

from __future__ import annotations

import contextlib
import importlib
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emu.errors import UsageError
from emu.memory import incomplete
from emu.migration import compression
from emu.migration.channel import Interrupt, SocketChannel
from emu.migration.compression import METHODS
from emu.migration.destination import Destination
from emu.migration.errors import Cancelled, ConnectionLost, DestinationFailed, MigrationError, Refused, StreamError
from emu.migration.lanes import Offer
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.source import Source
from emu.migration.stream import Encoder, Frame, FrameType, PageRuns, Run, encode_packed, encode_runs
from emu.units import PAGE
from tests.unit.migration.migration_doubles import FakeGuest, connected, migrate, tcp_pair, two_guests, when_sent

MULTIFD = Capabilities(multifd=True)
Pair = tuple[FakeGuest, FakeGuest]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with two_guests(tmp_path) as both:
        yield both
    assert not [thread for thread in threading.enumerate() if thread.name == "migration-lane"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the small machines of these tests have work for several lanes."""
    monkeypatch.setattr("emu.migration.lanes._PIECE", 3)


def stays(source: FakeGuest, destination: FakeGuest, result: Any) -> None:
    assert source.running
    assert result.runs is None
    assert result.destination is not None
    assert incomplete.reason(str(destination.path)) is not None


def method(name: str) -> str:
    if name == "zstd":
        pytest.importorskip("zstandard")
    return name


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", METHODS)
def test_what_the_guest_has_arrives_whatever_it_stores_meanwhile(
    pair: Pair, tmp_path: Path, count: int, name: str
) -> None:
    source, destination = pair
    assert source.pmem is not None
    assert destination.pmem is not None
    destination.pmem.view[:] = b"\xff" * len(destination.pmem.view)
    view, ram, rounds = source.pmem.view, source.ram.view, list[int]()

    def store() -> None:
        rounds.append(1)
        for page in range(5, 60, len(rounds)):
            view[page * PAGE + len(rounds)] ^= 255
            ram[page * PAGE] ^= 255

    parameters = Parameters(multifd_channels=count, multifd_compression=method(name), downtime_limit=0)
    result = migrate(
        source, destination, sockets=tcp_pair(), capabilities=MULTIFD, parameters=parameters, door=tmp_path / "d",
        on_source=when_sent(FrameType.ROUND_END, store, times=3),
    )  # fmt: skip
    assert (result.source, result.destination) == (None, None)
    assert len(rounds) == 3
    assert destination.pmem.view == source.pmem.view
    assert destination.ram.view == source.ram.view
    ram_words = result.source_progress.query()["ram"]
    assert ram_words["transferred"] >= ram_words["multifd-bytes"] > 0
    assert result.source_progress.persistence


def test_pages_that_compress_take_less(pair: Pair, tmp_path: Path) -> None:
    source, destination = pair
    assert source.pmem is not None
    for memory in (source.ram, source.pmem):
        memory.view[:] = b"pressure" * (len(memory.view) // 8)
    parameters = Parameters(multifd_compression="zlib")
    result = migrate(
        source, destination, sockets=tcp_pair(), capabilities=MULTIFD, parameters=parameters, door=tmp_path / "d"
    )
    assert result.source is None
    assert destination.ram.view == source.ram.view
    assert result.source_progress.on_lanes < 64 * PAGE // 4


@pytest.mark.parametrize("last", [False, True])
def test_a_round_is_over_when_its_last_page_has_landed(
    pair: Pair, tmp_path: Path, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that is late holds the answer back: ROUND_DURABLE, and in the last round DURABLE."""
    source, destination = pair
    answer = FrameType.DURABLE if last else FrameType.ROUND_DURABLE
    end = FrameType.STATE if last else FrameType.ROUND_END
    ended, answered, durable = threading.Event(), threading.Event(), threading.Event()
    late: list[object] = []
    landed: list[bool] = []

    def on_source(side: Source, _: Interrupt) -> None:
        assert source.pmem is not None
        view = source.pmem.view

        def store() -> None:
            view[0] ^= 1  # a page for the last round

        source.on_stop = store

    def on_destination(side: Destination, channel: SocketChannel) -> None:
        receive, send, ledger = channel.receive, channel.send, side._ledger
        clear_or_land = ledger.landed

        def received(**options: Any) -> Frame:
            frame = receive(**options)
            if frame.kind is end:
                ended.set()
            return frame

        def sent(kind: FrameType, *arguments: Any, **options: Any) -> None:
            if kind is answer:
                answered.set()
            if kind is FrameType.ROUND_DURABLE:
                durable.set()
            send(kind, *arguments, **options)

        def slowly(runs: PageRuns, *, zeros: bool) -> None:
            on_lane = threading.current_thread().name == "migration-lane"
            if on_lane and not late and durable.is_set() is last:
                late.append(runs)
                assert ended.wait(20)
                landed.append(answered.wait(0.6))  # it may not: this is longer than two signs of life
            clear_or_land(runs, zeros=zeros)

        channel.receive, channel.send = received, sent  # type: ignore[method-assign]
        monkeypatch.setattr(ledger, "landed", slowly)

    result = migrate(
        source, destination, sockets=tcp_pair(), capabilities=MULTIFD, door=tmp_path / "d",
        on_source=on_source, on_destination=on_destination, stall=30.0,
    )  # fmt: skip
    assert (result.source, result.destination) == (None, None)
    assert late
    assert landed == [False]


def test_a_lane_that_breaks_ends_the_migration_and_the_guest_stays(pair: Pair, tmp_path: Path) -> None:
    source, destination = pair

    def on_source(side: Source, _: Interrupt) -> None:
        send_pages = side._send_pages

        def broken(number: int, runs: Any) -> None:
            assert side._lanes is not None
            side._lanes._channels[1].hang_up()
            send_pages(number, runs)

        side._send_pages = broken  # type: ignore[method-assign]

    result = migrate(
        source, destination, sockets=tcp_pair(), capabilities=MULTIFD, door=tmp_path / "d", on_source=on_source
    )
    assert isinstance(result.source, ConnectionLost | DestinationFailed)
    stays(source, destination, result)


def test_a_cancel_ends_all_lanes(pair: Pair, tmp_path: Path) -> None:
    source, destination = pair

    def on_source(side: Source, interrupt: Interrupt) -> None:
        send_pages = side._send_pages

        def cancelled(number: int, runs: Any) -> None:
            send_pages(number, runs)
            interrupt.set()

        side._send_pages = cancelled  # type: ignore[method-assign]

    parameters = Parameters(max_bandwidth=20 * PAGE)
    result = migrate(
        source, destination, sockets=tcp_pair(), capabilities=MULTIFD, parameters=parameters, door=tmp_path / "d",
        on_source=on_source,
    )  # fmt: skip
    assert isinstance(result.source, Cancelled)
    stays(source, destination, result)


# -- a source that lies on a lane --------------------------------------------------------------------------------------

OUTSIDE = encode_runs(PageRuns(0, (Run(60, 8),)))
ONE_PAGE = PageRuns(0, (Run(3, 1),))
BOMB = zlib.compress(bytes(1 << 20))
LIES: dict[str, tuple[str, Callable[[Encoder], bytes]]] = {
    "pages outside of the block": ("outside block", lambda e: e.frame(FrameType.ZEROS, OUTSIDE)),
    "the hand-over": ("frame type 7 is unknown or not allowed", lambda e: e.frame(FrameType.COMMIT)),
    "another round": ("ends another round", lambda e: e.frame(FrameType.SYNC, struct.pack("<I", 9))),
    "another lane": ("LANE on a connection for pages", lambda e: e.frame(FrameType.LANE)),
    "a byte changed": ("corrupted", lambda e: e.frame(FrameType.ZEROS, encode_runs(ONE_PAGE))[:-1] + b"\xff"),
    "compressed pages of another sum": (
        "not what they were",
        lambda e: packed(e, encode_packed(ONE_PAGE, 77), zlib.compress(bytes(PAGE))),
    ),
    "too much under compression": ("not of the pages it names", lambda e: packed(e, encode_packed(ONE_PAGE, 0), BOMB)),
    "too little under compression": (
        "not of the pages it names",
        lambda e: packed(e, encode_packed(ONE_PAGE, 0), zlib.compress(b"x" * 100)),
    ),
    "no compression at all": ("not of the pages it names", lambda e: packed(e, encode_packed(ONE_PAGE, 0), b"x" * 99)),
    "no runs": ("names no pages", lambda e: packed(e, b"12", b"x")),
}


def packed(encoder: Encoder, meta: bytes, data: bytes) -> bytes:
    return encoder.frame(FrameType.PACKED, meta, [data]) + data


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_on_a_lane_ends_it_all_before_anything_runs(pair: Pair, tmp_path: Path, lie: str) -> None:
    source, destination = pair
    words, make = LIES[lie]
    pages_before = bytes(destination.ram.view)

    def on_source(side: Source, _: Interrupt) -> None:
        def lying(number: int, runs: Any) -> None:
            assert side._lanes is not None
            lane = side._lanes._channels[0]
            lane._socket.sendall(make(lane._encoder))
            side._expect(None)

        side._send_pages = lying  # type: ignore[method-assign]

    parameters = Parameters(multifd_compression="zlib")
    result = migrate(
        source, destination, sockets=tcp_pair(), capabilities=MULTIFD, parameters=parameters, door=tmp_path / "d",
        on_source=on_source,
    )  # fmt: skip
    assert isinstance(result.destination, StreamError)
    assert words in str(result.destination)
    assert isinstance(result.source, DestinationFailed)
    assert words in str(result.source)
    stays(source, destination, result)
    assert bytes(destination.ram.view) == pages_before


def hello(path: Path, meta: bytes, kind: FrameType = FrameType.LANE, data: bytes = b"") -> socket.socket:
    encoder, sock = Encoder(), connected(path)
    sock.sendall(encoder.opening + encoder.frame(kind, meta, [data]) + data)
    return sock


def test_strangers_at_the_door_of_the_lanes_are_sent_away(pair: Pair, tmp_path: Path) -> None:
    source, destination = pair
    door, strangers = tmp_path / "d", list[socket.socket]()

    def dial(number: int) -> socket.socket:
        if number == 1:
            probe = connected(door)
            probe.sendall(b"GET / HTTP/1.1\r\n\r\n")
            forger = hello(door, struct.pack("<16sH", b"guessed", 1))
            second = hello(door, b"", FrameType.ZEROS)
            pages = hello(door, encode_runs(PageRuns(0, (Run(0, 1),))), FrameType.PAGES, bytes(PAGE))
            strangers.extend((connected(door), probe, forger, second, pages))
        return connected(door)

    result = migrate(source, destination, sockets=tcp_pair(), capabilities=MULTIFD, door=door, dial=dial)
    assert (result.source, result.destination) == (None, None)
    assert destination.ram.view == source.ram.view
    for stranger in strangers[1:]:
        stranger.settimeout(60)
        with contextlib.suppress(ConnectionResetError):  # it was not read to its end
            while stranger.recv(4096):
                pass
        stranger.close()
    strangers[0].close()


def test_lanes_that_do_not_come_end_it_in_time(pair: Pair, tmp_path: Path) -> None:
    source, destination = pair
    kept: list[socket.socket] = []

    def dial(number: int) -> socket.socket:
        if number == 0:
            return connected(tmp_path / "d")
        left, right = socket.socketpair()
        kept.append(right)  # nobody listens there
        return left

    result = migrate(
        source, destination, sockets=tcp_pair(), capabilities=MULTIFD, door=tmp_path / "d", dial=dial, stall=50.0,
        patience=2.0,
    )  # fmt: skip
    assert isinstance(result.destination, ConnectionLost)
    assert "1 of 2 connections for pages came in time" in str(result.destination)
    assert isinstance(result.source, MigrationError)
    stays(source, destination, result)
    for sock in kept:
        sock.close()


def test_a_destination_with_one_connection_refuses(pair: Pair) -> None:
    source, destination = pair

    def on_source(side: Source, _: Interrupt) -> None:
        side._dial = lambda: pytest.fail("it must not dial")

    result = migrate(source, destination, capabilities=MULTIFD, on_source=on_source)
    assert isinstance(result.source, Refused)
    assert "one connection only: switch multifd off" in str(result.source)
    assert source.running


# -- words -------------------------------------------------------------------------------------------------------------


def without_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)


def test_a_missing_package_is_named_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    without_zstandard(monkeypatch)
    with pytest.raises(UsageError, match="needs the Python package zstandard, which is not installed here") as raised:
        Parameters().with_values({"multifd-compression": "zstd"})
    assert "pip install zstandard" in str(raised.value)
    assert Parameters().with_values({"multifd-compression": "zlib"}).multifd_compression == "zlib"


def test_a_destination_without_the_package_refuses(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = pair
    without_zstandard(monkeypatch)
    parameters = Parameters(multifd_compression="zstd")
    result = migrate(source, destination, capabilities=MULTIFD, parameters=parameters, door=tmp_path / "d")
    assert isinstance(result.source, Refused)
    assert "needs the Python package zstandard" in str(result.source)
    assert source.running
    assert incomplete.reason(str(destination.path)) is None


@pytest.mark.parametrize(
    "values",
    [{"multifd-channels": 0}, {"multifd-channels": 256}, {"multifd-compression": "lz4"}, {"multifd-compression": 1},
     {"multifd-zlib-level": 10}, {"multifd-zstd-level": 0}, {"multifd_channels": 2}],
)  # fmt: skip
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Parameters().with_values(values)


GOOD = Offer(2, "none").encode()


@pytest.mark.parametrize(
    "raw",
    [1, {}, GOOD | {"more": 1}, GOOD | {"count": 0}, GOOD | {"count": 256}, GOOD | {"count": True},
     GOOD | {"key": "00"}, GOOD | {"key": "g" * 32}, GOOD | {"compression": "lz4"}],
)  # fmt: skip
def test_offers_of_another_shape_are_stream_errors(raw: Any) -> None:
    with pytest.raises(StreamError):
        Offer.decode(raw)


@pytest.mark.parametrize("name", METHODS[1:])
@pytest.mark.parametrize("level", [1, 9])
def test_what_was_packed_is_unpacked_and_nothing_else(name: str, level: int) -> None:
    packer = compression.packer(method(name), level)
    assert packer is not None
    parts = [memoryview(b"a" * PAGE), memoryview(bytes(range(256)) * 32)]
    data = packer.pack(parts)
    assert packer.unpack(data, 3 * PAGE) == b"".join(parts)
    for wrong, length in (
        (data, 2 * PAGE),
        (data, 4 * PAGE),
        (data[:-1], 3 * PAGE),
        (data + b"x", 3 * PAGE),
        (b"", PAGE),
    ):
        with pytest.raises(StreamError, match=f"{name} data is not of the pages it names"):
            packer.unpack(wrong, length)
