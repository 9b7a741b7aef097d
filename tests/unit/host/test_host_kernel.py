"""The syscall core against the real kernel: mappings, locks, flushes, checksums and the errors they give."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.errors import HostError
from emu.host import kernel
from emu.host._kernel import lib
from emu.host.kernel import Advice, Lock, NumaMode

MIB = 1 << 20


@pytest.fixture
def anonymous() -> Iterator[tuple[int, memoryview]]:
    address = kernel.map_memory(MIB, what="test memory")
    view = kernel.memory_view(address, MIB)
    yield address, view
    view.release()
    kernel.unmap_memory(address, MIB)


def file_of(path: Path, size: int) -> int:
    path.touch()
    os.truncate(path, size)
    return kernel.open_file(path, write=True)


def maps_of(address: int) -> list[tuple[int, int, str]]:
    """(start, end, permissions) of the mappings that touch ``address`` or begin at its end."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        found.append((start, end, permissions))
    return [item for item in found if item[0] <= address < item[1]]


@pytest.mark.parametrize("align", [4096, 2 * MIB, 1 << 30])
def test_mapping_keeps_alignment_and_has_an_inaccessible_page_behind(align: int) -> None:
    address = kernel.map_memory(3 * 4096, what="test", align=align)
    assert address % align == 0
    assert maps_of(address + 3 * 4096)[0][2].startswith("---")
    kernel.unmap_memory(address, 3 * 4096)
    assert not any(start <= address < end for start, end, _ in maps_of(address))


def test_shared_file_mapping_reaches_the_file(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", 8192)
    address = kernel.map_memory(4096, what="f", fd=fd, offset=4096, shared=True)
    view = kernel.memory_view(address, 4096)
    view[:3] = b"abc"
    kernel.msync(address + 1, 2, what="f")
    view.release()
    kernel.unmap_memory(address, 4096)
    os.close(fd)
    assert (tmp_path / "f").read_bytes()[4096:4099] == b"abc"


def test_private_file_mapping_leaves_the_file_alone(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", 4096)
    address = kernel.map_memory(4096, what="f", fd=fd)
    view = kernel.memory_view(address, 4096)
    view[:3] = b"abc"
    view.release()
    kernel.unmap_memory(address, 4096)
    os.close(fd)
    assert (tmp_path / "f").read_bytes() == bytes(4096)


def test_map_sync_on_a_file_without_dax_answers_no(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", 4096)
    if kernel.is_dax(fd):
        pytest.skip("the temporary directory is on a DAX file system; set TMPDIR to another one")
    with pytest.raises(HostError) as caught:
        kernel.map_memory(4096, what="the file f", fd=fd, sync=True)
    os.close(fd)
    assert caught.value.errno in kernel.NO_MAP_SYNC
    assert "the file f" in caught.value.what
    assert caught.value.remedy


def test_map_sync_of_anonymous_memory_is_einval() -> None:
    with pytest.raises(HostError) as caught:
        kernel.map_memory(4096, what="memory", sync=True)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 1 << 63, 1 << 64, 1 << 200])
def test_absurd_size_is_a_clear_error(size: int) -> None:
    with pytest.raises(HostError) as caught:
        kernel.map_memory(size, what="memory", reserve=False)
    assert caught.value.errno == errno.ENOMEM


def test_failed_file_mapping_leaves_no_reservation_behind(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_RDONLY | os.O_CREAT)
    before = len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(50):
        with pytest.raises(HostError):
            kernel.map_memory(MIB, what="f", fd=fd, shared=True, align=2 * MIB)
    os.close(fd)
    assert len(Path("/proc/self/maps").read_text().splitlines()) <= before + 5


def test_read_only_view_cannot_be_written(anonymous: tuple[int, memoryview]) -> None:
    view = kernel.memory_view(anonymous[0], MIB, readonly=True)
    with pytest.raises(TypeError):
        view[0] = 1
    view.release()


def test_open_errors_name_path_and_remedy(tmp_path: Path) -> None:
    cases = {
        str(tmp_path / "missing"): errno.ENOENT,
        str(tmp_path): errno.EISDIR,
        "": errno.EINVAL,
        "a\0b": errno.EINVAL,
        str(tmp_path / ("x" * 300)): errno.ENAMETOOLONG,
    }
    for path, number in cases.items():
        with pytest.raises(HostError) as caught:
            kernel.open_file(path, write=True)
        assert caught.value.errno == number
        assert caught.value.remedy
        assert (path or "''") in str(caught.value) or "\0" in path


def test_create_never_opens_what_exists(tmp_path: Path) -> None:
    os.close(kernel.open_file(tmp_path / "new", write=True, create=True))
    with pytest.raises(HostError) as caught:
        kernel.open_file(tmp_path / "new", write=True, create=True)
    assert caught.value.errno == errno.EEXIST


def test_unnamed_file_has_no_name(tmp_path: Path) -> None:
    try:
        fd = kernel.open_unnamed(tmp_path)
    except HostError as error:
        assert error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT)
        pytest.skip("this file system has no O_TMPFILE")
    assert not list(tmp_path.iterdir())
    os.close(fd)


def test_write_lock_excludes_others_and_ends_with_the_descriptor(tmp_path: Path) -> None:
    first = file_of(tmp_path / "f", 0)
    second = kernel.open_file(tmp_path / "f", write=True)
    assert kernel.lock(first, Lock.WRITE, what="f")
    assert not kernel.lock(second, Lock.WRITE, what="f")
    assert not kernel.lock(second, Lock.READ, what="f")
    assert kernel.lock_conflicts(second, Lock.READ, what="f")
    os.close(first)
    assert kernel.lock(second, Lock.WRITE, what="f")
    assert kernel.lock(second, Lock.NONE, what="f")
    os.close(second)


