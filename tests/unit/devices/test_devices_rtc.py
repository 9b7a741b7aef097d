from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.devices.rtc import Rtc, memory_bytes
from emu.units import GIB, MIB

SECOND = 10**9
EPOCH = int(datetime(2024, 2, 28, 23, 59, 58, tzinfo=UTC).timestamp())
CLOCK = (0x32, 9, 8, 7, 4, 2, 0)


class Wired:
    def __init__(self, epoch: int = EPOCH) -> None:
        self.now = 0
        self.irq = False
        self.rtc = Rtc(line=self._set, now=lambda: self.now, epoch=epoch, cmos=memory_bytes(128 * MIB, 0))

    def _set(self, level: bool) -> None:
        self.irq = level

    def read(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def write(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def clock(self) -> str:
        """Century, year, month, day, hour, minute, second, as the registers hold them."""
        return bytes(self.read(index) for index in CLOCK).hex()

    def set_clock(self, text: str) -> None:
        for index, value in zip(CLOCK, bytes.fromhex(text), strict=True):
            self.write(index, value)

    def follow(self, until: int) -> list[int]:
        """Let time pass from event to event, reading register C at each; when interrupts came."""
        times = []
        while (due := self.rtc.next_event()) is not None and due <= until:
            self.now = due
            self.rtc.catch_up(due)
            assert self.irq
            times.append(due)
            self.read(0x0C)
            assert not self.irq
        self.now = until
        self.rtc.catch_up(until)
        return times


@pytest.fixture
def pc() -> Wired:
    return Wired()


def test_power_on_registers(pc: Wired) -> None:
    assert [pc.read(n) for n in (0x0A, 0x0B, 0x0C, 0x0D)] == [0x26, 0x02, 0x00, 0x80]
    assert pc.rtc.read(0, 1) == 0xFF, "the index cannot be read back"


def test_the_date_runs_on_over_a_leap_day(pc: Wired) -> None:
    assert pc.clock() == "20240228235958"
    assert pc.read(6) == 4, "a Wednesday; Sunday is 1"
    pc.now = 2 * SECOND
    assert pc.clock() == "20240229000000"
    pc.now += 86_400 * SECOND
    assert pc.clock() == "20240301000000"


def test_binary_and_12_hour_formats(pc: Wired) -> None:
    pc.write(0x0B, 0x06)
    assert pc.clock() == bytes((20, 24, 2, 28, 23, 59, 58)).hex()
    pc.write(0x0B, 0x04)
    assert pc.read(4) == 0x80 | 11
    pc.write(0x0B, 0x00)
    assert pc.read(4) == 0x91
    pc.now = 2 * SECOND
    assert pc.read(4) == 0x12, "midnight is 12 in the morning"
    pc.now += 12 * 3600 * SECOND
    assert pc.read(4) == 0x92, "noon is 12 in the afternoon"


def test_setting_the_clock_with_updates_held(pc: Wired) -> None:
    pc.write(0x0B, 0x82)
    pc.set_clock("19991231235959")
    pc.now = 100 * SECOND
    assert pc.clock() == "19991231235959", "SET holds the clock"
    pc.write(0x0B, 0x02)
    assert pc.clock() == "19991231235959"
    pc.now += SECOND
    assert pc.clock() == "20000101000000"


def test_setting_one_register_while_running_keeps_the_second_going(pc: Wired) -> None:
    pc.now = SECOND // 2
    pc.write(4, 0x12)
    assert pc.clock() == "20240228125958"
    pc.now = SECOND
    assert pc.clock() == "20240228125959"


def test_the_divider_stops_the_clock(pc: Wired) -> None:
    pc.write(0x0A, 0x76)
    pc.now = 10 * SECOND
    assert pc.read(0) == 0x58
    pc.write(0x0A, 0x26)
    pc.now = 11 * SECOND
    assert pc.read(0) == 0x59


def test_dates_that_do_not_exist_are_moved(pc: Wired) -> None:
    pc.write(0x0B, 0x82)
    pc.set_clock("20ff9999ff7f7f")
    pc.write(0x0B, 0x02)
    assert pc.clock() == "21651231235959"
    pc.write(0x0B, 0x82)
    pc.set_clock("00000000000000")
    pc.write(0x0B, 0x02)
    assert pc.clock() == "19700101000000"


def test_the_clock_stops_at_the_end_of_the_calendar() -> None:
    pc = Wired(epoch=1 << 60)
    pc.now = 10 * SECOND
    assert pc.clock() == "99991231235959"
    pc.write(0x0B, 0x12)
    assert pc.irq
    assert pc.read(0x0C) == 0xD0
    assert pc.rtc.next_event() == 11 * SECOND


def test_update_in_progress_shows_just_before_the_second_changes(pc: Wired) -> None:
    for busy, times in ((0x80, (SECOND - 244_000, SECOND - 1)), (0, (SECOND, 2 * SECOND - 244_001))):
        for pc.now in times:
            assert pc.read(0x0A) & 0x80 == busy


def test_periodic_rates_1_and_2_are_those_of_8_and_9(pc: Wired) -> None:
    """Data sheet, periodic interrupt rates of the 32,768 Hz time base: 3.90625 ms and 7.8125 ms."""
    pc.write(0x0B, 0x42)
    until = 0
    for rate, often in ((1, 256), (8, 256), (2, 128), (9, 128)):
        pc.write(0x0A, 0x20 | rate)
        until += SECOND
        assert len(pc.follow(until)) == often, rate


def test_periodic_interrupt_at_its_rate(pc: Wired) -> None:
    pc.write(0x0B, 0x42)
    assert len(pc.follow(SECOND)) == 1024
    pc.write(0x0A, 0x2F)
    assert pc.follow(3 * SECOND) == [3 * SECOND // 2, 2 * SECOND, 5 * SECOND // 2, 3 * SECOND]
    pc.write(0x0A, 0x20)
    assert pc.rtc.next_event() is None
    for rate, hertz in ((1, 256), (2, 128), (3, 8192), (15, 2)):
        pc.write(0x0A, 0x20 | rate)
        start = pc.now
        due = pc.rtc.next_event()
        assert due is not None
        assert due - start <= -(-SECOND // hertz)


def test_update_interrupt_every_second(pc: Wired) -> None:
    pc.write(0x0B, 0x12)
    assert pc.follow(3 * SECOND) == [SECOND, 2 * SECOND, 3 * SECOND]
    pc.write(0x0B, 0x92)
    assert pc.rtc.next_event() is None
    assert pc.read(0x0B) == 0x82, "SET takes the update interrupt with it"


def test_flags_come_without_their_interrupts_and_go_with_reading(pc: Wired) -> None:
    pc.now = SECOND
    assert pc.read(0x0C) == 0x50
    assert pc.read(0x0C) == 0x00
    pc.now = 2 * SECOND
    assert pc.read(0x0C) == 0x70, "at midnight the alarm as well: its registers hold 0"
    assert not pc.irq
    pc.write(0x0B, 0x12)
    pc.now = 3 * SECOND
    assert pc.read(0x0C) == 0xD0


def test_enabling_an_interrupt_whose_flag_is_set_raises_it(pc: Wired) -> None:
    pc.now = 2 * SECOND
    pc.read(0x00)
    pc.write(0x0B, 0x12)
    assert pc.irq


@pytest.mark.parametrize(
    ("alarm", "seconds"),
    [
        ((0x00, 0x00, 0x00), [2]),
        ((0xFF, 0x00, 0x00), [2, 3602]),
        ((0xC0, 0xFF, 0x05), [7, 67]),
        ((0xFF, 0xFF, 0xFF), [1, 2, 3]),
        ((0x23, 0x59, 0x58), [86_400]),
        ((0x40, 0x00, 0x00), []),
    ],
)
def test_alarm(pc: Wired, alarm: tuple[int, int, int], seconds: list[int]) -> None:
    for register, value in zip((5, 3, 1), alarm, strict=True):
        pc.write(register, value)
    pc.write(0x0B, 0x22)
    for expected in seconds:
        due = pc.rtc.next_event()
        assert due == expected * SECOND
        pc.now = due
        pc.rtc.catch_up(due)
        assert pc.irq
        assert pc.read(0x0C) & 0xA0 == 0xA0
    if not seconds:
        assert pc.rtc.next_event() is None


def test_alarm_in_12_hour_format(pc: Wired) -> None:
    pc.write(0x0B, 0x20)
    for register, value in ((5, 0x12), (3, 0x00), (1, 0x00)):
        pc.write(register, value)
    assert pc.rtc.next_event() == 2 * SECOND


def test_reset_takes_interrupts_away_but_not_time_or_memory(pc: Wired) -> None:
    pc.write(0x40, 0xAB)
    pc.write(0x0B, 0x76)
    pc.now = 3 * SECOND
    pc.rtc.catch_up(pc.now)
    assert pc.irq
    pc.rtc.reset()
    assert not pc.irq
    assert (pc.read(0x0B), pc.read(0x0C), pc.read(0x40)) == (0x06, 0x00, 0xAB)
    assert pc.clock() == bytes((20, 24, 2, 29, 0, 0, 1)).hex()


def test_nmi_bit_of_the_index_is_ignored_and_status_is_read_only(pc: Wired) -> None:
    pc.write(0xC0, 0x5A)
    assert pc.read(0x40) == 0x5A
    pc.write(0x0D, 0x00)
    pc.write(0x0C, 0xFF)
    assert (pc.read(0x0D), pc.read(0x0C)) == (0x80, 0x00)


def test_memory_size_bytes() -> None:
    small = memory_bytes(128 * MIB, 0)
    assert small[0x15] | small[0x16] << 8 == 640
    assert small[0x17] | small[0x18] << 8 == 0xFFFF
    assert (small[0x34] | small[0x35] << 8) * 64 * 1024 == 112 * MIB
    large = memory_bytes(2 * GIB, 6 * GIB)
    assert (large[0x5B] | large[0x5C] << 8 | large[0x5D] << 16) * 64 * 1024 == 6 * GIB
    tiny = memory_bytes(256 * 1024, 0)
    assert (tiny[0x15], tiny[0x17], tiny[0x34]) == (0, 0, 0)
    assert all(0 <= value <= 0xFF for value in memory_bytes(1 << 60, 1 << 60).values())


@given(seconds=st.integers(0, 4_000_000_000), binary=st.booleans(), half_day=st.booleans())
def test_every_date_reads_back_as_it_is_and_can_be_set(seconds: int, binary: bool, half_day: bool) -> None:
    pc = Wired(epoch=seconds)
    pc.write(0x0B, (0x04 if binary else 0) | (0 if half_day else 0x02))
    when = datetime.fromtimestamp(seconds, UTC)

    def number(value: int) -> int:
        return value if binary else (value >> 4) * 10 + (value & 0xF)

    hour = pc.read(4)
    hour = number(hour & 0x7F) % 12 + (12 if hour & 0x80 else 0) if half_day else number(hour)
    date = [number(pc.read(index)) for index in (0x32, 9, 8, 7)]
    assert date == [when.year // 100, when.year % 100, when.month, when.day]
    assert [hour, number(pc.read(2)), number(pc.read(0))] == [when.hour, when.minute, when.second]
    assert number(pc.read(6)) == when.isoweekday() % 7 + 1

    other = Wired(epoch=0)
    other.write(0x0B, pc.read(0x0B) | 0x80)
    for index in CLOCK:
        other.write(index, pc.read(index))
    other.write(0x0B, pc.read(0x0B))
    assert other.rtc.inspect()["time"] == seconds
