"""The 8254 interval timer of a PC (Intel 8254 data sheet) and the system control port B that gates its channel 2.

All values are functions of the injected time, so the timer costs nothing while nobody looks and two runs agree.

Where it is simpler than the chip: a new count takes effect at once in every mode, loading takes no clock, and IRQ 0
carries the rising edges of channel 0 only, which is what an edge-triggered input sees. Without firmware nothing counts
until the guest programs a channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emu.acpi.dsdt import isa_device
from emu.devices.contract import Line, Now, Output, Window
from emu.errors import StateError
from emu.state import Apply, Fields, SavedState, Value

HZ = 1_193_182
_SECOND = 1_000_000_000
_REFRESH_NS = 15_085
_GATE, _CONTROL_B_STORED = 0x01, 0x0F
_NO_STATUS = 0x100
_NEVER = 1 << 64
"""Later than any tick."""
_RANGES = {
    "mode": 5,
    "access": 3,
    "reload": 0x10000,
    "base": 1 << 50,
    "low_byte": 0xFF,
    "latch": 0xFFFF,
    "latch_left": 2,
    "status": _NO_STATUS,
}


def dsdt_device(ports: range, irq: int) -> bytes:
    """The timer in the DSDT; its control port is a resource of the board."""
    return isa_device("TIMR", "PNP0100", (ports,), irq)


class Channel:
    """One counter, at power-on (channel 2: without its gate). Times are in ticks of 1.193182 MHz since power-on.

    ``base`` is the tick at which counting began while ``running``, else the number of ticks already counted.
    ``low_byte`` waits for its high byte while ``half_written``; ``latch_left`` bytes of ``latch`` and the ``status``
    (0x100: none) are to be read before the live count.
    """

    gate: bool = True
    mode: int = 0
    access: int = 3
    bcd: bool = False
    loaded: bool = False
    reload: int = 0x10000
    running: bool = False
    base: int = 0
    half_written: bool = False
    low_byte: int = 0
    half_read: bool = False
    latch: int = 0
    latch_left: int = 0
    status: int = _NO_STATUS

    def program(self, control: int) -> None:
        mode = control >> 1 & 7
        self.mode = mode if mode < 6 else mode - 4
        self.access = control >> 4 & 3
        self.bcd = bool(control & 1)
        self.loaded = self.running = self.half_written = self.half_read = False
        self.base = self.latch_left = 0
        self.status = _NO_STATUS

    def write(self, value: int, now: int) -> None:
        if self.access == 1:
            self._load(value, now)
        elif self.access == 2:
            self._load(value << 8, now)
        elif self.half_written:
            self.half_written = False
            self._load(self.low_byte | value << 8, now)
        else:
            self.half_written, self.low_byte = True, value
            if self.mode == 0:
                self.loaded = self.running = False  # the first of two bytes stops the count

    def _load(self, value: int, now: int) -> None:
        if self.bcd:
            value = sum((value >> 4 * digit & 0xF) * 10**digit for digit in range(4))
        self.reload = value or (10_000 if self.bcd else 0x10000)
        self.loaded = True
        if self.mode not in (1, 5):
            self.running = self.gate
            self.base = now if self.gate else 0

    def set_gate(self, level: bool, now: int) -> None:
        rising, changed = level and not self.gate, level != self.gate
        self.gate = level
        if not self.loaded or not changed:
            return
        if self.mode in (1, 5):
            if rising:
                self.running, self.base = True, now
        elif rising and self.mode in (2, 3):
            self.running, self.base = True, now
        else:
            self.running, self.base = level, now - self.base

    def _elapsed(self, now: int) -> int:
        return now - self.base if self.running else self.base

    def count(self, now: int) -> int:
        """The 16 bits of the counter, in BCD where the mode says so."""
        if not self.loaded:
            return 0
        elapsed = self._elapsed(now)
        if self.mode == 2:
            value = self.reload - elapsed % self.reload
        elif self.mode == 3:
            value = self.reload - 2 * elapsed % self.reload
        else:
            value = self.reload - elapsed
        if not self.bcd:
            return value & 0xFFFF
        return int(str(value % 10_000), 16)

    def output(self, now: int) -> bool:
        """The level of OUT."""
        if not self.loaded or not (self.running or self.mode in (0, 4)):
            return self.mode != 0
        elapsed = self._elapsed(now)
        match self.mode:
            case 0 | 1:
                return elapsed >= self.reload
            case 2:
                return elapsed % self.reload != self.reload - 1
            case 3:
                return elapsed % self.reload < (self.reload + 1) // 2
            case _:
                return elapsed != self.reload

    def next_edge(self, after: int) -> int | None:
        """The first tick later than ``after`` at which OUT rises, None when it never does."""
        if not self.running:
            return None
        if self.mode in (2, 3):
            return self.base + (max(after - self.base, 0) // self.reload + 1) * self.reload
        edge = self.base + self.reload + (1 if self.mode >= 4 else 0)
        return edge if edge > after else None

    def latch_count(self, now: int) -> None:
        if not self.latch_left:
            count = self.count(now)
            self.latch = count >> 8 if self.access == 2 else count
            self.latch_left = 2 if self.access == 3 else 1

    def latch_status(self, now: int) -> None:
        if self.status == _NO_STATUS:
            null = not self.loaded
            self.status = self.output(now) << 7 | null << 6 | self.access << 4 | self.mode << 1 | self.bcd

    def read(self, now: int) -> int:
        if self.status != _NO_STATUS:
            value, self.status = self.status, _NO_STATUS
            return value
        if self.latch_left:
            value, self.latch = self.latch & 0xFF, self.latch >> 8
            self.latch_left -= 1
            return value
        high = self.access == 2
        if self.access == 3:
            high, self.half_read = self.half_read, not self.half_read
        return self.count(now) >> (8 if high else 0) & 0xFF


_FIELDS = {name: type(getattr(Channel, name)) for name in Channel.__annotations__}


def _channel(columns: Mapping[str, Sequence[int]], number: int) -> Channel:
    channel = Channel()
    for name, kind in _FIELDS.items():
        setattr(channel, name, kind(columns[name][number]))
    return channel


class Pit:
    """Windows for the three channels and for control port B, which gates and shows channel 2; ``line`` is IRQ 0."""

    def __init__(self, *, line: Line, now: Now) -> None:
        self._output = Output(line)
        self._now = now
        self.windows = (
            Window(1, self._read, self._write),
            Window(1, self._read_control_b, self._write_control_b),
        )
        self._power_on()

    def _power_on(self) -> None:
        self._channels = (Channel(), Channel(), Channel())
        self._channels[2].gate = False
        self._control_b = 0
        self._seen = self._ticks(self._now())
        self._quiet_until = 0

    def reset(self) -> None:
        self._power_on()
        self._output.set(False)

    @staticmethod
    def _ticks(now: int) -> int:
        return now * HZ // _SECOND

    def next_event(self) -> int | None:
        edge = self._channels[0].next_edge(self._seen)
        return None if edge is None else -(-edge * _SECOND // HZ)

    def catch_up(self, now: int) -> None:
        ticks = self._ticks(now)
        if ticks >= self._quiet_until:
            edge = self._channels[0].next_edge(self._seen)
            if edge is not None and edge <= ticks:
                # However many edges were missed, the controller latches one.
                self._output.set(False)
                self._output.set(True)
            following = self._channels[0].next_edge(max(self._seen, ticks))
            self._quiet_until = _NEVER if following is None else following
        self._seen = max(self._seen, ticks)

    def _sync(self) -> int:
        now = self._now()
        self.catch_up(now)
        return self._ticks(now)

    def _read(self, offset: int, size: int) -> int:
        ticks = self._sync()
        return self._channels[offset].read(ticks) if offset < 3 else 0xFF

    def _write(self, offset: int, size: int, value: int) -> None:
        ticks = self._sync()
        self._quiet_until = 0
        value &= 0xFF
        if offset < 3:
            self._channels[offset].write(value, ticks)
        elif value >> 6 == 3:
            self._read_back(value, ticks)
        elif value >> 4 & 3 == 0:
            self._channels[value >> 6].latch_count(ticks)
        else:
            self._channels[value >> 6].program(value)
        if offset in (0, 3) and not self._channels[0].loaded:
            self._output.set(False)

    def _read_back(self, value: int, ticks: int) -> None:
        for number, channel in enumerate(self._channels):
            if value & 2 << number:
                if not value & 0x20:
                    channel.latch_count(ticks)
                if not value & 0x10:
                    channel.latch_status(ticks)

    def _read_control_b(self, offset: int, size: int) -> int:
        ticks = self._sync()
        refresh = self._now() // _REFRESH_NS & 1
        return self._control_b | refresh << 4 | self._channels[2].output(ticks) << 5

    def _write_control_b(self, offset: int, size: int, value: int) -> None:
        self._channels[2].set_gate(bool(value & _GATE), self._sync())
        self._control_b = value & _CONTROL_B_STORED

    # State

    def save(self) -> SavedState:
        state: dict[str, Value] = {
            name: [int(getattr(channel, name)) for channel in self._channels] for name in _FIELDS
        }
        state.update(control_b=self._control_b, seen=self._seen, line=self._output.level)
        return SavedState("pit", 1, state)

    def parse(self, state: SavedState) -> Apply:
        take = Fields(state, kind="pit", version=1)
        columns = {name: take.integers(name, 3, high=_RANGES.get(name, 1)) for name in _FIELDS}
        control_b = take.integer("control_b", high=_CONTROL_B_STORED)
        seen = take.integer("seen", high=1 << 50)
        line = take.boolean("line")
        take.finish()
        if 0 in columns["reload"] or 0 in columns["access"]:
            raise StateError("saved state of 'pit': a count or access mode is 0")

        def apply() -> None:
            self._channels = (_channel(columns, 0), _channel(columns, 1), _channel(columns, 2))
            self._control_b, self._seen, self._quiet_until = control_b, seen, 0
            self._output.force(line)

        return apply

    def inspect(self) -> dict[str, object]:
        ticks = self._ticks(self._now())
        return {
            "channels": [
                {
                    "mode": channel.mode,
                    "reload": channel.reload if channel.loaded else 0,
                    "count": channel.count(ticks),
                    "output": channel.output(ticks),
                    "gate": channel.gate,
                }
                for channel in self._channels
            ],
            "control_b": self._control_b,
        }
