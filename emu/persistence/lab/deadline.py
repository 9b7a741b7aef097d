"""When an investigation must be over: one moment for all that it does, the reading of debug information included."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """``seconds`` after somebody began, in real time: the moment ``at`` of ``time.monotonic``."""

    seconds: float
    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """So long from now."""
        return cls(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        """Seconds from now; 0 when it is over, infinite when it never is."""
        return max(0.0, self.at - time.monotonic())

    def leaving(self, share: float, most: float) -> Deadline:
        """An earlier one: a ``share`` of the whole time, and so many seconds at most, are left for what comes after."""
        return self if self.at == math.inf else Deadline(self.seconds, self.at - min(share * self.seconds, most))

    def __str__(self) -> str:
        return f"the time limit of {self.seconds:g} s was reached"


NEVER = Deadline(math.inf, math.inf)
