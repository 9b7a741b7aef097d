"""The MC146818 real-time clock and CMOS memory of a PC (Motorola MC146818A data sheet).

The time of day is a function of the injected clock and of the date at power-on that the board chooses (a fixed one in
virtual time, so that two runs agree). Interrupts come on IRQ 8, which stays high until register C is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import gmtime

from emu.acpi.dsdt import isa_device
from emu.devices.contract import Line, Now, Output, take_bits
from emu.errors import StateError
from emu.state import Apply, Fields, SavedState
from emu.units import KIB, MIB

SIZE = 128
CENTURY = 0x32

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR = range(10)
REG_A, REG_B, REG_C, REG_D = 0x0A, 0x0B, 0x0C, 0x0D
A_UPDATING, A_RATE, A_RUNNING = 0x80, 0x0F, 0x20
B_SET, B_PERIODIC, B_ALARM, B_UPDATE, B_SQUARE, B_BINARY, B_24H = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
C_IRQ, C_PERIODIC, C_ALARM, C_UPDATE = 0x80, 0x40, 0x20, 0x10
_FLAGS = C_PERIODIC | C_ALARM | C_UPDATE
D_VALID = 0x80
_DIVIDER = 0x70
_POWER_ON_A, _POWER_ON_B = 0x26, B_24H

_SECOND = 1_000_000_000
_DAY = 86_400
_UPDATE_NS = 244_000
_CRYSTAL = 32_768
_LATEST = 253_402_300_799
"""The last second of the year 9999."""
_TIME = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)
_ANY = 0xC0


def memory_bytes(below_4g: int, above_4g: int) -> dict[int, int]:
    """The CMOS bytes that tell the size of memory: base, extended, above 16 MiB and above 4 GiB, as a PC keeps them.

    ``below_4g`` and ``above_4g`` are bytes of RAM on either side of 4 GiB.
    """
    extended = min(max(below_4g - MIB, 0) // KIB, 0xFFFF)
    above_16m = min(max(below_4g - 16 * MIB, 0) // (64 * KIB), 0xFFFF)
    high = min(above_4g // (64 * KIB), 0xFF_FFFF)
    base = min(below_4g // KIB, 640)
    return {
        0x15: base & 0xFF,
        0x16: base >> 8,
        0x17: extended & 0xFF,
        0x18: extended >> 8,
        0x30: extended & 0xFF,
        0x31: extended >> 8,
        0x34: above_16m & 0xFF,
        0x35: above_16m >> 8,
        0x5B: high & 0xFF,
        0x5C: high >> 8 & 0xFF,
        0x5D: high >> 16,
    }


_NEVER = 1 << 64
"""Later than any time that is asked for."""


def dsdt_device(ports: range, irq: int) -> bytes:
    """The clock in the DSDT."""
    return isa_device("RTC0", "PNP0B00", (ports,), irq)


class Rtc:
    """A window of two ports: index (bit 7 masks NMI, and is ignored) and data.

    ``epoch`` is the date at power-on in Unix seconds, ``cmos`` the bytes that firmware would have put into CMOS memory.
    Writing the time while SET is clear takes effect at once. A date that does not exist is moved to the nearest that
    does.
    """

    width = 1

    def __init__(self, *, line: Line, now: Now, epoch: int, cmos: Mapping[int, int] | None = None) -> None:
        self._output = Output(line)
        self._now = now
        self._ram = bytearray(SIZE)
        for index, value in (cmos or {}).items():
            self._ram[index] = value
        self._ram[REG_A], self._ram[REG_B], self._ram[REG_D] = _POWER_ON_A, _POWER_ON_B, D_VALID
        self._index = 0
        self._flags = 0
        # The clock shows ``_shown`` at ``_since`` nanoseconds and runs on from there unless it is stopped.
        self._since = self._seen = now()
        self._quiet_until = 0
        self._shown = min(max(epoch, 0), _LATEST)
        self._store_time(self._shown)

    def reset(self) -> None:
        """Interrupts are off; time and CMOS memory live on their battery."""
        self._sync()
        self._ram[REG_B] &= ~(B_PERIODIC | B_ALARM | B_UPDATE | B_SQUARE)
        self._index = self._flags = 0
        self._quiet_until = 0
        self._update()

    # Time

    @property
    def _stopped(self) -> bool:
        return bool(self._ram[REG_B] & B_SET) or self._ram[REG_A] & _DIVIDER != A_RUNNING

    def _clock(self, now: int) -> int:
        """Unix seconds shown at ``now``."""
        return min(self._shown + max(now - self._since, 0) // _SECOND, _LATEST)

    def _encode(self, value: int) -> int:
        return value if self._ram[REG_B] & B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._ram[REG_B] & B_BINARY else (value >> 4) * 10 + (value & 0xF)

    def _decode_hour(self, value: int) -> int:
        if self._ram[REG_B] & B_24H:
            return self._decode(value)
        return self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)

    def _store_time(self, seconds: int) -> None:
        """Put a time into the registers in the format that register B asks for."""
        when = gmtime(seconds)
        hour = when.tm_hour
        if not self._ram[REG_B] & B_24H:
            hour, afternoon = (hour + 11) % 12 + 1, 0x80 if hour >= 12 else 0
        else:
            afternoon = 0
        self._ram[SECONDS] = self._encode(when.tm_sec)
        self._ram[MINUTES] = self._encode(when.tm_min)
        self._ram[HOURS] = self._encode(hour) | afternoon
        self._ram[WEEKDAY] = self._encode((when.tm_wday + 1) % 7 + 1)
        self._ram[DAY] = self._encode(when.tm_mday)
        self._ram[MONTH] = self._encode(when.tm_mon)
        self._ram[YEAR] = self._encode(when.tm_year % 100)
        self._ram[CENTURY] = self._encode(when.tm_year // 100)

    def _time_registers(self) -> int:
        """The Unix seconds that the registers hold."""
        from datetime import date  # few guests set the time

        year = self._decode(self._ram[CENTURY]) * 100 + self._decode(self._ram[YEAR])
        month = min(max(self._decode(self._ram[MONTH]), 1), 12)
        first = (date(min(max(year, 1970), 9999), month, 1) - date(1970, 1, 1)).days
        day = first + min(max(self._decode(self._ram[DAY]), 1), 31) - 1
        second = (
            min(self._decode_hour(self._ram[HOURS]), 23) * 3600
            + min(self._decode(self._ram[MINUTES]), 59) * 60
            + min(self._decode(self._ram[SECONDS]), 59)
        )
        return min(day * _DAY + second, _LATEST)

    # Interrupts

    def _period(self) -> int:
        """The periodic interrupt's period in ticks of the 32,768 Hz crystal, 0 when it is off."""
        rate = self._ram[REG_A] & A_RATE
        if rate == 0 or self._ram[REG_A] & _DIVIDER != A_RUNNING:
            return 0
        return 1 << (rate - 1 if rate > 2 else rate + 6)

    def _next_periodic(self, after: int) -> int | None:
        period = self._period()
        if not period:
            return None
        ticks = (after * _CRYSTAL // _SECOND // period + 1) * period
        return -(-ticks * _SECOND // _CRYSTAL)

    def _next_update(self, after: int) -> int | None:
        if self._stopped:
            return None
        return self._since + (max(after - self._since, 0) // _SECOND + 1) * _SECOND

    def _alarm_values(self, register: int, count: int) -> range:
        value = self._ram[register]
        if value & _ANY == _ANY:
            return range(count)
        number = self._decode_hour(value) if register == HOURS_ALARM else self._decode(value)
        return range(number, min(number + 1, count))

    def _next_alarm(self, after: int) -> int | None:
        """The first time later than ``after`` at which an update shows the alarm's time of day."""
        if self._stopped:
            return None
        shown = self._clock(max(after, self._since))
        second_of_day = shown % _DAY
        hours = self._alarm_values(HOURS_ALARM, 24)
        minutes = self._alarm_values(MINUTES_ALARM, 60)
        seconds = self._alarm_values(SECONDS_ALARM, 60)
        for start_of_day in (0, _DAY):
            for hour in hours:
                if start_of_day + hour * 3600 + 3599 <= second_of_day:
                    continue
                for minute in minutes:
                    start = start_of_day + hour * 3600 + minute * 60
                    if start + 59 <= second_of_day:
                        continue
                    for second in seconds:
                        if start + second > second_of_day:
                            due = shown - second_of_day + start + second
                            return self._since + (due - self._shown) * _SECOND if due <= _LATEST else None
        return None

    def next_event(self) -> int | None:
        wanted = self._ram[REG_B] & _FLAGS & ~self._flags
        times = []
        if wanted & B_PERIODIC:
            times.append(self._next_periodic(self._seen))
        if wanted & B_ALARM:
            times.append(self._next_alarm(self._seen))
        if wanted & B_UPDATE:
            times.append(self._next_update(self._seen))
        return min((time for time in times if time is not None), default=None)

    def catch_up(self, now: int) -> None:
        if now <= self._seen:
            return
        if now >= self._quiet_until:
            causes = (
                (C_PERIODIC, self._next_periodic),
                (C_ALARM, self._next_alarm),
                (C_UPDATE, self._next_update),
            )
            for flag, following in causes:
                if not self._flags & flag:
                    time = following(self._seen)
                    if time is not None and time <= now:
                        self._flags |= flag
            # Nothing is due before then, unless a register changes.
            due = (following(now) for flag, following in causes if not self._flags & flag)
            self._quiet_until = min((time for time in due if time is not None), default=_NEVER)
            self._update()
        self._seen = now

    def _sync(self) -> int:
        now = self._now()
        self.catch_up(now)
        return now

    def _requests(self) -> bool:
        return bool(self._flags & self._ram[REG_B] & _FLAGS)

    def _update(self) -> None:
        self._output.set(self._requests())

    # The guest's side

    def read(self, offset: int, size: int) -> int:
        if offset == 0:
            return 0xFF
        now = self._sync()
        index = self._index
        if index in _TIME and not self._stopped:
            self._store_time(self._clock(now))
        if index == REG_A:
            close = not self._stopped and (now - self._since) % _SECOND >= _SECOND - _UPDATE_NS
            return self._ram[REG_A] | (A_UPDATING if close else 0)
        if index == REG_C:
            value = self._flags | (C_IRQ if self._requests() else 0)
            self._flags = 0
            self._quiet_until = 0
            self._update()
            return value
        return self._ram[index]

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if offset == 0:
            self._index = value & (SIZE - 1)
            return
        index = self._index
        now = max(self._sync(), self._since)
        if index in (REG_C, REG_D):
            return
        self._quiet_until = 0
        if index in (REG_A, REG_B):
            self._control(index, value, now)
        elif index in _TIME:
            self._set_time(index, value, now)
        else:
            self._ram[index] = value
        self._update()

    def _set_time(self, index: int, value: int, now: int) -> None:
        if not self._stopped:
            self._store_time(self._clock(now))
            self._ram[index] = value
            # The second that has begun goes on.
            self._since += (now - self._since) // _SECOND * _SECOND
            self._shown = self._time_registers()
        else:
            self._ram[index] = value

    def _control(self, index: int, value: int, now: int) -> None:
        was_stopped = self._stopped
        if not was_stopped:
            self._store_time(self._clock(now))
        if index == REG_A:
            self._ram[REG_A] = value & ~A_UPDATING & 0xFF
        else:
            # SET aborts an update cycle and with it the update interrupt.
            self._ram[REG_B] = value & ~B_UPDATE if value & B_SET else value
        if self._stopped:
            return
        if was_stopped:
            self._shown, self._since = self._time_registers(), now
        else:
            self._store_time(self._clock(now))

    # State

    def save(self) -> SavedState:
        return SavedState(
            "rtc",
            1,
            {
                "ram": bytes(self._ram),
                "index": self._index,
                "flags": self._flags,
                "shown": self._shown,
                "since": self._since,
                "seen": self._seen,
            },
        )

    def parse(self, state: SavedState) -> Apply:
        take = Fields(state, kind="rtc", version=1)
        ram = take.octets("ram", exactly=SIZE)
        index = take.integer("index", high=SIZE - 1)
        flags = take_bits(take, "flags", _FLAGS)
        shown = take.integer("shown", high=_LATEST)
        since = take.integer("since", high=1 << 62)
        seen = take.integer("seen", high=1 << 62)
        take.finish()
        if ram[REG_A] & A_UPDATING or ram[REG_C] or ram[REG_D] != D_VALID:
            raise StateError("saved state of 'rtc': a register holds what it cannot hold")

        def apply() -> None:
            self._ram = bytearray(ram)
            self._index, self._flags = index, flags
            self._shown, self._since, self._seen = shown, since, seen
            self._quiet_until = 0
            self._output.force(self._requests())

        return apply

    def inspect(self) -> dict[str, object]:
        now = self._now()
        return {
            "time": self._time_registers() if self._stopped else self._clock(now),
            "stopped": self._stopped,
            "a": self._ram[REG_A],
            "b": self._ram[REG_B],
            "c": self._flags | (C_IRQ if self._requests() else 0),
            "interrupt": self._output.level,
        }
