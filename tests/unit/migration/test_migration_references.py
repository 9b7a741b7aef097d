"""Pages that the destination copies from the source's file itself: what arrives is what is there, or nothing is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emu.config import BackendConfig
from emu.host import pages
from emu.host.pages import Copied
from emu.memory import Backend, incomplete, open_backend
from emu.migration.adapter import FileHoles
from emu.migration.doubts import Doubts
from emu.migration.errors import DestinationFailed, MigrationError
from emu.migration.guest import Block
from emu.migration.pagecache import PageCacheFile, Populator
from emu.migration.passed import PassedFile
from emu.migration.stream import Run
from emu.units import MIB, PAGE
from tests.unit.migration.migration_doubles import PMEM, FakeGuest, fill, make_guest, migrate, tcp_pair

Pair = tuple[FakeGuest, FakeGuest]
TMPFS = Path("/dev/shm")


@pytest.fixture(params=["populated", "not populated"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """Two machines; the second copies into its memory where that is populated, else into its file."""
    source = make_guest(tmp_path / "source.img")
    destination = make_guest(tmp_path / "destination.img", running=False)
    assert destination.pmem is not None
    destination.pmem.populated = request.param == "populated"
    fill(source)
    yield source, destination
    source.close()
    destination.close()


def after_each_copy(guest: FakeGuest, monkeypatch: pytest.MonkeyPatch, do: Callable[[int, int], None]) -> list[int]:
    """Call ``do(offset, count)`` when the destination ``guest`` has copied pages; the offsets, as they come."""
    assert guest.pmem is not None
    copy, seen = guest.pmem.copy_from, []

    def copied(file: PassedFile, offset: int, count: int) -> Copied:
        result = copy(file, offset, count)
        seen.append(offset)
        do(offset, count)
        return result

    monkeypatch.setattr(guest.pmem, "copy_from", copied)
    return seen


def stays(source: FakeGuest, destination: FakeGuest, error: BaseException | None, result: Any) -> None:
    assert isinstance(error, MigrationError)
    assert "did not arrive as it is, and the guest has not stored to it" in str(error)
    assert source.running
    assert result.runs is None
    assert incomplete.reason(destination.path or "") is not None


def test_a_file_that_somebody_else_changes_under_the_copy_is_not_handed_over(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = pair
    path = source.path
    assert path is not None

    def change(offset: int, count: int) -> None:
        with path.open("r+b") as file:
            file.seek(7 * PAGE + 100)
            file.write(b"changed by another program")

    after_each_copy(destination, monkeypatch, change)
    result = migrate(source, destination)
    stays(source, destination, result.source, result)
    assert "page 7 " in str(result.source)


def test_a_page_that_is_damaged_on_its_way_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = pair
    assert destination.pmem is not None
    copy = destination.pmem.copy_from

    def damaged(file: PassedFile, offset: int, count: int) -> Copied:
        result = copy(file, offset, count)
        assert destination.pmem is not None
        destination.pmem.view[9 * PAGE + 1] ^= 4
        return result._replace(sums=pages.sums_of(destination.pmem.view[offset : offset + count * PAGE]))

    monkeypatch.setattr(destination.pmem, "copy_from", damaged)
    result = migrate(source, destination)
    stays(source, destination, result.source, result)
    assert "page 9 " in str(result.source)


def test_a_page_damaged_in_the_last_round_is_found_before_the_hand_over(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = pair
    assert source.pmem is not None
    view, path = source.pmem.view, source.path
    assert path is not None

    def store() -> None:
        view[3 * PAGE] ^= 255  # its last store, just before it stands still

    source.on_stop = store

    def change(offset: int, count: int) -> None:
        if count == 1:
            with path.open("r+b") as file:
                file.seek(3 * PAGE + 8)
                file.write(b"another")

    after_each_copy(destination, monkeypatch, change)
    result = migrate(source, destination)
    stays(source, destination, result.source, result)
    assert "go-on" in source.history


def test_what_the_guest_stores_in_between_is_no_error_and_arrives(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = pair
    assert source.pmem is not None
    assert destination.pmem is not None
    view, left = source.pmem.view, [5]

    def store(offset: int, count: int) -> None:
        if left[0] and "stop" not in source.history:
            left[0] -= 1
            view[offset + 50] ^= 255
            view[offset + (count - 1) * PAGE] ^= 255

    seen = after_each_copy(destination, monkeypatch, store)
    result = migrate(source, destination)
    assert (result.source, result.destination) == (None, None)
    assert source.pmem.view == destination.pmem.view
    assert left[0] < 5
    assert len(seen) > 1


def test_zero_pages_are_found_by_the_destination_and_stay_holes_there(tmp_path: Path) -> None:
    source, destination = make_guest(tmp_path / "a"), make_guest(tmp_path / "b", running=False)
    assert source.pmem is not None
    assert destination.pmem is not None
    source.pmem.view[:] = bytes(PMEM)  # no holes there: every page has its block
    source.pmem.view[17 * PAGE] = 1
    result = migrate(source, destination)
    assert result.source is None
    assert destination.pmem.view == source.pmem.view
    assert (tmp_path / "b").stat().st_blocks * 512 <= 2 * PAGE
    assert result.source_progress.query()["ram"]["normal"] == 1
    source.close()
    destination.close()


def test_zero_pages_replace_what_the_destination_held(pair: Pair) -> None:
    source, destination = pair
    assert source.pmem is not None
    assert destination.pmem is not None
    source.pmem.view[40 * PAGE : 44 * PAGE] = bytes(4 * PAGE)
    destination.pmem.view[:] = b"\xff" * PMEM
    assert migrate(source, destination).source is None
    assert destination.pmem.view == source.pmem.view


def test_answers_of_another_length_are_no_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = pair
    assert destination.pmem is not None
    copy = destination.pmem.copy_from
    monkeypatch.setattr(destination.pmem, "copy_from", lambda *what: copy(*what)._replace(sums=b"1234"))
    result = migrate(source, destination)
    assert "answered other pages" in str(result.source)
    assert source.running


def test_more_pages_than_allowed_are_not_copied_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, destination = make_guest(tmp_path / "a"), make_guest(tmp_path / "b", running=False)
    monkeypatch.setattr("emu.migration.destination.MAX_COPY", 3)
    result = migrate(source, destination)
    assert isinstance(result.source, DestinationFailed)
    assert "pages to copy at once, 3 are allowed" in str(result.source)
    source.close()
    destination.close()


@pytest.mark.parametrize("dirty", [[], [Run(4, 1)], [Run(9, 1)], [Run(5, 4)]])
def test_a_page_that_the_guest_did_not_store_to_is_an_error(dirty: list[Run]) -> None:
    doubts = Doubts([Block("b", memoryview(b""), True, True, True, "page", None, path="f")])  # type: ignore[arg-type]
    doubts.add(0, [4, 9])
    with pytest.raises(MigrationError, match="f: page"):
        doubts.settle({0: dirty, 1: [Run(4, 1), Run(9, 1)]})


@pytest.mark.parametrize("dirty", [[Run(4, 1), Run(9, 1)], [Run(0, 5), Run(9, 2)], [Run(3, 9)]])
def test_pages_that_the_guest_stored_to_are_doubtful_no_more(dirty: list[Run]) -> None:
    doubts = Doubts([Block("b", memoryview(b""), True, True, True, "page", None, path="f")])  # type: ignore[arg-type]
    doubts.add(0, [4, 9])
    doubts.settle({0: dirty})
    doubts.settle({})


# -- populated mappings ------------------------------------------------------------------------------------------------


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    path = TMPFS / f"emu-test-{os.getpid()}-{tmp_path.name}"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
        file.seek(1 * MIB)
        file.write(b"x" * MIB)
    opened = open_backend(BackendConfig(id="m1", path=str(path), size=4 * MIB, share=True))
    yield opened
    opened.close()
    path.unlink()


def block_of(backend: Backend) -> Block:
    path = backend.config.path
    assert path is not None
    return Block(
        "m1", backend.mapping.view, True, True, True, "page", backend.mapping, path, holes=FileHoles(path, 0),
        file=PageCacheFile(backend),
    )  # fmt: skip


def in_page_tables(backend: Backend) -> int:
    """Bytes of the backend's mapping that this process has in its page tables."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef" and "-" in line.split()[0]:
            inside = str(backend.config.path) in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_what_a_file_in_memory_holds_is_populated_and_its_holes_stay(backend: Backend) -> None:
    block = block_of(backend)
    before = Path(str(backend.config.path)).stat().st_blocks
    populator = Populator([block])
    populator._thread.join(60)
    populator.stop()
    assert in_page_tables(backend) == 1 * MIB
    assert Path(str(backend.config.path)).stat().st_blocks == before


