"""What ``emu crash`` shows while it works: how far it is, how long it may take, and each cause once it is found."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from emu.persistence.lab.findings import Failure
    from emu.persistence.lab.workload import Workload
    from emu.persistence.report.symbols import Symbols

_EVERY_S = 0.1
_BAR = 20
_SURE_FROM = 0.02
"""With a smaller share of the crash points done nothing is said about the time left."""


class CrashProgress:
    """One line on the terminal ``out``, and above it the causes, which are not the last word: the report joins them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = time.monotonic()
        self._shown = 0.0
        self._line = ""
        self._symbols: Symbols | None = None

    def __call__(self, done: int, waiting: int, share: float) -> None:
        """So many recoveries are done, at least ``waiting`` are needed, and ``share`` of the crash points need none."""
        now = time.monotonic()
        if now - self._shown >= _EVERY_S:
            self._shown = now
            self._line = progress_line(done, waiting, share, now - self._started, shutil.get_terminal_size().columns)
            self._draw()

    def cause(self, failure: Failure, workload: Workload, image: str | None) -> None:
        """A cause of failing crash states has been found."""
        from emu.persistence.report.symbols import load_symbols
        from emu.persistence.report.terminal import found_line

        if self._symbols is None:
            self._symbols = load_symbols(image)
        self.clear()
        print(found_line(failure, workload, self._symbols), file=self._out)
        self._draw()

    def clear(self) -> None:
        """Take the line away."""
        if self._line:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def _draw(self) -> None:
        if self._line:
            print(f"\r{self._line}\x1b[K", end="", file=self._out, flush=True)


def progress_line(done: int, waiting: int, share: float, elapsed: float, columns: int) -> str:
    """The line, no longer than a terminal of so many columns lets it be. ``elapsed`` is in seconds."""
    filled = int(_BAR * share)
    parts = [
        f"[{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%} of the crash points",
        f"{done} recoveries",
        f"{waiting} waiting",
        f"about {_duration(elapsed * (1 - share) / share)} left" if share >= _SURE_FROM else "",
    ]
    line = ", ".join(part for part in parts if part)
    return line if len(line) < columns else line[: max(columns - 1, 0)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
