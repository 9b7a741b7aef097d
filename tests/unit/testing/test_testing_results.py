"""What a result says of a run, by the document that emu printed."""

from __future__ import annotations

from emu.testing import RunResult


def test_run_of_a_linux_command_shows_what_it_printed() -> None:
    document = {
        "exit": {"reason": "exit-port", "status": 3, "code": 1},
        "serial": "[    0.1] of the kernel\n",
        "stdout": "3 entries\n",
        "stderr": "no space\n",
    }
    result = RunResult(3, document, "emu: a note\n", ("run", "linux", "--exec", "./log add"))
    assert result.stdout == "3 entries\n"
    assert result.report.splitlines() == [
        "$ emu run linux --exec './log add'",
        "[    0.1] of the kernel",
        "3 entries",
        "no space",
        "emu: a note",
        "ended: exit-port, status 3",
    ]


def test_run_of_another_guest_has_no_standard_output() -> None:
    result = RunResult(
        0, {"exit": {"reason": "power-off", "status": 0, "code": None}, "serial": "hello\n"}, "", ("run", "hello")
    )
    assert result.stdout == ""
    assert result.report.splitlines() == ["$ emu run hello", "hello", "ended: power-off, status 0"]
