"""``emu run --power-fail-at``: the run ends there, and the next boot finds what the power cut left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emu.testing import EmuRefused, RunResult
from tests.integration.run_emu import emu

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
    with pytest.raises(EmuRefused) as refused:
        cut(emu_run, file, state, at=at)
    assert len(str(refused.value).splitlines()) == 2
    assert not any(file.read_bytes())


def test_a_state_without_a_cut_and_one_too_many_are_usage_errors_that_leave_no_file(tmp_path: Path) -> None:
    alone = emu("run", "hello", "--nvdimm", f"file={tmp_path}/a,size=16M", "--power-fail-state", "all")
    assert (alone.status, alone.out) == (2, "")
    assert "--power-fail-at" in alone.errors[1]
    words = ["commit-noflush", "--nvdimm", f"file={tmp_path}/b,size=2M", "--power-fail-at", EVENT]
    many = emu("run", *words, "--power-fail-state", "8", "--quiet")
    assert (many.status, many.out) == (2, "")
    assert "only 8 are possible" in many.errors[0]
    assert "0 to 7" in many.errors[1]
    assert list(tmp_path.iterdir()) == []


def test_json_says_which_event_and_which_memory_were_drawn(emu_run: Run, nvdimm_file: Callable[[str], Path]) -> None:
    drawn = cut(emu_run, nvdimm_file("2M"), "random:7", at="random:11").document["power_failure"]
    assert drawn["asked"] == {"event": "random:11", "state": "random:7"}
    assert drawn["failed"] is True
    file = nvdimm_file("2M")
    again = cut(emu_run, file, str(drawn["state"]), at=str(drawn["event"])).document["power_failure"]
    assert again["contents"] == drawn["contents"]
    memory = file.read_bytes()
    assert drawn["contents"]
    for item in drawn["contents"]:
        assert memory[item["offset"] : item["offset"] + 8].hex() == item["data"]


def test_a_guest_that_ends_first_keeps_everything(emu_run: Run, nvdimm_file: Callable[[str], Path]) -> None:
    plain, late = nvdimm_file("16M"), nvdimm_file("16M")
    emu_run("hello", "--nvdimm", f"file={plain}")
    ended = emu_run("hello", "--nvdimm", f"file={late}", "--power-fail-at", "4000000")
    assert ended.status == 2
    assert ended.document["exit"]["reason"] == "power-off"
    cut_off = ended.document["power_failure"]
    assert (cut_off["failed"], cut_off["event"], cut_off["state"]) == (False, None, None)
    assert f"after {cut_off['events']} events" in ended.stderr
    assert f"up to {cut_off['events']}" in ended.stderr
    assert plain.read_bytes() == late.read_bytes()
