"""The small parts: addresses, parameters, page runs and holes, the mark, the lock as a proof, channels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import HostError, IncompleteFile, UsageError
from emu.host import kernel
from emu.host.files import examine
from emu.host.sockets import Listener, TcpAddress, UnixAddress
from emu.memory import incomplete
from emu.memory.lock import FileLock
from emu.migration import uri
from emu.migration.adapter import FileHoles
from emu.migration.channel import FileReader, FileWriter, Interrupt, Pacer
from emu.migration.errors import Cancelled, ConnectionLost, StreamError
from emu.migration.guest import Block
from emu.migration.pages import MOST_UNDER_WAY, PageSender, split_holes
from emu.migration.parameters import Capabilities, Parameters
from emu.migration.progress import Progress, Status
from emu.migration.proof import BackingFileLock
from emu.migration.stream import FROM_SOURCE, Decoder, Frame, FrameType, Run, decode_runs
from emu.migration.uri import DescriptorAddress


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("unix:/run/m.sock", "unix:/run/m.sock"),
        ("tcp::4444", "tcp:127.0.0.1:4444"),
        ("tcp:192.0.2.1:1", "tcp:192.0.2.1:1"),
        ("tcp:[::1]:5", "tcp:[::1]:5"),
        ("fd:7", "fd:7"),
        ("file:a:b", "file:a:b"),
    ],
)
def test_addresses(text: str, canonical: str) -> None:
    assert str(uri.parse(text)) == canonical


@pytest.mark.parametrize(
    "text", ["", "unix:", "tcp:host", "tcp:h:99999", "fd:x", "fd:-1", "exec:cat", "http://x", "unix:" + "x" * 200]
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        uri.parse(text)


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        assert uri.parse(str(uri.parse(text))) == uri.parse(text)
    except UsageError as error:
        assert error.what


def test_exec_says_why_and_a_pipe_is_no_peer() -> None:
    with pytest.raises(UsageError, match="exec: is refused"):
        uri.parse("exec:gzip -c > x")
    reading, writing = os.pipe()
    interrupt = Interrupt()
    with pytest.raises(UsageError, match="must be able to answer"):
        uri.connect(DescriptorAddress(writing), interrupt, 1)
    for descriptor in (reading, writing):
        os.close(descriptor)
    interrupt.close()


def test_listen_and_connect_over_tcp_and_unix(tmp_path: Path) -> None:
    interrupt = Interrupt()
    for text in ("tcp::0", f"unix:{tmp_path}/s"):
        address = uri.parse(text)
        assert isinstance(address, UnixAddress | TcpAddress)
        listener = Listener(address, option="test")
        with uri.connect(listener.address, interrupt, 5) as client, listener.socket.accept()[0] as server:
            client.send(b"x")
            server.setblocking(True)
            assert server.recv(1) == b"x"
        listener.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConnectionLost, match="start the destination first"):
        uri.connect(UnixAddress(f"{tmp_path}/s"), interrupt, 1)
    interrupt.close()


def test_capabilities_change_all_or_none() -> None:
    on = Capabilities().with_states({"x-ignore-shared": True, "multifd": False, "postcopy-ram": False})
    assert on.x_ignore_shared
    assert {"capability": "x-ignore-shared", "state": True} in on.listing()
    for states, word in (
        ({"postcopy-ram": True}, "refused: postcopy would run the guest before its pages"),
        ({"xbzrle": True}, "has no migration capability"),
        ({"x_ignore_shared": True}, "there is no"),
        ({"nonsense": False}, "there is no"),
    ):
        with pytest.raises(UsageError, match=word):
            on.with_states({"auto-converge": True, **states})


def test_parameters_change_all_or_none() -> None:
    assert Parameters().with_values({"max-bandwidth": 5}).max_bandwidth == 5
    for values in (
        {"downtime-limit": -1},
        {"max-cpu-throttle": 100},
        {"max-bandwidth": True},
        {"max_bandwidth": 1},
        {"x": 1},
    ):
        with pytest.raises(UsageError):
            Parameters().with_values(values)


class Frames:
    """A channel that keeps the runs it was given."""

    live, passes_files, sent = True, False, 0

    def __init__(self) -> None:
        self.files: list[int] = []
        self.pages: dict[int, bytes | None] = {}
        self.batches: list[list[int]] = []

    def send(self, kind: FrameType, meta: bytes = b"", data: object = (), **_: object) -> None:
        body = b"".join(bytes(part) for part in data)  # type: ignore[attr-defined]
        self.sent += 1
        self.batches.append([])
        for run in decode_runs(meta, [1 << 20]).runs:
            for page in range(run.first, run.first + run.count):
                assert page not in self.pages
                self.batches[-1].append(page)
                if kind is FrameType.PAGES:
                    self.pages[page], body = body[:4096], body[4096:]
                else:
                    self.pages[page] = None if kind is FrameType.COPY else bytes(4096)
        assert not body

    def receive(self, **_: object) -> None: ...

    def readable(self) -> bool:
        return False

    def finish(self) -> None: ...

    def close(self) -> None: ...


def nothing_copied() -> Frame:
    raise AssertionError("no reference was sent")


@given(st.lists(st.booleans(), min_size=1, max_size=700))
def test_every_page_goes_once_and_zero_pages_go_without_data(filled: list[bool]) -> None:
    content = memoryview(b"".join((b"\0\1" * 2048) if full else bytes(4096) for full in filled))
    frames, interrupt = Frames(), Interrupt()
    sender = PageSender(frames, Progress(), Pacer(interrupt), lambda: 0, nothing_copied)  # type: ignore[arg-type]
    runs = [Run(first, min(5, len(filled) - first)) for first in range(0, len(filled), 5)]
    sender.send(0, Block("b", content, True, True, True, "page", None), runs)  # type: ignore[arg-type]
    assert sorted(frames.pages) == list(range(len(filled)))
    for page, full in enumerate(filled):
        assert frames.pages[page] == (b"\0\1" * 2048 if full else bytes(4096))
    interrupt.close()


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=300), st.sampled_from([0, 1 << 20, 1 << 30]))
def test_every_page_is_referred_to_once_and_few_frames_wait_for_an_answer(counts: list[int], limit: int) -> None:
    frames, interrupt = Frames(), Interrupt()
    runs = [Run(sum(counts[:n]) + n, count) for n, count in enumerate(counts)]
    asked: list[int] = []

    def sums_of(pages: range) -> bytes:
        return b"".join(page.to_bytes(4, "little") for page in pages)

    def copied() -> Frame:
        asked.append(frames.sent)
        assert frames.sent - len(asked) < MOST_UNDER_WAY
        pages = frames.batches[len(asked) - 1]
        return Frame(FrameType.COPIED, b"", b"".join((page - page % 7 // 6).to_bytes(4, "little") for page in pages))

    class Content:
        """Stands for the bytes: a slice of it is the numbers of its pages."""

        def __getitem__(self, span: slice) -> range:
            return range(span.start // 4096, span.stop // 4096)

    block = Block("b", Content(), True, True, True, "page", None)  # type: ignore[arg-type]
    sender = PageSender(frames, Progress(), Pacer(interrupt), lambda: limit, copied)  # type: ignore[arg-type]
    sender._pacer.spend = lambda count, limit: None  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emu.migration.pages.sums_of", sums_of)
        differing = sender.send_references(0, block, runs)
    pages = [page for run in runs for page in range(run.first, run.first + run.count)]
    assert sorted(frames.pages) == pages
    assert len(asked) == frames.sent
    assert differing == [page for page in pages if page % 7 == 6]
    interrupt.close()


def test_holes_are_found_and_everything_else_may_be_data(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    size = 64 * 4096
    with path.open("wb") as file:
        file.truncate(size + 4096)
        for page in (1 + 8, 1 + 9, 1 + 40):
            file.seek(page * 4096)
            file.write(b"data")
    view = memoryview(bytearray(size))
    block = Block("b", view, True, True, True, "page", None, holes=FileHoles(str(path), 4096))  # type: ignore[arg-type]
    data, holes = split_holes(block)
    pages = sorted(page for run in data + holes for page in range(run.first, run.first + run.count))
    assert pages == list(range(64))
    found = {page for run in data for page in range(run.first, run.first + run.count)}
    assert {8, 9, 40} <= found
    assert 63 not in found


def test_a_file_that_has_all_its_blocks_is_not_searched_for_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "full"
    path.write_bytes(b"x" * 4096 * 17)
    os.sync()  # where blocks are given late
    view = memoryview(bytearray(16 * 4096))
    block = Block("b", view, True, True, True, "page", None, holes=FileHoles(str(path), 4096))  # type: ignore[arg-type]
    lseek, asked = os.lseek, []

    def noted(fd: int, offset: int, whence: int) -> int:
        asked.append(whence)
        return lseek(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", noted)
    assert split_holes(block) == ([Run(0, 16)], [])
    assert os.SEEK_HOLE not in asked


def test_the_mark_outlives_everything_but_its_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.img"
    path.touch()
    (tmp_path / "link").symlink_to(path)
    incomplete.check_not_incomplete(path)
    incomplete.mark(tmp_path / "link", "because")
    assert incomplete.reason(path) == "because"
    with pytest.raises(IncompleteFile, match="because"):
        incomplete.check_not_incomplete(path)
    Path(incomplete.marker_path(path)).write_text("[]")
    assert incomplete.reason(path) == "its mark says nothing readable"
    incomplete.clear(path)
    assert incomplete.reason(path) is None
    incomplete.clear(path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Path(incomplete.marker_path("/dev/null")).parent == tmp_path / "emu" / "incomplete"
    with pytest.raises(HostError, match="cannot be marked"):
        incomplete.mark("/proc/self/x/y", "w")


def test_only_who_opened_the_same_file_reads_the_secret(tmp_path: Path) -> None:
    locks = []
    for name in ("a", "a", "b"):
        (tmp_path / name).touch()
        fd = kernel.open_file(tmp_path / name, write=True)
        locks.append(BackingFileLock(FileLock(fd, write=True, share=False, name=name)))
    source, same, other = locks
    source.take()
    secret = 0x8123_4567_89AB_CDEF
    source.show(secret)
    assert (same.look(), other.look()) == (secret, None)
    source.hide()
    assert same.look() is None
    with pytest.raises(HostError, match="in use"):
        same.take()
    source.release()
    same.take()
    assert same.held
    assert not source.held
    assert (tmp_path / "a").read_bytes() == b""


def test_a_snapshot_file_exists_whole_or_not_at_all(tmp_path: Path) -> None:
    interrupt = Interrupt()
    path = tmp_path / "s"
    writer = FileWriter(examine(str(path)), interrupt)
    writer.send(FrameType.ROUND_END, b"abc")
    writer.close()
    assert list(tmp_path.iterdir()) == []
    writer = FileWriter(examine(str(path)), interrupt)
    writer.send(FrameType.ROUND_END, b"abc")
    assert not path.exists()
    writer.finish()
    writer.close()
    reader = FileReader(str(path), Decoder(FROM_SOURCE), interrupt)
    assert reader.receive().meta == b"abc"
    reader.finish()
    with pytest.raises(StreamError, match="ends too early"):
        reader.receive()
    reader.close()
    path.write_bytes(path.read_bytes() + b"x")
    reader = FileReader(str(path), Decoder(FROM_SOURCE), interrupt)
    reader.receive()
    with pytest.raises(StreamError, match="behind the end"):
        reader.finish()
    reader.close()
    with pytest.raises(HostError, match="No such file"):
        FileReader(str(tmp_path / "none"), Decoder(FROM_SOURCE), interrupt)
    interrupt.close()


def test_an_interrupt_wakes_and_can_be_disarmed() -> None:
    interrupt = Interrupt()
    interrupt.set()
    with pytest.raises(Cancelled):
        interrupt.wait(60)
    interrupt.disarm()
    assert not interrupt.wait(0)
    interrupt.close()


def test_progress_speaks_qemus_shape() -> None:
    events: list[tuple[str, dict[str, object]]] = []
    progress = Progress(lambda name, data: events.append((name, data)))
    assert progress.query() == {}
    progress.enter(Status.SETUP)
    progress.total = progress.remaining = 8192
    progress.enter(Status.ACTIVE)
    progress.begin_round()
    progress.count(normal=1, zeros=1, transferred=4200)
    progress.downtime_ms = 3
    progress.enter(Status.COMPLETED)
    answer = progress.query()
    assert answer["status"] == "completed"
    assert answer["ram"]["normal-bytes"] == 4096
    assert answer["ram"]["duplicate"] == 1
    assert {"total-time", "setup-time", "downtime"} <= answer.keys()
    assert events == [
        ("MIGRATION", {"status": "setup"}),
        ("MIGRATION", {"status": "active"}),
        ("MIGRATION_PASS", {"pass": 1}),
        ("MIGRATION", {"status": "completed"}),
    ]
