from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.board import map as at
from emu.devices.bus import PortBus
from emu.devices.pit import HZ, Pit

SECOND = 10**9


def ns(ticks: int) -> int:
    """The first nanosecond at which ``ticks`` have passed."""
    return -(-ticks * SECOND // HZ)


class Wired:
    def __init__(self) -> None:
        self.now = 0
        self.level = False
        self.edges = 0
        self.pit = Pit(line=self._set, now=lambda: self.now)
        self.bus = PortBus()
        self.bus.attach(self.pit, at.PIT)

    def _set(self, level: bool) -> None:
        self.edges += level and not self.level
        self.level = level

    def program(self, channel: int, mode: int, count: int, *, bcd: bool = False) -> None:
        self.bus.write(0x43, 1, channel << 6 | 0x30 | mode << 1 | bcd)
        self.bus.write(0x40 + channel, 1, count & 0xFF)
        self.bus.write(0x40 + channel, 1, count >> 8)

    def at(self, ticks: int) -> Wired:
        self.now = ns(ticks)
        return self

    def count(self, channel: int) -> int:
        self.bus.write(0x43, 1, channel << 6)
        low = self.bus.read(0x40 + channel, 1)
        return low | self.bus.read(0x40 + channel, 1) << 8

    def out2(self) -> int:
        return self.bus.read(0x61, 1) >> 5 & 1

    def run(self, until: int) -> list[int]:
        """Let the machine follow ``next_event`` up to tick ``until``; the ticks at which IRQ 0 rose."""
        rises = []
        while (due := self.pit.next_event()) is not None and due <= ns(until):
            self.now = due
            before = self.edges
            self.pit.catch_up(due)
            if self.edges > before:
                rises.append(due * HZ // SECOND)
        self.now = ns(until)
        self.pit.catch_up(self.now)
        return rises


@pytest.fixture
def pc() -> Wired:
    return Wired()


def test_nothing_runs_until_a_guest_programs_it(pc: Wired) -> None:
    assert pc.run(10**9) == []
    assert not pc.level


@pytest.mark.parametrize("mode", [2, 3, 6, 7])
def test_periodic_modes_raise_irq_0_every_count(pc: Wired, mode: int) -> None:
    pc.at(500).program(0, mode, 1000)
    assert pc.run(4600) == [1500, 2500, 3500, 4500]


def test_count_zero_is_the_longest(pc: Wired) -> None:
    pc.program(0, 2, 0)
    assert pc.run(2 * 65536) == [65536, 131072]
    pc.program(0, 2, 0, bcd=True)
    assert pc.run(2 * 65536 + 20_000) == [131072 + 10_000, 131072 + 20_000]


def test_missed_periods_are_one_edge(pc: Wired) -> None:
    pc.program(0, 2, 100)
    pc.pit.catch_up(ns(1_000))
    assert pc.edges == 1
    assert pc.pit.next_event() == ns(1_100)


def test_one_shot_raises_irq_0_once_and_again_when_reloaded(pc: Wired) -> None:
    pc.program(0, 0, 300)
    assert pc.run(100_000) == [300]
    pc.bus.write(0x40, 1, 50)
    pc.bus.write(0x40, 1, 0)
    assert pc.run(200_000) == [100_050]
    pc.program(0, 0, 7)
    assert not pc.level, "a control word takes the output of mode 0 down"


def test_strobe_pulses_once(pc: Wired) -> None:
    pc.program(0, 4, 300)
    assert pc.run(100_000) == [301]


@pytest.mark.parametrize("mode", [1, 5])
def test_gate_triggered_modes_never_run_on_channel_0(pc: Wired, mode: int) -> None:
    pc.program(0, mode, 300)
    assert pc.run(100_000) == []


def test_half_a_count_stops_mode_0(pc: Wired) -> None:
    pc.program(0, 0, 300)
    pc.at(100).bus.write(0x40, 1, 10)
    assert pc.run(1000) == []
    pc.bus.write(0x40, 1, 0)
    assert pc.run(2000) == [1010]


def test_counting_down_in_each_mode(pc: Wired) -> None:
    pc.bus.write(0x61, 1, 1)
    for mode, expected in ((0, 999), (2, 999), (3, 998), (4, 999)):
        start = 10_000 * (mode + 1)
        pc.at(start).program(2, mode, 1000)
        assert pc.count(2) == 1000
        assert pc.at(start + 1).count(2) == expected
        assert pc.at(start + 1001).count(2) == {0: 0xFFFF, 2: 999, 3: 998, 4: 0xFFFF}[mode]


def test_bcd_counts(pc: Wired) -> None:
    pc.program(0, 0, 0x1000, bcd=True)
    assert pc.at(1).count(0) == 0x0999
    assert pc.at(1001).count(0) == 0x9999


def test_a_latched_count_stands_until_it_is_read(pc: Wired) -> None:
    pc.program(0, 2, 0)
    pc.at(16).bus.write(0x43, 1, 0x00)
    pc.at(5000).bus.write(0x43, 1, 0x00)
    assert pc.bus.read(0x40, 1) | pc.bus.read(0x40, 1) << 8 == 0x10000 - 16
    assert pc.bus.read(0x40, 1) | pc.bus.read(0x40, 1) << 8 == 0x10000 - 5000


def test_byte_access_modes(pc: Wired) -> None:
    pc.bus.write(0x43, 1, 0x14)
    pc.bus.write(0x40, 1, 200)
    assert pc.at(10).bus.read(0x40, 1) == 190
    pc.bus.write(0x43, 1, 0x24)
    pc.bus.write(0x40, 1, 2)
    assert pc.at(20).bus.read(0x40, 1) == (512 - 10) >> 8
    pc.bus.write(0x43, 1, 0x00)
    assert pc.bus.read(0x40, 1) == 1


def test_read_back_gives_status_then_count(pc: Wired) -> None:
    pc.program(0, 3, 1000)
    pc.at(100).bus.write(0x43, 1, 0xC2)
    assert pc.bus.read(0x40, 1) == 0xB6
    assert pc.bus.read(0x40, 1) | pc.bus.read(0x40, 1) << 8 == 800
    pc.bus.write(0x43, 1, 0x34)
    pc.bus.write(0x43, 1, 0xE2)
    assert pc.bus.read(0x40, 1) == 0xF4, "null count until the count is written"
    pc.bus.write(0x43, 1, 0xD0)
    assert pc.bus.read(0x43, 1) == 0xFF


def test_channel_2_measures_time_through_port_61(pc: Wired) -> None:
    pc.program(2, 0, 1000)
    assert pc.at(5000).out2() == 0, "the gate is closed"
    pc.bus.write(0x61, 1, 0x01)
    assert pc.at(5999).out2() == 0
    assert pc.at(6000).out2() == 1


def test_closing_the_gate_holds_a_one_shot_and_restarts_a_period(pc: Wired) -> None:
    pc.bus.write(0x61, 1, 1)
    pc.program(2, 0, 1000)
    pc.at(400).bus.write(0x61, 1, 0)
    assert pc.at(2000).count(2) == 600
    pc.bus.write(0x61, 1, 1)
    assert pc.at(2599).out2() == 0
    assert pc.at(2600).out2() == 1
    pc.at(3000).program(2, 3, 1000)
    pc.at(3700).bus.write(0x61, 1, 0)
    assert pc.out2() == 1, "a closed gate forces the output high"
    pc.at(4000).bus.write(0x61, 1, 1)
    assert pc.at(4499).out2() == 1
    assert pc.at(4500).out2() == 0
    assert pc.at(5000).out2() == 1


def test_gate_triggered_one_shot_on_channel_2(pc: Wired) -> None:
    pc.program(2, 1, 100)
    assert pc.out2() == 1
    pc.at(1000).bus.write(0x61, 1, 1)
    assert pc.out2() == 0
    pc.bus.write(0x61, 1, 0)
    assert pc.at(1099).out2() == 0, "the gate only starts it"
    assert pc.at(1100).out2() == 1
    pc.program(2, 5, 100)
    pc.at(2000).bus.write(0x61, 1, 1)
    assert [pc.at(tick).out2() for tick in (2099, 2100, 2101)] == [1, 0, 1]


def test_port_61_keeps_its_bits_and_shows_refresh(pc: Wired) -> None:
    pc.bus.write(0x61, 1, 0xFF)
    assert pc.bus.read(0x61, 1) & 0xCF == 0x0F
    seen = set()
    for pc.now in range(0, 100_000, 10_000):
        seen.add(pc.bus.read(0x61, 1) & 0x10)
    assert seen == {0, 0x10}


@given(count=st.integers(2, 0xFFFF), mode=st.sampled_from((2, 3)), times=st.lists(st.integers(0, 10**9), max_size=20))
def test_rises_do_not_depend_on_when_anybody_looks(count: int, mode: int, times: list[int]) -> None:
    pc = Wired()
    pc.program(0, mode, count)
    for when in sorted(times):
        pc.now = when
        pc.bus.read(0x40, 1)
        due = pc.pit.next_event()
        assert due == ns((when * HZ // SECOND // count + 1) * count)
        assert due > when


@given(
    mode=st.integers(0, 5),
    count=st.integers(2, 0xFFFF),
    bcd=st.booleans(),
    ticks=st.integers(0, 10**7),
    gate=st.booleans(),
)
def test_output_rises_exactly_at_the_announced_edge(mode: int, count: int, bcd: bool, ticks: int, gate: bool) -> None:
    pc = Wired()
    pc.bus.write(0x61, 1, gate)
    pc.program(2, mode, count, bcd=bcd)
    pc.bus.write(0x61, 1, 1)
    channel = pc.pit._channels[2]
    edge = channel.next_edge(ticks)
    if edge is not None:
        assert edge > ticks
        assert channel.output(edge)
        assert not channel.output(edge - 1)
