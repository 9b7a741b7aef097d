"""The mapping: its bounds, its end, files cut short and disks that are full under it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from emu.config import OnOffAuto
from emu.errors import EmuError, HostError
from emu.memory import Backend, incomplete, open_backend
from tests.unit.memory.memory_backends import SIZE, config

# -- the mapping ---------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (SIZE, 1), (0, SIZE + 1), (5, -1)])
def test_persist_stays_inside(offset: int, length: int, backend: Backend) -> None:
    with pytest.raises(EmuError, match="outside"):
        backend.mapping.persist(offset, length)


def test_a_file_cut_short_under_the_mapping(image: Path, backend: Backend) -> None:
    assert backend.mapping.lost() is None
    backend.mapping.check()
    os.truncate(image, 8192)
    assert backend.mapping.view[8192] == 0
    assert backend.mapping.lost() == 8192
    calls: list[Callable[[], None]] = [backend.mapping.check, lambda: backend.mapping.persist(8192, 1)]
    for call in calls:
        with pytest.raises(HostError, match="at offset 0x2000") as caught:
            call()
        assert str(image) in caught.value.what
        assert caught.value.remedy


@pytest.mark.parametrize("share_lock", [False, True])
def test_discarding_removes_what_was_made_unless_others_may_have_used_it(share_lock: bool, tmp_path: Path) -> None:
    opened = open_backend(config(tmp_path / "new", share_lock=share_lock))
    opened.discard()
    opened.discard()
    assert (tmp_path / "new").exists() == share_lock
    (tmp_path / "empty").touch()
    open_backend(config(tmp_path / "empty", share_lock=share_lock)).discard()
    assert (tmp_path / "empty").stat().st_size == (SIZE if share_lock else 0)
    (tmp_path / "old").write_bytes(bytes(SIZE))
    open_backend(config(tmp_path / "old")).discard()
    assert (tmp_path / "old").stat().st_size == SIZE


def test_discarding_keeps_what_a_migration_began_to_fill(tmp_path: Path) -> None:
    opened = open_backend(config(tmp_path / "new"))
    incomplete.mark(tmp_path / "new", "a test")
    opened.discard()
    assert (tmp_path / "new").exists()


def test_closing_twice_and_using_after(backend: Backend) -> None:
    backend.close()
    backend.close()
    assert backend.mapping.closed
    with pytest.raises(EmuError):
        backend.mapping.persist()
    with pytest.raises(ValueError, match="released"):
        backend.mapping.view[0]


def test_a_slice_that_outlives_the_mapping_stays_readable(image: Path) -> None:
    opened = open_backend(config(image))
    kept = opened.mapping.view[:4]
    opened.close()
    assert bytes(kept) == b"\0\1\2\3"
    with open_backend(replace(opened.config)):
        pass


def test_nothing_leaks_over_many_backends(image: Path, tmp_path: Path) -> None:
    def count() -> tuple[int, int]:
        return sum(1 for _ in Path("/proc/self/fd").iterdir()), len(Path("/proc/self/maps").read_text().splitlines())

    open_backend(config(image)).close()
    before = count()
    for number in range(200):
        open_backend(config(image)).close()
        with pytest.raises(EmuError):
            open_backend(config(image, align=5000))
        with pytest.raises(EmuError):
            open_backend(config(tmp_path / str(number), sync=OnOffAuto.ON))
    after = count()
    assert after[0] == before[0]
    assert after[1] <= before[1] + 10


# -- a full disk ---------------------------------------------


FULL = """
import errno, os, sys
from emu.config import BackendConfig
from emu.errors import HostError
from emu.memory import open_backend
root = sys.argv[1]
path = root + "/pmem.img"
try:
    open_backend(BackendConfig(id="m", path=path, size=4 << 20, share=True, prealloc=True))
except HostError as error:
    print(error.errno == errno.ENOSPC, os.listdir(root))
backend = open_backend(BackendConfig(id="m", path=path, size=4 << 20, share=True))
for page in range(1024):
    backend.mapping.view[page * 4096] = 1
print(backend.mapping.lost() is not None)
try:
    backend.mapping.persist()
except HostError as error:
    print("lost its storage" in error.what)
backend.close()
"""


def test_a_full_disk_is_found_at_the_start_or_becomes_a_flag(tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=1M none "$1" && exec "{sys.executable}" -c "$2" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path), FULL]
    try:
        allowed = subprocess.run(
            [*command[:5], "-c", 'mount -t tmpfs none "$1"', "sh", str(tmp_path)], capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("unshare is missing; install util-linux")
    if allowed.returncode:
        pytest.skip("this host does not allow user namespaces; run as root or set kernel.unprivileged_userns_clone=1")
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    assert result.stdout.splitlines() == ["True []", "True", "True"]
