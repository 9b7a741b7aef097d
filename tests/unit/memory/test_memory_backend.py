"""Backends on real files: what is made, refused, frozen, locked, preallocated, and what is left behind after a
failure.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import BackendConfig, BackendKind, OnOffAuto, Policy
from emu.errors import EmuError, FileInUse, HostError, MapSyncUnavailable, UsageError
from emu.host import dax, kernel, pages
from emu.host.kernel import Lock
from emu.memory import Backend, incomplete, open_backend, source
from emu.units import GIB, KIB, MIB

SIZE = 64 * KIB


def config(where: Path | str, **changes: Any) -> BackendConfig:
    values: dict[str, Any] = {"id": "m1", "path": str(where), "size": SIZE, "share": True}
    return BackendConfig(**{**values, **changes})


def refused(config: BackendConfig, match: str | None, kind: type[EmuError] = UsageError, **rest: Any) -> EmuError:
    """The error that opening ``config`` gives: of ``kind``, in at most two lines, with a remedy."""
    with pytest.raises(kind, match=match) as caught:
        open_backend(config, **rest)
    assert caught.value.remedy
    assert str(caught.value).count("\n") == 1
    return caught.value


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "pmem.img"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


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
    steps = [
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
        assert (backend.fd, backend.lock_kind) == (-1, Lock.NONE)
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


class FakeMmap:
    """Stands in for the kernel's answer to MAP_SYNC; every other mapping is real."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, number: int = 0, flags: frozenset[str] | None = frozenset({"sf"})
    ):
        self.asked: list[bool] = []
        self._real, self._number = kernel.map_memory, number
        monkeypatch.setattr(kernel, "map_memory", self)
        monkeypatch.setattr(kernel, "vm_flags", lambda _: flags)

    def __call__(self, size: int, **rest: Any) -> int:
        self.asked.append(rest.get("sync", False))
        if rest.get("sync") and self._number:
            raise kernel.host_error("cannot map", self._number)
        return self._real(size, **{**rest, "sync": False})


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


# -- locks ---------------------------------------------

WRITER: dict[str, Any] = {}
SHARING: dict[str, Any] = {"share_lock": True}
READER: dict[str, Any] = {"readonly": True}
PRIVATE: dict[str, Any] = {"share": False}
SHARING_READER: dict[str, Any] = {"readonly": True, "share_lock": True}


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (WRITER, WRITER, False), (WRITER, SHARING, False), (WRITER, READER, False), (WRITER, PRIVATE, False),
        (WRITER, SHARING_READER, False), (SHARING, WRITER, False), (SHARING, SHARING, True), (SHARING, READER, False),
        (SHARING, PRIVATE, False), (SHARING, SHARING_READER, True), (READER, WRITER, False), (READER, SHARING, False),
        (READER, READER, True), (READER, PRIVATE, True), (READER, SHARING_READER, True), (PRIVATE, WRITER, False),
        (PRIVATE, SHARING, False), (PRIVATE, PRIVATE, True), (SHARING_READER, WRITER, False),
        (SHARING_READER, SHARING, True), (SHARING_READER, READER, True), (SHARING_READER, SHARING_READER, True),
    ],
)  # fmt: skip
def test_who_may_use_a_file_together(
    first: dict[str, Any], second: dict[str, Any], together: bool, image: Path
) -> None:
    with open_backend(config(image, **first)):
        if together:
            with open_backend(config(image, **second)):
                pass
        else:
            assert str(image) in refused(config(image, **second), "in use by another emulator", FileInUse).what
    with open_backend(config(image, **second)):
        pass


def test_hand_over_of_the_lock(image: Path) -> None:
    with open_backend(config(image)) as first:
        assert first.lock_kind is Lock.WRITE
        first.acquire_lock()
        first.release_lock()
        with open_backend(config(image)) as second:
            second.mapping.view[0] = 42
            with pytest.raises(FileInUse, match="in use"):
                first.acquire_lock()
            assert first.mapping.view[0] == 42
        first.acquire_lock()
        refused(config(image), "in use", FileInUse)


def test_a_file_in_use_is_not_even_sized_or_removed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    fd = kernel.open_file(path, write=True)
    assert kernel.lock(fd, Lock.WRITE, what="f")
    refused(config(path), "in use", FileInUse)
    assert path.stat().st_size == 0
    os.close(fd)


def test_a_killed_emulator_leaves_its_bytes_and_no_lock(image: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from emu.config import BackendConfig\n"
        "from emu.memory import open_backend\n"
        "backend = open_backend(BackendConfig(id='m', path=sys.argv[1], share=True))\n"
        "backend.mapping.view[:6] = b'killed'\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(image)], timeout=60).returncode == -9
    with open_backend(config(image)) as backend:
        assert bytes(backend.mapping.view[:6]) == b"killed"


# -- properties ---------------------------------------------


@pytest.fixture
def backend(image: Path):
    with open_backend(config(image)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "value"),
    [("sync", "on"), ("size", 1), ("share", False), ("mem-path", "x"), ("align", 0), ("offset", 0), ("pmem", True),
     ("readonly", True), ("rom", "on"), ("reserve", False), ("id", "x")],
)  # fmt: skip
def test_frozen_properties_refuse_in_qemus_words(name: str, value: object, backend: Backend) -> None:
    with pytest.raises(UsageError) as caught:
        backend.set_property(name, value)
    assert caught.value.what == f"cannot change property '{name}' of memory-backend-file 'm1'"


