"""Timer and clock remember until when nothing is due: that changes nothing but how much they compute."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from emu.devices.pit import Pit
from emu.devices.rtc import Rtc

Access = Callable[[int, int], None]


class Twin:
    """A device, what its line did, and the time that it sees."""

    def __init__(self, kind: str) -> None:
        self.now = 0
        self.line: list[tuple[int, bool]] = []
        make = (
            (lambda: Pit(line=self.raised, now=lambda: self.now))
            if kind == "pit"
            else (lambda: Rtc(line=self.raised, now=lambda: self.now, epoch=1_700_000_000))
        )
        self.device = make()
        window = self.device.windows[0] if isinstance(self.device, Pit) else self.device
        self.read, self.write = window.read, window.write

    def raised(self, level: bool) -> None:
        self.line.append((self.now, level))


@pytest.mark.parametrize("kind", ["pit", "rtc"])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_due_is_the_same_as_without_a_memory(kind: str, seed: int) -> None:
    random = Random(seed)
    remembers, forgets = Twin(kind), Twin(kind)
    for _ in range(400):
        step = random.choice((1, 1000, 50_000, 1_000_000, 40_000_000, 700_000_000))
        offset, value = random.randrange(4 if kind == "pit" else 2), random.randrange(256)
        index = random.choice((0, 1, 3, 5, 10, 11, 12, 11, 10))
        action = random.randrange(5)
        seen: list[object] = []
        for twin in (remembers, forgets):
            twin.now += step
            if twin is forgets:
                twin.device._quiet_until = 0
            if action < 2:
                twin.device.catch_up(twin.now)
            elif action == 2:
                seen.append(twin.read(offset, 1))
            else:
                if kind == "rtc":
                    twin.write(0, 1, index)
                    offset = 1
                twin.write(offset, 1, value)
            if twin is forgets:
                twin.device._quiet_until = 0
            seen.append((twin.device.next_event(), twin.device.save()))
        half = len(seen) // 2
        assert seen[:half] == seen[half:]
    assert remembers.line == forgets.line
    assert remembers.line