def test_pages_over_tcp_arrive_in_memory_that_is_populated_and_in_files_that_are_not(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = pair
    assert source.pmem is not None
    assert destination.pmem is not None
    populated = destination.pmem.populated
    destination.pmem.view[:] = b"\xff" * PMEM
    stored: list[int] = []
    store = destination.pmem.store

    def noted(offset: int, data: memoryview) -> None:
        stored.append(offset)
        store(offset, data)

    monkeypatch.setattr(destination.pmem, "store", noted)
    result = migrate(source, destination, sockets=tcp_pair())
    assert (result.source, result.destination) == (None, None)
    assert source.pmem.view == destination.pmem.view
    data = [page for page in range(PMEM // PAGE) if any(source.pmem.view[page * PAGE : (page + 1) * PAGE])]
    assert any(offset // PAGE in data for offset in stored) is not populated


@pytest.mark.parametrize("populated", [True, False])
def test_a_copy_is_the_same_into_populated_memory(backend: Backend, tmp_path: Path, populated: bool) -> None:
    block = block_of(backend)
    assert block.file is not None
    if populated:
        block.file.populate(1 * MIB, 1 * MIB)
    content = os.urandom(PAGE) + bytes(PAGE) + os.urandom(254 * PAGE)
    (tmp_path / "source").write_bytes(b"-" * (PAGE + 1 * MIB) + content)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    copied = block.file.copy_from(PassedFile(fd, PAGE, 2 * MIB), 1 * MIB, 256)
    os.close(fd)
    assert copied.zero == ([] if populated else [(1, 1)])
    assert copied.sums == pages.sums_of(content)
    there = bytearray(block.view[1 * MIB : 2 * MIB])
    for page, _ in copied.zero:
        there[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    assert there == content
