"""Guest physical memory: reads and writes across regions, all or nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import BackendConfig, BackendKind
from emu.errors import EmuError, Status
from emu.memory import Backend, GuestMemory, GuestMemoryError, Region, open_backend

PAGE = 4096


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with open_backend(BackendConfig(id="ram", kind=BackendKind.RAM, size=4 * PAGE)) as opened:
        yield opened


@pytest.fixture
def memory(backend: Backend) -> GuestMemory:
    """Two pages at 0, one right behind them from elsewhere in the mapping, and a read-only one at page 16."""
    backend.mapping.view[:] = bytes(4 * PAGE)
    guest = GuestMemory()
    guest.add(Region(gpa=2 * PAGE, size=PAGE, mapping=backend.mapping, offset=0, name="second"))
    guest.add(Region(gpa=0, size=2 * PAGE, mapping=backend.mapping, offset=PAGE, name="first"))
    guest.add(Region(gpa=16 * PAGE, size=PAGE, mapping=backend.mapping, offset=3 * PAGE, name="rom", readonly=True))
    return guest


def test_regions_are_sorted_and_found(memory: GuestMemory, backend: Backend) -> None:
    assert [region.name for region in memory.regions] == ["first", "second", "rom"]
    for gpa, name in ((0, "first"), (2 * PAGE - 1, "first"), (2 * PAGE, "second"), (16 * PAGE, "rom")):
        found = memory.find(gpa)
        assert found is not None
        assert found.name == name
    for gpa in (-1, 3 * PAGE, 16 * PAGE - 1, 17 * PAGE, 1 << 64):
        assert memory.find(gpa) is None
    assert memory.regions[1].host_address == backend.mapping.address


def test_access_across_a_border(memory: GuestMemory, backend: Backend) -> None:
    memory.write(2 * PAGE - 3, b"across")
    assert memory.read(2 * PAGE - 3, 6) == b"across"
    assert bytes(backend.mapping.view[3 * PAGE - 3 : 3 * PAGE]) == b"acr"
    assert bytes(backend.mapping.view[:3]) == b"oss"
    assert memory.read(5, 0) == b""
    memory.write(99 * PAGE, b"")


@pytest.mark.parametrize(
    ("gpa", "length"),
    [(3 * PAGE, 1), (3 * PAGE - 1, 2), (-1, 1), (0, -1), (1 << 64, 1), (0, 1 << 70), (17 * PAGE - 1, 2)],
)
def test_outside_is_an_error_before_anything_is_copied(gpa: int, length: int, memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError) as caught:
        memory.read(gpa, length)
    assert caught.value.status is Status.GUEST_CRASHED


def test_a_write_that_does_not_fit_writes_nothing(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError, match="nothing is at"):
        memory.write(3 * PAGE - 2, b"abcd")
    assert memory.read(3 * PAGE - 2, 2) == bytes(2)


def test_a_write_to_a_read_only_region_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(GuestMemoryError, match="'rom' is read-only"):
        memory.write(16 * PAGE, b"x")
    assert memory.read(16 * PAGE, 1) == b"\0"


@pytest.mark.parametrize(
    ("gpa", "size", "offset"),
    [(PAGE, PAGE, 0), (0, PAGE, 0), (3 * PAGE - 1, 2, 0), (15 * PAGE, 8 * PAGE, 0), (32 * PAGE, 5 * PAGE, 0),
     (32 * PAGE, PAGE, 4 * PAGE), (32 * PAGE, 0, 0), (-PAGE, PAGE, 0), ((1 << 64) - PAGE, 2 * PAGE, 0),
     (32 * PAGE, PAGE, -1)],
)  # fmt: skip
def test_regions_that_do_not_fit_are_refused(
    gpa: int, size: int, offset: int, memory: GuestMemory, backend: Backend
) -> None:
    before = memory.regions
    with pytest.raises(EmuError):
        memory.add(Region(gpa=gpa, size=size, mapping=backend.mapping, offset=offset, name="new"))
    assert memory.regions == before


@given(st.lists(st.tuples(st.integers(0, 3 * PAGE), st.binary(max_size=300)), max_size=20))
def test_behaves_like_a_flat_array(backend: Backend, writes: list[tuple[int, bytes]]) -> None:
    backend.mapping.view[:] = bytes(4 * PAGE)
    guest, flat = GuestMemory(), bytearray(3 * PAGE)
    for number, offset in enumerate((2 * PAGE, 0, PAGE)):
        guest.add(Region(gpa=number * PAGE, size=PAGE, mapping=backend.mapping, offset=offset, name=str(number)))
    for gpa, data in writes:
        if gpa + len(data) <= len(flat):
            flat[gpa : gpa + len(data)] = data
            guest.write(gpa, data)
        else:
            with pytest.raises(GuestMemoryError):
                guest.write(gpa, data)
    assert guest.read(0, 3 * PAGE) == flat


class Listener:
    """Notes what it is told; refuses a region of the name ``unwanted``."""

    def __init__(self) -> None:
        self.regions: list[str] = []
        self.stores: list[tuple[int, bytes]] = []

    def region_added(self, region: Region) -> None:
        if region.name == "unwanted":
            raise EmuError("no room")
        self.regions.append(region.name)

    def region_removed(self, region: Region) -> None:
        if region.name == "kept":
            raise EmuError("in use")
        self.regions.remove(region.name)

    def written(self, gpa: int, data: bytes) -> None:
        self.stores.append((gpa, data))


def test_listeners_hear_of_regions_and_stores(memory: GuestMemory, backend: Backend) -> None:
    memory.write(0, b"before")
    listener = Listener()
    memory.listen(listener)
    assert listener.regions == ["first", "second", "rom"]
    memory.add(Region(gpa=32 * PAGE, size=PAGE, mapping=backend.mapping, name="late"))
    assert listener.regions[3:] == ["late"]
    memory.write(2 * PAGE - 2, b"both")
    with pytest.raises(GuestMemoryError):
        memory.write(16 * PAGE, b"rom")
    assert listener.stores == [(2 * PAGE - 2, b"both")]


def test_a_region_that_a_listener_refuses_is_not_there(memory: GuestMemory, backend: Backend) -> None:
    memory.listen(Listener())
    before = memory.regions
    with pytest.raises(EmuError, match="no room"):
        memory.add(Region(gpa=32 * PAGE, size=PAGE, mapping=backend.mapping, name="unwanted"))
    assert memory.regions == before
    assert memory.find(32 * PAGE) is None


def test_a_region_is_removed_and_the_listeners_hear_of_it(memory: GuestMemory, backend: Backend) -> None:
    listener = Listener()
    memory.listen(listener)
    late = Region(gpa=32 * PAGE, size=PAGE, mapping=backend.mapping, name="late")
    memory.add(late)
    before = memory.regions
    memory.remove(late)
    assert late not in memory.regions
    assert "late" not in listener.regions
    assert len(memory.regions) == len(before) - 1
    with pytest.raises(GuestMemoryError):
        memory.read(32 * PAGE, 1)
    with pytest.raises(EmuError, match="is not there"):
        memory.remove(late)


def test_a_region_that_a_listener_needs_stays(memory: GuestMemory, backend: Backend) -> None:
    memory.listen(Listener())
    kept = Region(gpa=32 * PAGE, size=PAGE, mapping=backend.mapping, name="kept")
    memory.add(kept)
    with pytest.raises(EmuError, match="in use"):
        memory.remove(kept)
    assert kept in memory.regions
    memory.read(32 * PAGE, 1)


class Counter:
    """A register that counts its accesses."""

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None: ...


def test_a_rom_is_not_written_and_registers_are_no_memory(memory: GuestMemory, backend: Backend) -> None:
    memory.add(Region(gpa=32 * PAGE, size=PAGE, mapping=backend.mapping, kind="rom", name="firmware"))
    memory.add(Region(gpa=40 * PAGE, size=PAGE, mapping=None, kind="mmio", registers=Counter(), name="device"))
    with pytest.raises(GuestMemoryError, match="'firmware' is read-only"):
        memory.write(32 * PAGE, b"x")
    with pytest.raises(GuestMemoryError, match="'device' at 0x28000 is the registers of a device, not memory"):
        memory.read(40 * PAGE, 1)


def test_a_region_is_memory_or_registers(memory: GuestMemory, backend: Backend) -> None:
    for wrong in (
        Region(gpa=32 * PAGE, size=PAGE, mapping=None),
        Region(gpa=32 * PAGE, size=PAGE, mapping=None, kind="mmio"),
        Region(gpa=32 * PAGE, size=PAGE, mapping=backend.mapping, kind="mmio", registers=Counter()),
    ):
        with pytest.raises(EmuError, match="a region is memory, or of kind 'mmio'"):
            memory.add(wrong)
