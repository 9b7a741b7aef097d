"""The line that ``emu crash`` shows while it works."""

from __future__ import annotations

import io
import re
from contextlib import closing
from unittest.mock import Mock

import pytest

from emu.cli.crash_progress import BAR, CrashProgress, words
from emu.cli.progress import fitted
from emu.persistence.lab.deadline import NEVER
from tests.terminals import Terminal


def progress_line(done: int, waiting: int, share: float, elapsed: float, columns: int) -> str:
    return fitted(share, words(done, waiting, share, elapsed), BAR, columns)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((0, 3, 0.0, 9.0, 120), "[....................]   0% of the crash points, 0 recoveries, 3 waiting"),
        ((7, 0, 1.0, 9.0, 120),
         "[####################] 100% of the crash points, about 0 s left, 7 recoveries, 0 waiting"),
        ((7, 2, 0.5, 9.0, 120),
         "[##########..........]  50% of the crash points, about 9 s left, 7 recoveries, 2 waiting"),
        ((7, 2, 0.25, 60.0, 120),
         "[#####...............]  25% of the crash points, about 3 min 0 s left, 7 recoveries, 2 waiting"),
        ((7, 2, 0.02, 300.0, 120),
         "[....................]   2% of the crash points, about 4 h 5 min left, 7 recoveries, 2 waiting"),
    ],
)  # fmt: skip
def test_line(arguments: tuple[int, int, float, float, int], line: str) -> None:
    assert progress_line(*arguments) == line


def test_line_leaves_the_last_column_free_and_clauses_out_that_have_no_room() -> None:
    whole = progress_line(123456, 789, 0.5, 1e5, 1000)
    beginnings = [whole[: at.start()] for at in re.finditer(", |$", whole)]
    assert len(beginnings) == 4
    for columns in range(len(beginnings[0]) + 1, len(whole) + 2):
        assert progress_line(123456, 789, 0.5, 1e5, columns) == [b for b in beginnings if len(b) < columns][-1]
    for columns in range(len(beginnings[0]) + 1):
        assert progress_line(123456, 789, 0.5, 1e5, columns) == whole[: max(columns - 1, 0)]


def test_a_cause_wraps_at_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "found: missing flush: event 6, main+0x13f, commit.c:36 (power fails before event 10)"
    monkeypatch.setattr("emu.persistence.report.terminal.found_line", lambda *_: said)
    terminal = Terminal(50)
    with closing(terminal):
        CrashProgress(terminal, NEVER).cause(Mock(), Mock(), None)
        assert terminal.sent().splitlines() == [
            "found: missing flush: event 6, main+0x13f,",
            "commit.c:36 (power fails before event 10)",
        ]


def test_line_goes_away() -> None:
    out = io.StringIO()
    progress = CrashProgress(out, NEVER)
    progress(1, 2, 0.5)
    progress.clear()
    assert "50% of the crash points" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")


def test_nothing_shown_nothing_taken_away() -> None:
    out = io.StringIO()
    CrashProgress(out, NEVER).clear()
    assert out.getvalue() == ""
