"""``emu crash`` shows causes when they are found, stops at the first failure, and says what it covered."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from emu.units import GIB
from tests.integration.run_emu import EMU, emu

POOL = ("--nvdimm", "file=none.img,size=2M")


def crash(*words: object) -> tuple[int, dict[str, Any]]:
    done = emu("crash", *words, *POOL, "--json")
    assert not done.errors
    return done.status, done.document


@pytest.mark.parametrize("depth", ["1", "2"])
def test_first_failure_stops_there_and_explains_it(depth: str) -> None:
    status, whole = crash("list-broken", "--depth", depth)
    assert status == 3
    status, found = crash("list-broken", "--depth", depth, "--first-failure")
    assert status == 3
    assert found["executed"] < whole["executed"]
    assert found["incomplete_because"] == ["it was to stop at the first failure"]
    (cause,) = found["failures"]
    (expected,) = whole["failures"]
    assert (cause["kind"], cause["lost"][0]["pc"]) == (expected["kind"], expected["lost"][0]["pc"])
    assert crash("list-broken", "--depth", depth, "--first-failure", "--jobs", "2")[1]["failures"] == found["failures"]


def test_first_failure_of_what_recovers_is_the_whole_exploration() -> None:
    status, found = crash("list-fixed", "--first-failure")
    assert (status, found["complete"], found["covered"]) == (0, True, None)


def test_what_was_covered_is_said(tmp_path: Path) -> None:
    """Four lines are stored to and never flushed; recovery reads them all: 16 memories at one crash point."""
    point_rdi, lines = b"\x48\xbf" + struct.pack("<Q", 4 * GIB), (0, 64, 128, 192)
    workload, recovery = tmp_path / "work.bin", tmp_path / "recover.bin"
    stores = b"".join(b"\x48\xc7\x87" + struct.pack("<II", at, 1) for at in lines)  # mov qword [rdi + at], 1
    workload.write_bytes(point_rdi + stores + b"\xf4")
    loads = b"".join(b"\x48\x8b\x87" + struct.pack("<I", at) for at in lines)  # mov rax, [rdi + at]
    recovery.write_bytes(point_rdi + loads + b"\xf4")
    words = (workload, "--recover", recovery)
    said = []
    for executions in range(1, 16):
        status, found = crash(*words, "--max-executions", str(executions))
        assert (status, found["complete"]) == (10, False)
        assert (found["covered"]["unit"], found["covered"]["crash_points"]) == ("cache line", 1)
        said.append(found["covered"]["lost"])
    # One memory lacks nothing, 4 lack one line, 6 lack two: nothing is claimed before so many were tried.
    assert said == sorted(said)
    assert set(said) == {0, 1, 2}
    assert said.index(1) + 1 >= 1 + 4
    assert said.index(2) + 1 >= 1 + 4 + 6
    status, found = crash(*words, "--max-executions", "16")
    assert (status, found["complete"], found["covered"]) == (0, True, None)
    text = emu("crash", *words, *POOL, "--max-executions", "8").out
    assert "covered: all memories in which stores to at most 1 cache line are lost, at all 1 crash points\n" in text


def test_causes_are_shown_when_they_are_found(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 200))
    report = tmp_path / "report"
    with report.open("wb") as out:
        process = subprocess.Popen([*EMU, "crash", "list-broken", *POOL], stdout=out, stderr=slave)
        os.close(slave)
        seen = b""
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # EIO: nobody has the terminal open any more
                break
            seen += data
        assert process.wait(60) == 3
    os.close(master)
    lines = [line for line in re.split(r"[\r\n]+|\x1b\[K", seen.decode()) if line]
    found = [line for line in lines if line.startswith("found: ")]
    assert len(found) == 1
    assert re.fullmatch(
        r"found: missing flush: event \d+, main\+0x[0-9a-f]+, list.c:35, mov .* \(power fails before event \d+\)",
        found[0],
    )
    assert report.read_text().startswith("FAILED: some crash states do not recover (1 cause found)")
    assert any("% of the crash points" in line for line in lines)


def test_a_bug_of_the_workload_that_shows_after_a_second_failure_too_is_one_cause() -> None:
    status, once = crash("undo-broken")
    assert status == 3
    status, twice = crash("undo-broken", "--depth", "2")
    assert status == 3
    assert [failure["kind"] for failure in twice["failures"]] == [failure["kind"] for failure in once["failures"]]
    assert twice["failures"][0]["lost"] == once["failures"][0]["lost"]
