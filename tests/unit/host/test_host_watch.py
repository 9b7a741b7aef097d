"""Writes to watched files by system calls are noticed, whoever makes them; stores through mappings are not."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.errors import HostError
from emu.host.watch import Watch


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 8192)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def watch(file: int) -> Iterator[Watch]:
    watch = Watch()
    watch.add(file, "f")
    yield watch
    watch.close()


def test_every_kind_of_write_is_noticed_once(watch: Watch, file: int, tmp_path: Path) -> None:
    assert watch.changed() == []
    for write in (
        lambda: os.pwrite(file, b"x", 100),
        lambda: os.ftruncate(file, 4096),
        lambda: os.posix_fallocate(file, 0, 16384),
        lambda: (tmp_path / "f").write_bytes(b"y"),
        lambda: subprocess.run(
            [sys.executable, "-ISc", "import sys; open(sys.argv[1], 'r+').write('z')", tmp_path / "f"], check=True
        ),
    ):
        write()
        assert watch.changed() == ["f"]
        assert watch.changed() == []


def test_the_file_is_watched_and_not_its_name(watch: Watch, file: int, tmp_path: Path) -> None:
    (tmp_path / "f").rename(tmp_path / "g")
    (tmp_path / "f").write_bytes(b"another file")
    assert watch.changed() == []
    (tmp_path / "g").write_bytes(b"this one")
    assert watch.changed() == ["f"]


def test_reads_and_stores_through_a_mapping_are_no_writes(watch: Watch, file: int, tmp_path: Path) -> None:
    with mmap.mmap(file, 8192) as memory:
        memory[:8] = b"01234567"
    assert (tmp_path / "f").read_bytes()[:8] == b"01234567"
    os.utime(tmp_path / "f")
    assert watch.changed() == []


def test_each_of_many_files_is_named(watch: Watch, tmp_path: Path) -> None:
    others = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in "abc"]
    for descriptor, name in zip(others, "abc", strict=True):
        watch.add(descriptor, name)
    os.write(others[2], b"x")
    os.write(others[0], b"x")
    assert watch.changed() == ["a", "c"]
    for descriptor in others:
        os.close(descriptor)


def test_a_descriptor_that_is_none_cannot_be_watched(watch: Watch) -> None:
    with pytest.raises(HostError, match="cannot watch g for changes: No such file"):
        watch.add(987654, "g")