def test_read_locks_live_together_and_ranges_are_separate(tmp_path: Path) -> None:
    first = file_of(tmp_path / "f", 0)
    second = kernel.open_file(tmp_path / "f", write=True)
    assert kernel.lock(first, Lock.READ, what="f", start=0, length=10)
    assert kernel.lock(second, Lock.READ, what="f", start=0, length=10)
    assert not kernel.lock(second, Lock.WRITE, what="f", start=9, length=1)
    assert kernel.lock(second, Lock.WRITE, what="f", start=10, length=1)
    assert kernel.lock_conflicts(first, Lock.READ, what="f", start=10, length=1)
    assert not kernel.lock_conflicts(first, Lock.READ, what="f", start=11, length=1)
    os.close(first)
    os.close(second)


def test_write_lock_of_a_read_only_descriptor_is_an_error(tmp_path: Path) -> None:
    os.close(file_of(tmp_path / "f", 0))
    fd = kernel.open_file(tmp_path / "f", write=False)
    with pytest.raises(HostError, match="cannot lock f"):
        kernel.lock(fd, Lock.WRITE, what="f")
    os.close(fd)


def test_allocated_blocks_keep_length_and_content(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", MIB)
    os.pwrite(fd, b"kept", 100)
    done = kernel.allocate_blocks(fd, 0, MIB, what="f")
    status = os.fstat(fd)
    assert status.st_size == MIB
    assert os.pread(fd, 4, 100) == b"kept"
    assert not done or status.st_blocks * 512 >= MIB
    os.close(fd)


def test_what_surely_does_not_fit_is_refused_before_it_fills_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoAllocation:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was called")

    fd = file_of(tmp_path / "f", 0)
    free = os.statvfs(tmp_path)
    monkeypatch.setattr(kernel, "lib", NoAllocation())
    with pytest.raises(HostError) as caught:
        kernel.allocate_blocks(fd, 0, (free.f_blocks + (1 << 20)) * free.f_frsize, what="the file f")
    os.close(fd)
    assert caught.value.errno == errno.ENOSPC
    assert "the file f" in caught.value.what


def test_advice_and_population(anonymous: tuple[int, memoryview]) -> None:
    address, view = anonymous
    kernel.advise(address, MIB, Advice.DONTDUMP, what="set dump=off")
    flags = kernel.vm_flags(address)
    assert flags is None or "dd" in flags
    kernel.advise(address, MIB, Advice.DODUMP, what="set dump=on")
    flags = kernel.vm_flags(address)
    assert flags is None or "dd" not in flags
    view[7] = 9
    kernel.populate(address, MIB, 4096, what="memory")
    for threads in (2, 3, 1000):
        kernel.populate(address, MIB, 4096, what="memory", threads=threads)
    assert view[7] == 9
    assert not any(view[8:])


def test_touch_populates_on_kernels_without_populate_write(
    anonymous: tuple[int, memoryview], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, view = anonymous
    view[4096] = 5

    class OldKernel:
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -errno.EINVAL) if name == "emu_madvise" else getattr(real, name)

    real = lib
    monkeypatch.setattr(kernel, "lib", OldKernel())
    kernel.populate(address, MIB, 4096, what="memory")
    assert view[4096] == 5


def test_population_past_the_end_of_a_file_is_enospc(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", 4096)
    address = kernel.map_memory(MIB, what="f", fd=fd, shared=True)
    with pytest.raises(HostError) as caught:
        kernel.populate(address, MIB, 4096, what="the file f")
    assert caught.value.errno in (errno.ENOSPC, errno.EINVAL)
    kernel.unmap_memory(address, MIB)
    os.close(fd)


def test_binding_to_a_node_that_exists_and_to_one_that_does_not(anonymous: tuple[int, memoryview]) -> None:
    address, _ = anonymous
    if not Path("/sys/devices/system/node/node0").exists():
        pytest.skip("this kernel has no NUMA support (CONFIG_NUMA)")
    kernel.bind_memory(address, MIB, NumaMode.BIND, [0], what="memory")
    with pytest.raises(HostError, match="host NUMA nodes") as caught:
        kernel.bind_memory(address, MIB, NumaMode.BIND, [127], what="memory")
    assert "node" in caught.value.remedy


@pytest.mark.parametrize("instruction", kernel.flush_instructions())
def test_every_flush_instruction_leaves_content_alone(instruction: str, anonymous: tuple[int, memoryview]) -> None:
    address, view = anonymous
    view[:5] = b"words"
    kernel.flush_cache(address + 3, 5000, instruction=instruction)
    kernel.flush_cache(address, 0, instruction=instruction)
    assert bytes(view[:5]) == b"words"


def test_flush_with_an_instruction_that_does_not_exist_is_refused(anonymous: tuple[int, memoryview]) -> None:
    with pytest.raises(HostError, match="pcommit"):
        kernel.flush_cache(anonymous[0], 64, instruction="pcommit")


def test_file_system_facts(tmp_path: Path) -> None:
    fd = file_of(tmp_path / "f", 0)
    assert kernel.file_system(fd).block_size > 0
    assert kernel.file_system_name(fd) != ""
    os.close(fd)
    memory = os.memfd_create("test")
    assert kernel.file_system(memory).is_memory
    assert not kernel.file_system(memory).is_hugetlbfs
    assert kernel.file_system_name(memory) == "tmpfs"
    assert kernel.is_dax(memory) is not True
    os.close(memory)


def test_vm_flags_of_an_address_that_starts_no_mapping() -> None:
    assert kernel.vm_flags(0x1234000) is None
