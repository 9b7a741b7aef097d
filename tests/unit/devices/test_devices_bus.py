from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.devices.bus import PortBus


class Recorder:
    """A window that remembers writes and answers reads with the port numbers they cover."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.writes: list[tuple[int, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(bytes(offset + n & 0xFF for n in range(size)), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self.writes.append((offset, size, value))


def test_unclaimed_ports_read_all_ones_and_drop_writes() -> None:
    bus = PortBus()
    bus.write(0x80, 4, 0x1234)
    assert [bus.read(0x80, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, 0xFFFF_FFFF]


def test_byte_wide_registers_get_bytes_lowest_first() -> None:
    bus, device = PortBus(), Recorder(1)
    bus.add(0x3F8, 8, device)
    bus.write(0x3F9, 4, 0x44332211)
    assert device.writes == [(1, 1, 0x11), (2, 1, 0x22), (3, 1, 0x33), (4, 1, 0x44)]
    assert bus.read(0x3F9, 4) == 0x04030201


def test_wide_registers_get_the_access_whole() -> None:
    bus, device = PortBus(), Recorder(4)
    bus.add(0xA18, 4, device)
    bus.write(0xA18, 4, 0xDEADBEEF)
    bus.write(0xA18, 2, 0x12345)
    assert device.writes == [(0, 4, 0xDEADBEEF), (0, 2, 0x2345)]


def test_an_access_over_the_edge_of_a_window_is_split_between_owners() -> None:
    bus, left, right = PortBus(), Recorder(4), Recorder(2)
    bus.add(0x10, 3, left)
    bus.add(0x13, 2, right)
    bus.write(0x11, 4, 0x44332211)
    assert left.writes == [(1, 2, 0x2211)]
    assert right.writes == [(0, 2, 0x4433)]
    assert bus.read(0x13, 4) == 0xFFFF0100


def test_the_last_port_does_not_wrap_to_the_first() -> None:
    bus, first = PortBus(), Recorder(1)
    bus.add(0, 1, first)
    bus.write(0xFFFF, 2, 0)
    assert first.writes == []
    assert bus.read(0xFFFF, 2) == 0xFFFF


@pytest.mark.parametrize(("first", "length"), [(-1, 1), (0xFFFF, 2), (0x10000, 1), (0, 0), (5, -1)])
def test_windows_outside_the_io_space_are_refused(first: int, length: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        PortBus().add(first, length, Recorder(1))


def test_overlapping_windows_are_refused_and_leave_the_bus_as_it_was() -> None:
    bus, old, new = PortBus(), Recorder(1), Recorder(1)
    bus.add(0x20, 2, old)
    with pytest.raises(ValueError, match="0x20 is already taken"):
        bus.add(0x1F, 2, new)
    assert bus.read(0x1F, 1) == 0xFF
    bus.write(0x20, 1, 1)
    assert old.writes == [(0, 1, 1)]
    assert new.writes == []


@given(
    width=st.sampled_from((1, 2, 4)),
    length=st.integers(1, 9),
    offset=st.integers(-4, 9),
    size=st.sampled_from((1, 2, 4)),
    value=st.integers(0, (1 << 32) - 1),
)
def test_every_byte_reaches_its_port_exactly_once(width: int, length: int, offset: int, size: int, value: int) -> None:
    bus, device = PortBus(), Recorder(width)
    bus.add(0x100, length, device)
    bus.write(0x100 + offset, size, value)
    written: dict[int, int] = {}
    for at, piece, part in device.writes:
        assert piece <= width
        assert at + piece <= length
        assert 0 <= part < 1 << (8 * piece)
        for n in range(piece):
            assert at + n not in written
            written[at + n] = part >> (8 * n) & 0xFF
    data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    assert written == {offset + n: data[n] for n in range(size) if 0 <= offset + n < length}
    expected = bytes(offset + n if 0 <= offset + n < length else 0xFF for n in range(size))
    assert bus.read(0x100 + offset, size) == int.from_bytes(expected, "little")
