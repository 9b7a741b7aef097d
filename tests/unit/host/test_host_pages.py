"""Checksums against published values and a second implementation; copies of pages between files."""

from __future__ import annotations

import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.errors import HostError
from emu.host import kernel, pages
from emu.host._pages import ffi
from emu.host.faults import Guard
from emu.units import PAGE

STRIPE = 1360


def test_crc32c_check_values() -> None:
    """RFC 3720 B.4 and the usual check value."""
    assert pages.crc32c(b"123456789") == 0xE3069283
    assert pages.crc32c(bytes(32)) == 0x8A9136AA
    assert pages.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert pages.crc32c(bytes(range(32))) == 0x46DD794E
    assert pages.crc32c(b"") == 0


sizes = st.integers(0, 200) | st.sampled_from([n * 3 * STRIPE + d for n in (1, 2, 3) for d in (-8, -1, 0, 1, 7, 8, 17)])


@given(sizes, st.integers(0, 1 << 32), st.floats(0, 1))
def test_crc32c_table_hardware_and_running_value_agree(size: int, seed: int, share: float) -> None:
    data = random.Random(seed).randbytes(size)
    cut = int(share * size)
    whole = pages.crc32c(data, hardware=False)
    assert pages.crc32c(data) == whole
    assert pages.crc32c(data[cut:], pages.crc32c(data[:cut])) == whole


@given(st.integers(0, 300), st.integers(0, 299))
def test_is_zero_sees_every_byte(size: int, at: int) -> None:
    data = bytearray(size)
    assert pages.is_zero(data)
    if at < size:
        data[at] = 1
        assert not pages.is_zero(data)


def content(count: int) -> bytes:
    """Pages of random bytes, every fifth of zeros."""
    generator = random.Random(count)
    return b"".join(bytes(PAGE) if n % 5 == 3 else generator.randbytes(PAGE) for n in range(count))


def sums(data: bytes) -> bytes:
    parts = (data[at : at + PAGE] for at in range(0, len(data), PAGE))
    return b"".join(pages.crc32c(part, hardware=False).to_bytes(4, "little") for part in parts)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A file of 200 pages behind one page of something else, and one that is full of other bytes."""
    (tmp_path / "from").write_bytes(b"x" * PAGE + content(200))
    (tmp_path / "to").write_bytes(b"y" * PAGE * 202)
    made = kernel.open_file(tmp_path / "from", write=False), kernel.open_file(tmp_path / "to", write=True)
    yield made
    for fd in made:
        os.close(fd)


def test_sums_are_those_of_each_page(files: tuple[int, int]) -> None:
    data = content(200)
    assert pages.sums_of(data) == sums(data)
    target = pages.buffer(200 * PAGE)
    assert pages.read(files[0], PAGE, target, what="f") == sums(data)
    assert target == data


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [1, 31, 32, 64, 65, 199, 200])
def test_what_is_read_is_the_same_in_parts(
    files: tuple[int, int], count: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_threads", lambda: threads)
    memory = b"x" * PAGE + content(200)
    data = memory[PAGE : (count + 1) * PAGE]
    target = pages.buffer((count + 1) * PAGE)
    for source in (files[0], memory):
        target[:] = b"z" * (count + 1) * PAGE
        assert pages.read(source, PAGE, target[: count * PAGE], what="f") == sums(data)
        assert target[: count * PAGE] == data
        assert target[count * PAGE :] == b"z" * PAGE
    with pytest.raises(HostError, match="f ended early"):  # whichever part it is that ends
        pages.read(files[0], (202 - count) * PAGE, target[: count * PAGE], what="f")


STORE = """
import os, sys
fd, value = os.open(sys.argv[1], os.O_RDWR), 0
while True:
    value += 1
    for page in range(1, 201):
        os.pwrite(fd, value.to_bytes(8, "little"), page * 4096)
