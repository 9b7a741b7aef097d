"""What a terminal shows: lines go on below at a word, where their text begins; elsewhere they stay lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.cli import output
from tests.terminals import Terminal


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal(50)
    yield it
    it.close()


def test_a_note_goes_on_beside_its_beginning(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    output.note("emu: the request itself is wrong: an option, a value, an image")
    assert terminal.sent().splitlines() == [
        "emu: the request itself is wrong: an option, a",
        "     value, an image",
    ]


def test_only_a_terminal_has_columns(terminal: Terminal) -> None:
    assert output.columns(terminal) == 50
    with Path(os.devnull).open() as pipe:
        assert output.columns(pipe) is None


def test_a_row_goes_on_under_its_last_column(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    output.row("  torn-fixed  a 16-byte record written beside the old one")
    output.row("  a name that is so long  and a summary that comes behind it")
    assert terminal.sent().splitlines() == [
        "  torn-fixed  a 16-byte record written beside the",
        "              old one",
        "  a name that is so long  and a summary that comes",
        "    behind it",
    ]


def test_a_row_for_a_program_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.row("  torn-fixed  " + "a record " * 20)
    assert len(capsys.readouterr().out.splitlines()) == 1
