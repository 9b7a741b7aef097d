"""Backends' properties: frozen, settable, refused; preallocation, NUMA policy, discarding."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import BackendConfig, BackendKind, Policy
from emu.errors import EmuError, FileInUse, HostError, UsageError
from emu.host import kernel
from emu.host.kernel import Lock
from emu.memory import Backend, open_backend
from emu.units import MIB
from tests.unit.memory.memory_backends import SIZE, config, refused


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
