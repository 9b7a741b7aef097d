"""Where memory comes from: which files are taken, made, sized, refused; device DAX; what a failure leaves."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from emu.config import OnOffAuto, Policy
from emu.errors import EmuError, HostError, MapSyncUnavailable, UsageError
from emu.host import dax, kernel
from emu.memory import open_backend, source
from emu.units import MIB
from tests.unit.memory.memory_backends import SIZE, FakeMmap, config, refused

# -- the file ---------------------------------------------


def test_a_missing_file_is_created_with_the_size_and_keeps_what_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "new.img"
    old = os.umask(0)
    try:
        backend = open_backend(config(path))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == backend.mapping.size == SIZE
    backend.mapping.view[100:105] = b"words"
    backend.mapping.persist(100, 5)
    backend.close()
    assert path.read_bytes()[100:105] == b"words"
    with open_backend(config(path)) as again:
        assert bytes(again.mapping.view[100:105]) == b"words"


def test_size_is_the_files_own_when_not_given(image: Path) -> None:
    with open_backend(config(image, size=None), default_size=MIB) as backend:
        assert backend.config.size == backend.mapping.size == SIZE
    with open_backend(config(image, size=None, offset=4096)) as backend:
        assert backend.mapping.size == SIZE - 4096
        assert backend.mapping.view[1] == 1
        backend.mapping.view[0] = 99
    assert image.read_bytes()[4096] == 99


def test_default_size_is_for_new_and_for_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("new", "empty"):
        with open_backend(config(tmp_path / name, size=None), default_size=2 * SIZE) as backend:
            assert backend.mapping.size == 2 * SIZE
        assert (tmp_path / name).stat().st_size == 2 * SIZE


def test_no_size_at_all_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    refused(config(tmp_path / "new", size=None), "no size was given")
    assert not list(tmp_path.iterdir())


def test_a_larger_file_is_taken_and_never_cut(image: Path) -> None:
    with open_backend(config(image, size=8192)) as backend:
        assert backend.mapping.size == 8192
    assert image.stat().st_size == SIZE


@pytest.mark.parametrize(("size", "offset"), [(2 * SIZE, 0), (SIZE, 4096), (4096, SIZE), (4096, 1 << 62)])
def test_a_file_with_content_is_never_grown(size: int, offset: int, image: Path) -> None:
    before = image.read_bytes()
    refused(config(image, size=size, offset=offset), "too small for size")
    assert image.read_bytes() == before


def test_an_empty_file_is_empty_again_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    refused(config(path, sync=OnOffAuto.ON), "MAP_SYNC", MapSyncUnavailable)
    assert path.stat().st_size == 0


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"size": 4097}, UsageError),
        ({"align": 3 * MIB}, UsageError),
        ({"sync": OnOffAuto.ON}, MapSyncUnavailable),
        ({"size": 1 << 62}, HostError),
        ({"size": (1 << 63) - 4096}, HostError),
        ({"size": 1 << 63}, HostError),
        ({"policy": Policy.BIND, "host_nodes": (127,)}, HostError),
    ],
)
def test_a_file_that_was_made_is_gone_after_a_failure(
    changes: dict[str, Any], kind: type[EmuError], tmp_path: Path
) -> None:
    refused(config(tmp_path / "new", **changes), None, kind)
    assert not list(tmp_path.iterdir())


def test_a_file_put_in_place_of_ours_meanwhile_is_left_alone(tmp_path: Path) -> None:
    opened = source.open_source(config(tmp_path / "f"))
    (tmp_path / "f").unlink()
    (tmp_path / "f").write_text("somebody else's")
    opened.discard()
    assert (tmp_path / "f").read_text() == "somebody else's"


def test_what_cannot_back_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        refused(config(tmp_path / "socket"), "is a socket")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "f")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "plain").touch()
    refused(config(tmp_path), "is a directory")
    refused(config(tmp_path / "fifo"), "is a FIFO")
    refused(config("/dev/null"), "not a device DAX")
    refused(config("/dev/tty"), "not a device DAX|No such")
    refused(config(tmp_path / "dangling"), "the symbolic link leads nowhere", HostError)
    refused(config(tmp_path / "loop"), "symbolic link", HostError)
    refused(config(tmp_path / "no" / "parent"), "No such file", HostError)
    refused(config(tmp_path / "plain" / "f"), "Not a directory", HostError)
    refused(config(tmp_path / ("x" * 300)), "too long", HostError)
    refused(config("a\0b"), "not a file name", HostError)


def test_links_are_followed(image: Path) -> None:
    (image.parent / "link").symlink_to(image)
    with open_backend(config(image.parent / "link", size=None)) as backend:
        assert backend.mapping.size == SIZE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything; run the tests as a normal user")
def test_a_file_without_permission_says_what_to_do(image: Path) -> None:
    image.chmod(0o444)
    assert "readonly=on" in refused(config(image), "Permission denied", HostError).remedy
    assert "rom=off" in refused(config(image, share=False), "Permission denied", HostError).remedy


def test_hints_for_missing_permission(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str, **_: object) -> int:
        raise kernel.host_error(f"cannot open {path}", errno.EACCES)

    monkeypatch.setattr(kernel, "open_file", denied)
    assert "readonly=on,unarmed=on" in refused(config(image), "Permission denied", HostError).remedy
    assert "readonly=on,rom=off" in refused(config(image, share=False), "Permission denied", HostError).remedy


# -- device DAX (its facts injected, a plain file in its place) ---------------------------------------------


@pytest.fixture
def device(image: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The image posing as a device DAX of 4 MiB with pages of 2 MiB."""
    os.truncate(image, 4 * MIB)
    real = stat.S_ISCHR
    monkeypatch.setattr(stat, "S_ISCHR", lambda mode: stat.S_ISREG(mode) or real(mode))
    monkeypatch.setattr(dax, "read_device", lambda *_, **__: dax.DaxDevice(4 * MIB, 2 * MIB, True))
    return image


def test_device_dax_size_and_alignment_come_from_sysfs(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeMmap(monkeypatch)
    with open_backend(config(device, size=None, prealloc=True)) as backend:
        mapping = backend.mapping
        assert (mapping.size, mapping.alignment, mapping.page_size) == (4 * MIB, 2 * MIB, 2 * MIB)
        assert mapping.durability.survives.host_power_loss
        assert "device DAX" in mapping.durability.why
        log = mapping.dirty_log()
        log.start()
        mapping.view[2 * MIB] = 1
        assert log.collect() == [(512, 512)]
        log.stop()


def test_device_dax_refuses_less_than_its_alignment(device: Path) -> None:
    assert "align=2M" in refused(config(device, size=None, align=4096), "larger than 'align'").remedy
    refused(config(device, size=None, share=False), "cannot be mapped privately")
    refused(config(device, size=3 * MIB), "not a multiple of the page size 0x200000")
    refused(config(device, size=8 * MIB), "too small")
    refused(config(device, size=2 * MIB, offset=4096), "offset")
