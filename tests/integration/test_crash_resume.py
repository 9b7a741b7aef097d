"""``emu crash --resume``: an interrupted exploration goes on, and a file of another one is refused."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.guest.litmus import Step, assemble
from emu.persistence.lab import findings, recovery
from emu.persistence.lab.explore import Limits
from emu.persistence.lab.investigation import Answer, Question, investigate
from emu.persistence.lab.resume import KeptRuns
from tests.integration.run_emu import Result, emu

POOL = ("--nvdimm", "file=none.img,size=2M")


def crash(*words: object) -> Result:
    return emu("crash", *words, *POOL)


def found(*words: object) -> dict[str, Any]:
    document = crash(*words, "--json").document
    del document["about"]
    return document


@pytest.mark.parametrize(
    "words", [("list-broken",), ("undo-broken", "--depth", "2"), ("alloc-broken", "--observe", "0")]
)
def test_going_on_gives_what_an_uninterrupted_exploration_gives(tmp_path: Path, words: tuple[str, ...]) -> None:
    whole, state = found(*words), tmp_path / "state"
    for executions in range(1, whole["executed"] + 2, 3):
        limited = ("--max-executions", str(executions))
        assert found(*words, *limited, "--resume", state) == found(*words, *limited)
    assert found(*words, "--resume", state) == whole
    assert found(*words, "--resume", state) == whole


def test_what_is_kept_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emu import guest

    image = guest.find("list-fixed")
    assert image is not None
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 << 20)
    config = MachineConfig(image=str(image.path), slots=1, nvdimms=(NvdimmConfig(backend=backend),))
    run, runs = recovery.MachineRecovery.run, []
    monkeypatch.setattr(recovery.MachineRecovery, "run", lambda *words: runs.append(1) or run(*words))
    state = tmp_path / "state"

    def explored(limit: int) -> Answer:
        kept = KeptRuns(str(state))
        with investigate(Question(config, config, limits=Limits(limit)), kept=kept) as answer:
            state.write_bytes(kept.content())
            return answer

    assert explored(4).exploration.executed == len(runs) == 4
    answer = explored(100)
    assert answer.complete
    assert answer.exploration.executed == len(runs) > 4, "each was run once"
    assert explored(100).exploration.executed == len(runs)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("list-broken", *POOL), "image"),
        (("list-fixed", "--recover", "commit-fixed", *POOL), "image of recovery"),
        (("list-fixed", "--nvdimm", "file={pool}"), "content of an NVDIMM"),
        (("list-fixed", "--nvdimm", "file=none.img,size=4M"), "content of an NVDIMM"),
        (("list-fixed", "--domain", "eadr", *POOL), "value of an option"),
        (("list-fixed", "--depth", "2", *POOL), "value of an option"),
        (("list-fixed", "--to", "9", *POOL), "value of an option"),
        (("list-fixed", "--recover-append", "x", *POOL), "value of an option"),
    ],
)
def test_a_file_of_another_exploration_is_refused(tmp_path: Path, words: tuple[str, ...], what: str) -> None:
    state, pool = tmp_path / "state", tmp_path / "pool.img"
    pool.write_bytes(bytes(1 << 20) + b"x" + bytes((1 << 20) - 1))
    assert crash("list-fixed", "--resume", state, "--max-executions", "2").status == 10
    before = state.read_bytes()
    refused = emu("crash", *(word.format(pool=pool) for word in words), "--resume", state)
    assert (refused.status, refused.out, len(refused.errors)) == (2, "", 2)
    assert refused.errors[0] == f"emu: {state}: made by another exploration: the {what} was different"
    assert state.read_bytes() == before


def test_limits_and_first_failure_may_differ(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert crash("list-fixed", "--resume", state, "--first-failure", "--time-limit", "50").status == 0
    assert crash("list-fixed", "--resume", state, "--max-executions", "5000").status == 0


def packed(kept: object) -> bytes:
    data = zlib.compress(json.dumps(kept).encode())
    return f"emu.crash-resume/1 {hashlib.sha256(data).hexdigest()}\n".encode() + data


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: good[:-1],
        lambda good: good[:200] + bytes([good[200] ^ 1]) + good[201:],
        lambda good: good.replace(b"resume/1", b"resume/2"),
        lambda good: packed([]),
        lambda good: packed({"made_with": {}, "sets": {}, "chunks": ["%"]}),
        lambda good: packed({"made_with": {}, "sets": {"a": [{"reads": [7]}]}, "chunks": []}),
        lambda good: packed({"made_with": {}, "sets": {"a": [{"reads": [0]}]}, "chunks": ["AAAA"]}),
        lambda good: b"emu.crash-resume/1 " + hashlib.sha256(b"x").hexdigest().encode() + b"\nx",
    ],
)
def test_a_damaged_file_is_refused_and_stays(tmp_path: Path, damage: object) -> None:
    state = tmp_path / "state"
    assert crash("list-fixed", "--resume", state).status == 0
    bad = damage(state.read_bytes())  # type: ignore[operator]
    state.write_bytes(bad)
    refused = crash("list-fixed", "--resume", state)
    assert (refused.status, refused.out) == (2, "")
    assert refused.errors == (
        f"emu: {state}: damaged, or not written by --resume",
        "     remove it to begin anew",
    )
    assert state.read_bytes() == bad


def test_no_file_is_overwritten_that_is_read(tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    pool.write_bytes(bytes(2 << 20))
    refused = emu("crash", "list-fixed", "--nvdimm", f"file={pool}", "--resume", pool)
    assert refused.status == 2
    assert pool.read_bytes() == bytes(2 << 20)


def wide(folder: Path, cells: int) -> Question:
    """``cells`` independent lines, none flushed, all read: 2 ** cells recoveries, which fail where two are lost."""
    base = 4 << 30
    writer, reader = folder / "writer.bin", folder / "reader.bin"
    writer.write_bytes(assemble(tuple(Step("store", 64 * n, struct.pack("<Q", 1)) for n in range(cells)), base))
    reader.write_bytes(
        b"\x48\xbf" + struct.pack("<Q", base) + b"\xb9" + struct.pack("<I", cells)  # mov rdi, base; mov ecx, cells
        + b"\x48\x03\x07\x48\x83\xc7\x40\xff\xc9\x75\xf5"  # add rax, [rdi]; add rdi, 64; dec ecx; jnz
        + b"\x48\x83\xf8" + bytes([cells - 2]) + b"\xb0\x07\x74\x02\xb0\x00\xe6\xf4\xf4"
        # cmp rax, cells - 2; mov al, 7; je +2; mov al, 0; out 0xf4, al; hlt
    )  # fmt: skip
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=2 << 20)
    work, recover = (
        MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),)) for image in (writer, reader)
    )
    return Question(work, recover, jobs=2)


def outcome(answer: Answer) -> tuple[object, ...]:
    found = answer.exploration
    results = [(one.leaf.path(), one.leaf.verdict, one.points) for one in found.results]
    return results, found.executed, found.incomplete_because, found.covered, [str(one) for one in answer.failures]


def test_workers_get_what_is_kept_and_bring_home_what_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, runs = recovery.MachineRecovery.run, []
    analysed = findings.Analyst.explain
    monkeypatch.setattr(recovery.MachineRecovery, "run", lambda *words: runs.append(1) or run(*words))
    # What the analysis runs itself is not kept.
    counted = list[int]()
    monkeypatch.setattr(findings.Analyst, "explain", lambda analyst: counted.append(len(runs)) or analysed(analyst))
    state, asked = tmp_path / "state", wide(tmp_path, 8)

    def explored(question: Question, kept: KeptRuns | None) -> tuple[object, ...]:
        runs.clear()
        with ThreadPoolExecutor(2) as executor, investigate(question, executor=executor, kept=kept) as answer:
            if kept is not None:
                state.write_bytes(kept.content())
            return outcome(answer)

    whole = explored(asked, None)
    explored(replace(asked, limits=Limits(100)), KeptRuns(str(state)))
    assert explored(asked, KeptRuns(str(state))) == whole
    assert counted == [256, 100, 156], "what one of the workers has run is not run again, by whichever it is asked for"
    assert explored(asked, KeptRuns(str(state))) == whole
    assert counted[-1] == 0


def test_so_do_processes(tmp_path: Path) -> None:
    words, state = ("list-broken", "--jobs", "2"), tmp_path / "state"
    whole = found("list-broken")
    assert found(*words, "--max-executions", "5", "--resume", state)["executed"] == 5
    assert found(*words, "--resume", state) == whole
