"""What a terminal shows: lines go on below at a word, where their text begins; elsewhere they stay lines."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from terminals import Terminal

from emu.cli import output


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    it = Terminal(50)
    yield it
    it.close()


LOST = "   lost       event 6: 8 bytes at offset 0x80, main+0x13f, commit.c:36, mov qword ptr [rsi], rdi"


def test_a_line_of_a_report_goes_on_where_its_text_begins(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    output.tell(LOST)
    assert terminal.sent().splitlines() == [
        "   lost       event 6: 8 bytes at offset 0x80,",
        "              main+0x13f, commit.c:36, mov qword",
        "              ptr [rsi], rdi",
    ]
    output.tell("   power fails before event 10, or before one of 15, 20, 25, 26")
    assert terminal.sent().splitlines() == [
        "   power fails before event 10, or before one of",
        "   15, 20, 25, 26",
    ]


def test_a_note_goes_on_beside_its_beginning(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    output.note("emu: the request itself is wrong: an option, a value, an image")
    assert terminal.sent().splitlines() == [
        "emu: the request itself is wrong: an option, a",
        "     value, an image",
    ]


def test_a_pipe_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.tell(LOST)
    assert capsys.readouterr().out == f"{LOST}\n"