"""


@pytest.fixture
def unrest(files: tuple[int, int], tmp_path: Path) -> Iterator[memoryview]:
    """The 200 pages of the first file, as memory; another process stores to all of them, again and again."""
    address = kernel.map_memory(201 * PAGE, what="test", fd=files[0], shared=True, write=False)
    view = kernel.memory_view(address, 201 * PAGE)
    before = bytes(view[PAGE : PAGE + 8])
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", STORE, str(tmp_path / "from")]) as other:
        while view[PAGE : PAGE + 8] == before and other.poll() is None:
            time.sleep(0.01)
        yield view[PAGE:]
        assert other.poll() is None
        other.kill()
    kernel.unmap_memory(address, 201 * PAGE)


@pytest.mark.parametrize("of_file", [True, False])
@pytest.mark.parametrize("hardware", [True, False])
def test_the_sums_of_a_torn_read_are_those_of_what_is_there(
    files: tuple[int, int], unrest: memoryview, of_file: bool, hardware: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, before, changes = pages.buffer(200 * PAGE), b"", 0
    if not hardware:
        monkeypatch.setattr(pages, "_hardware", lambda: False)
    while changes < (300 if hardware else 20):  # however seldom the other process runs
        summed = pages.read(files[0], PAGE, target, what="f") if of_file else pages.read(unrest, 0, target, what="f")
        assert summed == pages.sums_of(target)
        changes += summed != before
        before = summed


def test_the_crc_of_pages_taken_while_they_change_is_that_of_the_copy(tmp_path: Path) -> None:
    """The copy itself is what changes them: it goes, by another mapping, to where they lie, half a page lower."""
    (tmp_path / "pages").write_bytes(random.Random("pages").randbytes(2 * PAGE))
    fd = kernel.open_file(tmp_path / "pages", write=True)
    first, second = (kernel.map_memory(2 * PAGE, what="test", fd=fd, shared=True) for _ in range(2))
    source = kernel.memory_view(first, 2 * PAGE)[PAGE // 2 : PAGE // 2 + PAGE]
    target = kernel.memory_view(second, 2 * PAGE)[:PAGE]
    taken = pages.take(source, 0, target, 0, what="f")
    assert bytes(source) != bytes(target)
    assert taken == pages.Taken([], pages.crc32c(target))
    for view, address in ((source, first), (target, second)):
        view.release()
        kernel.unmap_memory(address, 2 * PAGE)
    os.close(fd)


def test_a_copy_leaves_zero_pages_out_and_names_them(files: tuple[int, int]) -> None:
    data = content(200)
    copied = pages.copy(files[0], PAGE, files[1], 2 * PAGE, 200, what="f", to_what="t")
    assert copied.sums == sums(data)
    assert copied.zero == [(page, 1) for page in range(3, 200, 5)]
    there = os.pread(files[1], 202 * PAGE, 0)
    for page in range(200):
        kept = b"y" * PAGE if page % 5 == 3 else data[page * PAGE : (page + 1) * PAGE]
        assert there[(page + 2) * PAGE : (page + 3) * PAGE] == kept
    assert there[: 2 * PAGE] == b"y" * 2 * PAGE


def test_what_cannot_be_read_or_stored_is_named(files: tuple[int, int]) -> None:
    source, target = files
    with pytest.raises(HostError, match="f ended early"):
        pages.copy(source, 101 * PAGE, target, 0, 101, what="f", to_what="t")
    with pytest.raises(HostError, match="f ended early"):
        pages.read(source, 101 * PAGE, pages.buffer(101 * PAGE), what="f")
    with pytest.raises(HostError, match="cannot read pages of f"):
        pages.read(-1, 0, pages.buffer(PAGE), what="f")
    with pytest.raises(HostError, match="cannot store pages in t: Bad file descriptor"):
        pages.copy(source, PAGE, source, 0, 1, what="f", to_what="t")


def test_guarded_memory_whose_file_was_cut_short_is_found_lost(files: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(4 * PAGE))
    fd = kernel.open_file(tmp_path / "short", write=True)
    address = kernel.map_memory(4 * PAGE, what="test", fd=fd, shared=True)
    guard = Guard(address, 4 * PAGE)
    os.truncate(fd, 2 * PAGE)
    pages.read(files[0], PAGE, kernel.memory_view(address, 4 * PAGE), what="f")
    lost = guard.lost()
    assert lost is not None
    assert lost.offset == 2 * PAGE
    guard.close()
    kernel.unmap_memory(address, 4 * PAGE)
    os.close(fd)


@pytest.mark.parametrize("running", [0, 12345])
@pytest.mark.parametrize("of_file", [True, False])
def test_taken_pages_are_copied_and_summed_without_the_zero_ones(
    files: tuple[int, int], of_file: bool, running: int
) -> None:
    data = content(200)
    target = pages.buffer(200 * PAGE)
    source: int | memoryview = files[0] if of_file else memoryview(b"-" * PAGE + data)
    taken = pages.take(source, PAGE, target, running, what="f")
    assert taken.zero == [(page, 1) for page in range(3, 200, 5)]
    kept = [n for n in range(200) if n % 5 != 3]
    for page in kept:
        assert target[page * PAGE : (page + 1) * PAGE] == data[page * PAGE : (page + 1) * PAGE]
    expected = b"".join(data[page * PAGE : (page + 1) * PAGE] for page in kept)
    assert taken.crc == pages.crc32c(expected, running, hardware=False)


def test_a_file_that_ends_early_cannot_be_taken_from(files: tuple[int, int]) -> None:
    with pytest.raises(HostError, match="f ended early"):
        pages.take(files[0], 200 * PAGE, pages.buffer(2 * PAGE), 0, what="f")


def test_what_has_come_is_received_and_summed() -> None:
    left, right = socket.socketpair()
    target, data = bytearray(300_000), random.Random(1).randbytes(100_001)
    with pytest.raises(BlockingIOError):
        pages.receive(right.fileno(), target, 7)
    sender = threading.Thread(target=left.sendall, args=(data,))
    sender.start()
    at, crc = 0, 7
    while at < len(data):
        select.select([right], [], [], 60)
        count, crc = pages.receive(right.fileno(), memoryview(target)[at:], crc)
        at += count
    sender.join()
    assert target[:at] == data
    assert crc == pages.crc32c(data, 7)
    left.close()
    assert pages.receive(right.fileno(), target, 7) == (0, 7)
    right.close()


def test_memory_without_storage_receives_nothing_and_nobody_dies(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"")
    fd = kernel.open_file(tmp_path / "short", write=True)
    address = kernel.map_memory(PAGE, what="test", fd=fd, shared=True)
    left, right = socket.socketpair()
    left.sendall(b"x" * 100)
    with pytest.raises(OSError, match="Bad address"):
        pages.receive(right.fileno(), kernel.memory_view(address, PAGE), 0)
    kernel.unmap_memory(address, PAGE)
    os.close(fd)
    left.close()
    right.close()


def test_buffers_begin_where_pages_do() -> None:
    assert int(ffi.cast("uintptr_t", ffi.from_buffer(pages.buffer(3 * PAGE)))) % PAGE == 0