def test_settable_properties(backend: Backend) -> None:
    backend.set_property("dump", False)
    flags = kernel.vm_flags(backend.mapping.address)
    assert flags is None or "dd" in flags
    backend.set_property("prealloc-threads", 4)
    backend.set_property("policy", "default")
    backend.set_property("host-nodes", [])
    backend.set_property("discard-data", False)
    properties = backend.properties()
    assert properties["dump"] is False
    assert properties["prealloc-threads"] == 4
    assert properties["sync"] == "auto"
    assert properties["host-nodes"] == []
    assert properties["size"] == SIZE


def test_merge_is_set_or_says_that_the_kernel_cannot(backend: Backend) -> None:
    try:
        backend.set_property("merge", True)
    except HostError as error:
        assert "KSM" in error.remedy
        assert backend.config.merge is None
    else:
        backend.set_property("merge", False)
        assert backend.properties()["merge"] is False


def test_merge_and_dump_at_the_start(image: Path) -> None:
    with open_backend(config(image, dump=False)) as backend:
        flags = kernel.vm_flags(backend.mapping.address)
        assert flags is None or "dd" in flags


@pytest.mark.parametrize(
    ("name", "value"),
    [("merge", 1), ("dump", "on"), ("prealloc", None), ("prealloc-threads", 0), ("prealloc-threads", True),
     ("policy", "best"), ("policy", 1), ("host-nodes", 0), ("host-nodes", ["0"]), ("discard-data", "yes"),
     ("nothing", 1), ("host-nodes", [0]), ("policy", "bind"), ("discard-data", True)],
)  # fmt: skip
def test_wrong_values_are_refused_and_change_nothing(name: str, value: object, backend: Backend) -> None:
    before = backend.config
    with pytest.raises(UsageError):
        backend.set_property(name, value)
    assert backend.config == before


@given(
    st.sampled_from(["merge", "dump", "prealloc-threads", "policy", "host-nodes", "discard-data", "sync"]) | st.text(),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers() | st.text()),
)
def test_any_name_and_value_is_taken_or_refused(name: str, value: object) -> None:
    with open_backend(BackendConfig(id="r", kind=BackendKind.RAM, size=4096)) as backend:
        try:
            backend.set_property(name, value)
        except EmuError as error:
            assert error.what
        assert backend.mapping.view[0] == 0


def test_preallocation_at_the_start_and_later(image: Path, tmp_path: Path) -> None:
    for number, later in enumerate((False, True)):
        path = tmp_path / f"{number}.img"
        with open_backend(config(path, size=MIB, prealloc=not later)) as backend:
            if later:
                assert path.stat().st_blocks == 0
                backend.set_property("prealloc", True)
                backend.set_property("prealloc", True)
            assert path.stat().st_blocks * 512 >= MIB
            backend.set_property("prealloc", False)
            assert backend.properties()["prealloc"] is True
    with open_backend(config(image, prealloc=True)) as backend:
        assert backend.mapping.view[1] == 1


def test_preallocation_where_the_file_system_has_no_call_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "allocate_blocks", lambda *_, **__: False)
    with open_backend(config(tmp_path / "f", size=MIB, prealloc=True)):
        assert (tmp_path / "f").stat().st_blocks * 512 >= MIB


def test_discard_data_needs_consent_for_a_shared_file(image: Path) -> None:
    with open_backend(config(image, discard_data=True, share=False)):
        pass
    assert image.read_bytes()[1] == 1
    try:
        with open_backend(config(image, discard_data=True, discard_shared=True)):
            pass
    except HostError as error:
        assert error.errno == errno.EOPNOTSUPP
        pytest.skip("this file system cannot punch holes")
    assert image.read_bytes() == bytes(SIZE)


def test_discard_data_spares_a_file_that_was_handed_over(image: Path) -> None:
    with open_backend(config(image, discard_data=True, discard_shared=True)) as backend:
        backend.release_lock()
    assert image.read_bytes()[1] == 1


def test_lock_later_maps_a_file_that_is_still_in_use(image: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open_backend(config(image)) as first, open_backend(config(image), lock_later=True) as second:
        assert second.lock is not None
        assert not second.lock.held
        with pytest.raises(FileInUse, match="in use"):
            second.acquire_lock()
        first.release_lock()
        second.acquire_lock()
        assert second.lock.held
    with open_backend(config(image), lock_later=True) as backend:
        assert backend.lock is not None
        assert backend.lock.held
    fd = kernel.open_file(tmp_path / "empty", write=True)
    assert kernel.lock(fd, Lock.WRITE, what="empty")
    refused(config(tmp_path / "empty"), "in use", FileInUse, lock_later=True)
    assert (tmp_path / "empty").stat().st_size == 0
    os.close(fd)


def test_numa_policy(image: Path) -> None:
    if not Path("/sys/devices/system/node/node0").exists():
        pytest.skip("this kernel has no NUMA support (CONFIG_NUMA)")
    with open_backend(config(image, policy=Policy.BIND, host_nodes=(0,))) as backend:
        assert backend.properties()["policy"] == "bind"
        assert backend.properties()["host-nodes"] == [0]


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
    for call in (backend.mapping.check, lambda: backend.mapping.persist(8192, 1)):
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
