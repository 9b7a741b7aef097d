"""Probing paths and device DAX facts; sysfs is a folder made by the test."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from emu.errors import HostError, UsageError
from emu.host import dax, kernel, probe
from emu.host.probe import probe_path

KEYS = {"path", "kind", "file_system", "dax", "map_sync", "why", "granularity", "cpu_flush", "alignment"}


def make_device(root: Path, *, size: str = "532676608", align: str | None = "2097152", bus: str = "ndbus0") -> int:
    """A device DAX in the sysfs folder ``root``, laid out as the kernel does; returns its device number."""
    device = root / "devices" / bus / "region0" / "dax0.1" / "dax0.0"
    device.mkdir(parents=True)
    (root / "bus" / "dax").mkdir(parents=True)
    (device / "subsystem").symlink_to(root / "bus" / "dax")
    (device / "size").write_text(size + "\n")
    if align is not None:
        (device / "align").write_text(align + "\n")
    (root / "dev" / "char").mkdir(parents=True)
    (root / "dev" / "char" / "252:7").symlink_to(device)
    return os.makedev(252, 7)


def test_device_dax_size_alignment_and_bus(tmp_path: Path) -> None:
    number = make_device(tmp_path)
    assert dax.read_device(number, what="/dev/dax0.0", sysfs=tmp_path) == dax.DaxDevice(532676608, 2097152, True)


def test_alignment_of_an_older_kernel_is_the_regions(tmp_path: Path) -> None:
    number = make_device(tmp_path, align=None)
    region = tmp_path / "devices" / "ndbus0" / "region0" / "dax0.1" / "dax_region"
    region.mkdir()
    (region / "align").write_text("4096\n")
    device = dax.read_device(number, what="x", sysfs=tmp_path)
    assert device is not None
    assert device.align == 4096


def test_device_dax_that_is_not_on_the_nvdimm_bus_is_volatile(tmp_path: Path) -> None:
    device = dax.read_device(make_device(tmp_path, bus="hmem.0"), what="x", sysfs=tmp_path)
    assert device is not None
    assert not device.persistent


@pytest.mark.parametrize(("size", "align"), [("0", "4096"), ("words", "4096"), ("4096", None)])
def test_unreadable_device_facts_are_an_error(size: str, align: str | None, tmp_path: Path) -> None:
    number = make_device(tmp_path, size=size, align=align)
    with pytest.raises(HostError, match=r"/dev/dax9\.9"):
        dax.read_device(number, what="/dev/dax9.9", sysfs=tmp_path)


def test_other_character_devices_are_no_device_dax(tmp_path: Path) -> None:
    assert dax.read_device(os.makedev(1, 3), what="x") is None
    assert dax.read_device(os.makedev(1, 3), what="x", sysfs=tmp_path) is None


def test_a_file_is_not_altered(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"kept" * 5000)
    os.utime(path, (1, 2))
    answer = probe_path(path)
    status = path.stat()
    assert (status.st_size, status.st_mtime) == (20000, 2)
    assert path.read_bytes() == b"kept" * 5000
    assert answer.kind == "file"
    assert answer.alignment == kernel.PAGE_SIZE
    assert answer.map_sync == (answer.granularity == "cache-line")


def test_read_only_and_empty_files_can_be_probed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch(mode=0o444)
    assert probe_path(path).kind == "file"


def test_directory_is_left_empty(tmp_path: Path) -> None:
    assert probe_path(tmp_path).kind == "directory"
    assert not list(tmp_path.iterdir())


def test_directory_without_nameless_files_is_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_: object) -> int:
        raise HostError("no", errno=95)

    monkeypatch.setattr(kernel, "open_unnamed", unsupported)
    assert probe_path(tmp_path).kind == "directory"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "remedy"), [("pmem.img", "emu probe {folder}"), ("no/pmem.img", "directory does not exist either")]
)
def test_what_is_not_there_is_no_answer(tmp_path: Path, name: str, remedy: str) -> None:
    with pytest.raises(HostError, match="does not exist") as caught:
        probe_path(tmp_path / name)
    assert remedy.format(folder=tmp_path) in caught.value.remedy


def test_a_device_that_is_not_there_is_not_its_folder() -> None:
    with pytest.raises(HostError, match=r"^/dev/dax77\.77 does not exist") as caught:
        probe_path("/dev/dax77.77")
    assert "emu probe" not in caught.value.remedy


@pytest.mark.parametrize("path", ["/proc/cpuinfo", "/proc/self/mem", "/proc/self/environ", "/sys/kernel/profiling"])
def test_what_only_looks_like_a_file_cannot_back_memory(path: str) -> None:
    if not Path(path).exists():
        pytest.skip(f"this kernel has no {path}")
    with pytest.raises(UsageError, match="cannot back memory"):
        probe_path(path)


def test_json_is_what_the_command_prints(tmp_path: Path) -> None:
    document = json.loads(json.dumps(probe_path(tmp_path).to_json()))
    assert set(document) == KEYS
    assert document["cpu_flush"] == list(kernel.flush_instructions())
    assert isinstance(document["dax"], bool)


@pytest.mark.parametrize("synced", [True, False])
def test_what_the_kernel_answers_decides(synced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "is_dax", lambda _: True)
    monkeypatch.setattr(probe, "_map_sync", lambda *_: synced)
    answer = probe_path(tmp_path)
    assert answer.dax
    assert answer.map_sync is synced
    assert answer.granularity == ("cache-line" if synced and kernel.flush_instructions() else "page")
    assert ("consistent file-system metadata" in answer.why) == synced


def test_a_flag_taken_but_not_shown_is_no_map_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel (or a sandbox posing as one) that takes any flag must not pass."""
    real = kernel.map_memory

    def lenient(size: int, **rest: object) -> int:
        return real(size, **{**rest, "sync": False, "shared": True})  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "map_memory", lenient)
    assert not probe_path(tmp_path).map_sync
    monkeypatch.setattr(kernel, "vm_flags", lambda _: frozenset({"sf"}))
    assert probe_path(tmp_path).map_sync


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("no/such/dir/f", HostError, "does not exist"),
        ("file/f", HostError, "file"),
        ("fifo", UsageError, "cannot back memory"),
        ("/dev/null", UsageError, "not a device DAX"),
        ("", UsageError, "not a file name"),
        ("a\0b", UsageError, "not a file name"),
        ("x" * 5000, HostError, "too long"),
    ],
)
def test_what_cannot_be_probed_gets_a_clear_error(path: str, kind: type[Exception], text: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(kind, match=text) as caught:
        probe_path(path if path.startswith("/") or not path or "\0" in path else str(tmp_path / path))
    assert str(caught.value).count("\n") == 1


def test_volatile_device_dax_is_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dax, "read_device", lambda *_, **__: dax.DaxDevice(1 << 30, 2 << 20, False))
    monkeypatch.setattr(probe, "_map_sync", lambda *_: True)
    answer = probe_path("/dev/null")
    assert (answer.kind, answer.alignment, answer.map_sync) == ("device-dax", 2 << 20, True)
    assert "volatile" in answer.why
