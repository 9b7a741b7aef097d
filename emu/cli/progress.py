"""How far something is: one line on a terminal, written over again and again."""

from __future__ import annotations

import os
import time
from typing import TextIO

_BAR = 30  # characters, unless the caller has more to say
_REST_S = 0.1  # between two lines, as long as nobody can read faster


class ProgressLine:
    """A bar and words on ``stream``, which is a terminal; at most ten times a second, and never wider than it."""

    def __init__(self, stream: TextIO, *, bar: int = _BAR) -> None:
        self._stream = stream
        self._bar = bar
        self._shown_at = 0.0
        self._line = ""

    @classmethod
    def wanted(cls, stream: TextIO) -> ProgressLine | None:
        """A line for ``stream``, if somebody is there to watch it."""
        return cls(stream) if stream.isatty() else None

    def show(self, share: float, words: str, *, at_once: bool = False) -> None:
        """Say that ``share`` (0 to 1) is done; not when the last line is too young, unless it is due ``at_once``."""
        now = time.monotonic()
        if self._shown_at and now - self._shown_at < _REST_S and not at_once:
            return
        self._shown_at = now
        self._line = fitted(share, words, self._bar, self._width())
        self._draw()

    def print_above(self, text: str) -> None:
        """Print a line that stays, above this one."""
        self.clear()
        print(text, file=self._stream)
        if self._shown_at:
            self._draw()

    def clear(self) -> None:
        """Leave nothing behind."""
        if self._shown_at:
            print("\r\x1b[K", end="", file=self._stream, flush=True)

    def keep(self) -> None:
        """Leave the last line there; what is printed next begins below it."""
        if self._shown_at:
            print(file=self._stream, flush=True)

    def _draw(self) -> None:
        print(f"\r{self._line}\x1b[K", end="", file=self._stream, flush=True)

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except OSError:
            return 80


def fitted(share: float, words: str, bar: int, columns: int) -> str:
    """A bar of ``bar`` characters and words, of which only the first clauses may have room. A line that wraps could not
    be written over; nor could one that fills the last column of some terminals.
    """
    filled = int(bar * min(max(share, 0.0), 1.0))
    line, room = f"[{'#' * filled}{'.' * (bar - filled)}] {words}", max(columns - 1, 0)
    if len(line) <= room:
        return line
    clause = line.rfind(", ", 0, room + len(", "))
    return line[: clause if clause > 0 else room]
