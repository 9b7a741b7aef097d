"""Backends on real files: requests that are refused and in which order, alignment, sync, access."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from emu.config import BackendConfig, BackendKind, OnOffAuto, Policy
from emu.errors import EmuError, HostError, MapSyncUnavailable
from emu.host import pages
from emu.memory import open_backend
from emu.units import GIB, MIB
from tests.unit.memory.memory_backends import SIZE, FakeMmap, config, refused

# -- checks ---------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"size": 0}, "'size' of memory-backend-file doesn't take value '0'"),
        ({"path": None}, "mem-path"),
        ({"path": ""}, "mem-path"),
        ({"rom": OnOffAuto.ON}, "rom=on needs readonly=on"),
        ({"rom": OnOffAuto.OFF, "readonly": True}, "needs share=off"),
        ({"readonly": True, "prealloc": True}, "prealloc=on needs memory that can be written"),
        ({"prealloc": True, "reserve": False}, "exclude each other"),
        ({"prealloc_threads": 0}, "prealloc-threads"),
        ({"host_nodes": (0,)}, "must be empty for policy 'default'"),
        ({"policy": Policy.BIND}, "must be given for policy 'bind'"),
        ({"policy": Policy.BIND, "host_nodes": (128,)}, "Invalid host-nodes value: 128\ngive numbers from 0 to 127"),
        ({"discard_data": True}, "would erase the shared file"),
        ({"align": 5000}, "0x1388 is not a multiple of the page size 0x1000"),
        ({"align": 0x180000}, "0x180000 is not a power of two"),
        ({"size": 4096, "offset": 100}, "offset 0x64 is not a multiple"),
        ({"size": 100}, "smaller than the page size"),
        ({"size": 5000}, "not a multiple of the page size"),
        ({"align": -4096}, "'align' of memory-backend-file doesn't take value '-4096'"),
    ],
)
def test_wrong_requests_are_refused(changes: dict[str, Any], match: str, image: Path) -> None:
    before = image.read_bytes()
    refused(config(image, **changes), match)
    assert image.read_bytes() == before


def test_the_order_of_the_checks_is_qemus(tmp_path: Path, image: Path) -> None:
    """Size 0, then mem-path, then access, then the file, then its size, then alignment, offset and page multiples."""
    wrong: dict[str, Any] = {
        "path": None, "size": 0, "rom": OnOffAuto.ON, "align": 5000, "offset": 100,
    }  # fmt: skip
    steps: list[tuple[str, dict[str, Any]]] = [
        ("'size' .* doesn't take value '0'", {"size": 2 * SIZE + 1}),
        ("mem-path", {"path": str(tmp_path / "no" / "file")}),
        ("rom=on", {"rom": OnOffAuto.AUTO}),
        ("No such file", {"path": str(image)}),
        ("too small", {"size": 100}),
        ("not a multiple of the page size", {"align": 0x180000}),
        ("power of two", {"align": 0}),
        ("offset", {"offset": 0}),
        ("smaller than the page", {"size": 4097}),
        ("memory size 0x1001 is not a multiple", {"size": 4096}),
    ]
    for match, repair in steps:
        refused(config("", **wrong), match, EmuError)
        wrong |= repair
    with open_backend(config("", **wrong)) as backend:
        assert backend.mapping.size == 4096


@pytest.mark.parametrize("align", [4096, 2 * MIB, GIB])
def test_alignment(align: int, image: Path) -> None:
    with open_backend(config(image, align=align)) as backend:
        assert backend.mapping.alignment == align
        assert backend.mapping.address % align == 0


def test_ram_is_aligned_to_2_mib_and_rounded_to_pages() -> None:
    with open_backend(BackendConfig(id="r", kind=BackendKind.RAM, size=4097)) as backend:
        mapping = backend.mapping
        assert (mapping.alignment, mapping.address % (2 * MIB), mapping.size, backend.config.size) == (
            2 * MIB,
            0,
            8192,
            8192,
        )
        assert mapping.durability.granularity == "none"
        assert pages.is_zero(mapping.view)
        mapping.view[5] = 5
        mapping.persist()
        assert (backend.fd, backend.lock) == (-1, None)
        backend.release_lock()
        backend.acquire_lock()


def test_ram_without_size_takes_the_default_or_is_refused() -> None:
    with open_backend(BackendConfig(id="r", kind=BackendKind.RAM), default_size=SIZE) as backend:
        assert backend.mapping.size == SIZE
    refused(BackendConfig(id="r", kind=BackendKind.RAM), "no size")


@pytest.mark.parametrize(
    "changes",
    [{"path": "x"}, {"align": 4096}, {"offset": 4096}, {"discard_data": True}, {"pmem": True}, {"readonly": True},
     {"rom": OnOffAuto.OFF}, {"sync": OnOffAuto.ON}, {"discard_shared": True}, {"share_lock": True}],
)  # fmt: skip
def test_ram_has_no_file_properties(changes: dict[str, Any]) -> None:
    refused(BackendConfig(id="r", kind=BackendKind.RAM, size=SIZE, **changes), "memory-backend-ram has no property")


def test_absurd_ram_is_a_clear_error() -> None:
    refused(BackendConfig(id="r", kind=BackendKind.RAM, size=1 << 62), "cannot map", HostError)


# -- sync ---------------------------------------------


def test_sync_on_needs_share_before_the_file_is_touched(tmp_path: Path) -> None:
    error = refused(config(tmp_path / "f", share=False, sync=OnOffAuto.ON), "share=off", MapSyncUnavailable)
    assert "consistent file-system metadata for every guest write" in error.remedy
    assert not list(tmp_path.iterdir())


def test_sync_on_a_file_without_dax_is_refused_and_auto_degrades(image: Path) -> None:
    with open_backend(config(image)) as backend:
        if backend.mapping.durability.effective:
            pytest.skip("the temporary directory is on a DAX file system; set TMPDIR to another one")
        durability = backend.mapping.durability
        assert (durability.requested, durability.granularity) == (OnOffAuto.AUTO, "page")
        assert durability.survives.emulator_kill
        assert not durability.survives.host_power_loss
    error = refused(config(image, sync=OnOffAuto.ON), r"MAP_SYNC \(sync=on\)", MapSyncUnavailable)
    assert "DAX" in error.remedy
    assert "real NVDIMM" in error.remedy


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_two_errnos_mean_no(number: int, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mmap = FakeMmap(monkeypatch, number)
    with open_backend(config(image)) as backend:
        assert not backend.mapping.durability.effective
    assert mmap.asked == [True, False]
    refused(config(image, sync=OnOffAuto.ON), "MAP_SYNC", MapSyncUnavailable)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOMEM, errno.EPERM, errno.EAGAIN])
@pytest.mark.parametrize("sync", [OnOffAuto.AUTO, OnOffAuto.ON])
def test_any_other_errno_is_an_error(
    number: int, sync: OnOffAuto, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mmap = FakeMmap(monkeypatch, number)
    assert refused(config(image, sync=sync), "cannot map", HostError).errno == number  # type: ignore[attr-defined]
    assert mmap.asked == [True]


def test_sync_off_never_asks_and_a_private_mapping_neither(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mmap = FakeMmap(monkeypatch)
    for changes in ({"sync": OnOffAuto.OFF}, {"share": False}, {"share": False, "sync": OnOffAuto.OFF}):
        open_backend(config(image, **changes)).close()
    assert mmap.asked == [False, False, False]


@pytest.mark.parametrize("flags", [frozenset({"sf", "sh"}), None])
def test_effective_sync(flags: frozenset[str] | None, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mmap = FakeMmap(monkeypatch, flags=flags)
    with open_backend(config(image, sync=OnOffAuto.ON, pmem=True)) as backend:
        durability = backend.mapping.durability
        assert durability.effective
        assert durability.survives.host_power_loss
        assert backend.warnings == ()
        backend.mapping.view[3] = 3
        backend.mapping.persist(3, 1)
    assert mmap.asked == [True]


def test_a_flag_that_the_mapping_does_not_show_counts_for_nothing(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeMmap(monkeypatch, flags=frozenset({"sh"}))
    with open_backend(config(image)) as backend:
        assert not backend.mapping.durability.effective
    refused(config(image, sync=OnOffAuto.ON), "does not show it", HostError)


def test_pmem_that_is_not_honoured_is_said(image: Path) -> None:
    with open_backend(config(image, pmem=True, sync=OnOffAuto.OFF)) as backend:
        assert "pmem=on is not honoured" in backend.mapping.durability.why
        assert backend.warnings == (f"{image}: {backend.mapping.durability.why}",)
    with open_backend(config(image, sync=OnOffAuto.OFF)) as backend:
        assert backend.warnings == ()


def test_memory_file_systems_say_so() -> None:
    fd = os.memfd_create("test")
    try:
        with open_backend(config(f"/proc/self/fd/{fd}")) as backend:
            assert "host's RAM" in backend.mapping.durability.why
            assert backend.mapping.durability.survives.emulator_kill
    finally:
        os.close(fd)


# -- access ---------------------------------------------


def test_a_private_mapping_leaves_the_file_alone(image: Path) -> None:
    before = image.read_bytes()
    with open_backend(config(image, share=False)) as backend:
        backend.mapping.view[:10] = b"0123456789"
        backend.mapping.persist()
        assert not backend.mapping.durability.survives.emulator_kill
    assert image.read_bytes() == before


def test_readonly_is_rom_by_default(image: Path) -> None:
    with open_backend(config(image, readonly=True)) as backend:
        assert backend.mapping.readonly
        with pytest.raises(TypeError):
            backend.mapping.view[0] = 1
        with pytest.raises(EmuError, match="read-only"):
            backend.mapping.dirty_log()
        assert backend.mapping.durability.granularity == "none"
        backend.mapping.persist()


def test_readonly_file_as_private_writable_memory(image: Path) -> None:
    image.chmod(0o444)
    with open_backend(config(image, readonly=True, rom=OnOffAuto.OFF, share=False, prealloc=True)) as backend:
        assert not backend.mapping.readonly
        backend.mapping.view[0] = 77
    assert image.read_bytes()[0] == 0


def test_readonly_never_creates(tmp_path: Path) -> None:
    refused(config(tmp_path / "f", readonly=True), "No such file", HostError)
    assert not list(tmp_path.iterdir())
