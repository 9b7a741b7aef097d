"""What ``emu crash`` shows while it works: how far it is, how long it may take, and each cause once it is found."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TextIO

from emu.cli import output
from emu.cli.progress import ProgressLine
from emu.units import counted

if TYPE_CHECKING:
    from emu.persistence.lab.deadline import Deadline
    from emu.persistence.lab.findings import Failure
    from emu.persistence.lab.workload import Workload
    from emu.persistence.report.symbols import Symbols

BAR = 20
_SURE_FROM = 0.02
"""With a smaller share of the crash points done nothing is said about the time left."""


class CrashProgress:
    """One line on the terminal ``out``, and above it the causes, which are not the last word: the report joins
    them. Their names are read until ``deadline``.
    """

    def __init__(self, out: TextIO, deadline: Deadline) -> None:
        self._out = out
        self._line = ProgressLine(out, bar=BAR)
        self._deadline = deadline
        self._started = time.monotonic()
        self._symbols: Symbols | None = None

    def __call__(self, done: int, waiting: int, share: float) -> None:
        """So many recoveries are done, at least ``waiting`` are needed, and ``share`` of the crash points need none."""
        self._line.show(share, words(done, waiting, share, time.monotonic() - self._started))

    def cause(self, failure: Failure, workload: Workload, image: str | None) -> None:
        """A cause of failing crash states has been found."""
        from emu.persistence.report.symbols import load_symbols
        from emu.persistence.report.terminal import found_line, wrapped

        if self._symbols is None:
            self._symbols = load_symbols(image, self._deadline)
        found = found_line(failure, workload, self._symbols)
        self._line.print_above("\n".join(wrapped(found, output.columns(self._out))))

    def clear(self) -> None:
        """Take the line away."""
        self._line.clear()


def words(done: int, waiting: int, share: float, elapsed: float) -> str:
    """What the line says. ``elapsed`` is in seconds."""
    left = f", about {_duration(elapsed * (1 - share) / share)} left" if share >= _SURE_FROM else ""
    return f"{share:4.0%} of the crash points{left}, {counted(done, 'recovery', 'recoveries')}, {waiting} waiting"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
