"""The line that says how far something is, on a terminal of our own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from emu.cli import progress
from emu.cli.progress import ProgressLine
from tests.terminals import Terminal


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal(60)
    yield it
    it.close()


def test_nobody_watches_what_is_no_terminal(terminal: Terminal) -> None:
    assert ProgressLine.wanted(io.StringIO()) is None
    assert ProgressLine.wanted(terminal) is not None


def test_each_line_replaces_the_one_before(terminal: Terminal) -> None:
    line = ProgressLine(terminal)
    line.show(0.5, "half", at_once=True)
    line.show(1.0, "all", at_once=True)
    assert terminal.sent() == f"\r[{'#' * 15}{'.' * 15}] half\x1b[K\r[{'#' * 30}] all\x1b[K"


@pytest.mark.parametrize(("share", "filled"), [(-1.0, 0), (0.999, 29), (7.0, 30)])
def test_the_bar_is_full_only_when_all_is_done(terminal: Terminal, share: float, filled: int) -> None:
    ProgressLine(terminal).show(share, "")
    assert terminal.sent().count("#") == filled


def test_a_line_never_wraps(terminal: Terminal) -> None:
    ProgressLine(terminal).show(0.0, "x" * 200)
    assert len(terminal.sent().removeprefix("\r").removesuffix("\x1b[K")) == 59


def test_lines_come_no_faster_than_they_are_read(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    line = ProgressLine(terminal)
    line.show(0.1, "first")
    assert "first" in terminal.sent()
    now += 0.05
    line.show(0.2, "too soon")
    assert terminal.sent() == ""
    line.show(0.3, "due", at_once=True)
    assert "due" in terminal.sent()
    now += 0.2
    line.show(0.4, "later")
    assert "later" in terminal.sent()


def test_the_end_clears_the_line_or_keeps_it(terminal: Terminal) -> None:
    line = ProgressLine(terminal)
    line.clear()
    line.keep()
    assert terminal.sent() == ""  # nothing was shown
    line.show(0.0, "")
    terminal.sent()
    line.clear()
    assert terminal.sent() == "\r\x1b[K"
    line.keep()
    assert terminal.sent() == "\n"
