"""The source's files as the destination reads them: mapped where they live in memory, and cut short at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.errors import HostError
from emu.host import kernel, pages
from emu.migration.passed import PassedFile
from emu.units import PAGE

CONTENT = os.urandom(40 * PAGE)


@pytest.fixture(params=["in memory", "on a disk"])
def descriptor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A file of 40 pages behind one of something else."""
    if request.param == "in memory":
        fd = os.memfd_create("emu-test")
    else:
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"-" * PAGE + CONTENT)
    yield fd
    os.close(fd)


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


def read(file: PassedFile, first: int, count: int) -> bytes:
    """The pages, after a check of their sums."""
    target = pages.buffer(count * PAGE)
    assert file.read(first * PAGE, target) == pages.sums_of(target)
    return bytes(target)


def test_pages_are_read_from_where_the_block_begins(descriptor: int) -> None:
    file = PassedFile(descriptor, PAGE, 40 * PAGE)
    assert read(file, 0, 40) == CONTENT
    assert read(file, 7, 3) == CONTENT[7 * PAGE : 10 * PAGE]
    file.close()


@pytest.mark.parametrize("left", [0, 1, 20, 40])
def test_a_file_that_is_cut_short_ends_early(descriptor: int, left: int) -> None:
    file = PassedFile(descriptor, PAGE, 40 * PAGE)
    assert read(file, 0, 1) == CONTENT[:PAGE]
    os.truncate(descriptor, left * PAGE)
    with pytest.raises(HostError, match="the source's file ended early"):
        file.read(0, pages.buffer(40 * PAGE))
    file.close()


def test_nothing_of_it_stays_mapped(descriptor: int) -> None:
    before = mappings()
    file = PassedFile(descriptor, PAGE, 40 * PAGE)
    read(file, 0, 40)
    file.close()
    file.close()
    assert mappings() == before


def test_what_cannot_be_mapped_is_read(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> int:
        raise HostError("no mapping")

    monkeypatch.setattr(kernel, "map_memory", refused)
    file = PassedFile(descriptor, PAGE, 40 * PAGE)
    monkeypatch.undo()
    assert read(file, 0, 40) == CONTENT
    file.close()
