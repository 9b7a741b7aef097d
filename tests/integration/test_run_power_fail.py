"""``emu run --power-fail-at``: the run ends there, and the next boot finds what the power cut left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emu.testing import RunResult

# In the bundled guest the value of the first record is stored and never flushed; event 15 lies behind its commit word.
EVENT = "15"

Run = Callable[..., RunResult]


def cut(emu_run: Run, file: Path, state: str, at: str = EVENT) -> RunResult:
    return emu_run(
        "commit-noflush", "--nvdimm", f"file={file}", "--power-fail-at", at, "--power-fail-state", state, timeout=60
    )


@pytest.mark.parametrize(("state", "verdict"), [("none", 3), ("all", 0)])
def test_the_next_boot_finds_one_of_the_possible_memories(
    emu_run: Run, nvdimm_file: Callable[[str], Path], state: str, verdict: int
) -> None:
    file = nvdimm_file("2M")
    failed = cut(emu_run, file, state)
    assert failed.document["exit"] == {"reason": "power-failure", "status": 0, "code": None}
    assert failed.document["nvdimms"][0]["file"] == str(file)
    assert emu_run("commit-noflush", "--nvdimm", f"file={file}").status == verdict


def test_a_seed_names_one_memory(emu_run: Run, nvdimm_file: Callable[[str], Path]) -> None:
    files = [nvdimm_file("2M") for _ in range(2)]
    for file in files:
        assert cut(emu_run, file, "random:7", at="random:11").document["exit"]["reason"] == "power-failure"
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("at", "state"), [("soon", "none"), ("1", "some"), ("1", "99999"), ("random:", "all")])
def test_what_makes_no_sense_leaves_the_file_alone(
    emu_run: Run, nvdimm_file: Callable[[str], Path], at: str, state: str
) -> None:
    file = nvdimm_file("2M")
    refused = cut(emu_run, file, state, at=at)
    assert (refused.status, refused.document) == (2, {})
    assert len(refused.stderr.splitlines()) == 2
    assert not any(file.read_bytes())


def test_a_guest_that_ends_first_keeps_everything(emu_run: Run, nvdimm_file: Callable[[str], Path]) -> None:
    plain, late = nvdimm_file("16M"), nvdimm_file("16M")
    emu_run("hello", "--nvdimm", f"file={plain}")
    ended = emu_run("hello", "--nvdimm", f"file={late}", "--power-fail-at", "4000000")
    assert ended.document["exit"]["reason"] == "power-off"
    assert plain.read_bytes() == late.read_bytes()
