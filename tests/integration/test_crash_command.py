"""``emu crash`` from the outside: its JSON, its statuses, the planted bugs and what hostile guests get."""

from __future__ import annotations

import struct
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from emu import guest
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.errors import HostError
from emu.guest.litmus import assemble, parse_step
from emu.persistence.lab import jobs
from emu.persistence.lab.investigation import Question, investigate
from emu.persistence.model.rules import Media, Rules
from emu.persistence.report.document import document
from emu.persistence.report.symbols import Symbols
from emu.units import GIB, MIB
from tests.integration.run_emu import emu

BASE = 4 * GIB
CRASH_GUESTS = [image for image in guest.images() if image.group == "crash"]


def crash(*words: object) -> tuple[int, dict[str, Any]]:
    done = emu("crash", *words, "--json", timeout=120)
    assert not done.errors
    return done.status, done.document


def program(tmp_path: Path, text: str) -> Path:
    image = tmp_path / "guest.bin"
    image.write_bytes(assemble(tuple(parse_step(step.strip()) for step in text.split(";")), BASE))
    return image


def code(tmp_path: Path, raw: bytes, name: str = "guest.bin") -> Path:
    image = tmp_path / name
    image.write_bytes(b"\x48\xbf" + struct.pack("<Q", BASE) + raw)  # mov rdi, base
    return image


def machine(image: Path | str, file: Path) -> MachineConfig:
    backend = BackendConfig(id="m", path=str(file), size=2 * MIB, share=True)
    return MachineConfig(image=str(image), slots=1, nvdimms=(NvdimmConfig(backend=backend),), ram_size=32 * MIB)


def test_document_has_the_contract_and_the_file_stays_as_it_was(tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    pool.write_bytes(b"\7" * 8 + bytes(2 * MIB - 8))
    before = pool.read_bytes()
    image = program(tmp_path, "x=1; CW x; SF; y=1")
    status, result = crash(image, "--nvdimm", f"file={pool}", "--observe", "0:8", "--observe", "64")
    assert status == 0
    assert pool.read_bytes() == before
    assert result["schema"] == "emu.crash/1"
    assert result["model"]["domain"] == "adr"
    assert result["events"] == {"stores": 2, "nt_stores": 0, "flushes": 1, "fences": 1}
    assert (result["crash_points"], result["eager"], result["distinct"]) == (2, 4, 3)
    assert result["complete"] is True
    assert result["incomplete_because"] == []
    assert result["executed"] == 1
    old, new, zero = "07" * 8, "01" + "00" * 7, "00" * 8
    assert {tuple(outcome["observed"]): outcome["crash_points"] for outcome in result["outcomes"]} == {
        (old, zero): [2],
        (new, zero): [2, 4],
        (new, new): [4],
    }
    assert all(outcome["verdict"] == "ok" for outcome in result["outcomes"])
    assert result["failures"] == []


def test_missing_file_is_not_created(tmp_path: Path) -> None:
    image = program(tmp_path, "x=1")
    status, result = crash(image, "--nvdimm", f"file={tmp_path}/none.img,size=2M", "--observe", "0:1")
    assert status == 0
    assert {outcome["observed"][0] for outcome in result["outcomes"]} == {"00", "01"}
    assert not (tmp_path / "none.img").exists()


@pytest.mark.parametrize("image", CRASH_GUESTS, ids=lambda image: image.name)
def test_bundled_guest_shows_exactly_its_planted_bug(image: guest.GuestImage, tmp_path: Path) -> None:
    question = Question(
        machine(image.path, tmp_path / "pool.img"),
        machine(image.path, tmp_path / "pool.img"),
        Rules(media=Media(image.media or "dax-sync")),
        feed_printed=image.feed_printed,
    )
    answer = investigate(question)
    assert answer.complete
    names = {name for failure in answer.failures for name in failure.names}
    assert (image.planted in names) if image.planted else not names
    assert answer.failed is bool(image.planted)
    for failure in answer.failures:
        assert failure.lost or failure.lost_pages


def test_failure_names_store_place_and_cause_and_its_memory_boots(tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    status, result = crash("commit-noflush", "--nvdimm", f"file={pool},size=2M", "--export", tmp_path / "out")
    assert status == 3
    (failure,) = result["failures"]
    assert failure["kind"] == "missing flush"
    assert failure["names"] == ["missing flush", "persistence ordering"]
    assert failure["lost"][0]["offset"] == 128
    assert failure["lost"][0]["source"].startswith("commit.c:")
    assert failure["lost"][0]["symbol"].startswith("main")
    assert failure["lost"][0]["instruction"].startswith("mov")
    assert failure["persisted"]["offset"] == 64
    assert failure["crash_point"] in failure["crash_points"]
    assert "committed" in failure["verdict"]["output"]
    words = failure["reproduce"]["command"].split()
    assert words[:2] == ["emu", "run"]
    again = emu(*words[1:])
    assert again.status == failure["verdict"]["status"] == 3
    assert failure["verdict"]["output"].strip() in again.out


def test_recover_runs_another_image(tmp_path: Path) -> None:
    image = program(tmp_path, "x=1; y=1")
    # recovery: if x is 0 and y is 1, write 1 to the exit port
    check = bytes.fromhex("488b07488b4f40") + bytes.fromhex("4885c07509") + bytes.fromhex("4885c97404b001e6f4f4")
    recover = code(tmp_path, check, "recover.bin")
    words = [image, "--recover", recover, "--nvdimm", f"file={tmp_path}/p,size=2M", "--observe", "0", "--observe", "64"]
    status, result = crash(*words)
    assert status == 3
    verdicts = {tuple(text[:2] for text in item["observed"]): item["verdict"] for item in result["outcomes"]}
    assert verdicts == {("00", "00"): "ok", ("00", "01"): "failed", ("01", "00"): "ok", ("01", "01"): "ok"}
    assert result["executed"] == 4
    assert result["failures"][0]["kind"] == "missing flush"
    assert crash(*words, "--domain", "eadr")[0] == 0


def test_results_do_not_depend_on_jobs_or_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_WORTH_SENDING", 1)
    path = next(image.path for image in CRASH_GUESTS if image.name == "level-broken")
    config = machine(path, tmp_path / "pool.img")
    one = document(investigate(Question(config, config)), Symbols())
    with ThreadPoolExecutor(2) as executor:
        threaded = document(investigate(Question(config, config), executor=executor), Symbols())
    two = document(investigate(Question(config, config, jobs=2)), Symbols())
    assert one == two == threaded


@pytest.mark.parametrize(
    ("raw", "words", "because", "verdict"),
    [
        # stores once, then loops
        (b"\x48\x89\x07\xeb\xfe", ["--timeout", "5"], "still running", (14, "workload failed")),
        # stores without end: that emu cut it short is no fault of its own
        (b"\x48\xff\x07\xeb\xfb", ["--max-events", "2000"], "workload was cut short", (10, "incomplete")),
    ],
)
def test_endless_workload_gives_a_partial_result(
    tmp_path: Path, raw: bytes, words: list[str], because: str, verdict: tuple[int, str]
) -> None:
    recover = code(tmp_path, b"\xf4", "recover.bin")
    status, result = crash(code(tmp_path, raw), "--recover", recover, "--nvdimm", f"file={tmp_path}/p,size=2M", *words)
    assert (status, result["verdict"]) == verdict
    assert result["complete"] is False
    assert because in result["incomplete_because"][0]
    assert result["events"]["stores"] > 0


def test_endless_recovery_is_a_failure_with_a_bound(tmp_path: Path) -> None:
    image = program(tmp_path, "x=1")
    recover = code(tmp_path, b"\x48\x8b\x07\x48\x85\xc0\x75\xf8\xf4", "recover.bin")  # loops while x is not 0
    words = [image, "--recover", recover, "--nvdimm", f"file={tmp_path}/p,size=2M", "--recovery-blocks", "10000"]
    status, result = crash(*words)
    assert status == 3
    assert result["failures"][0]["verdict"]["reason"] == "instruction-budget"
    assert result["complete"] is True


def test_recovery_that_dies_is_a_failure(tmp_path: Path) -> None:
    image = program(tmp_path, "x=1")
    recover = code(tmp_path, b"\x48\x8b\x07\x48\x85\xc0\x74\x02\x0f\x0b\xf4", "recover.bin")  # ud2 if x
    status, result = crash(image, "--recover", recover, "--nvdimm", f"file={tmp_path}/p,size=2M")
    assert status == 3
    assert result["failures"][0]["verdict"]["reason"] == "triple-fault"


def test_limits_make_the_result_incomplete(tmp_path: Path) -> None:
    words = ["level-broken", "--nvdimm", f"file={tmp_path}/p,size=2M", "--max-executions", "3"]
    _, result = crash(*words)
    assert result["executed"] == 3
    assert result["complete"] is False
    assert "executions (3)" in result["incomplete_because"][0]
    assert any(outcome["verdict"] is None for outcome in result["outcomes"])


def test_crash_during_recovery_is_found_at_depth_2_only(tmp_path: Path) -> None:
    # Recovery: if x is 1 and y is 0, store y = 2 then y = 1 (without need); it fails on y = 2.
    image = program(tmp_path, "x=1; FL x")
    raw = (
        bytes.fromhex("488b4f40")  # mov rcx, [rdi+64]
        + bytes.fromhex("4883f9027504b001e6f4")  # cmp rcx, 2; jne +4; out 0xf4, 1
        + bytes.fromhex("48c7474002000000")  # mov qword [rdi+64], 2
        + bytes.fromhex("48c7474001000000")  # mov qword [rdi+64], 1
        + b"\xf4"
    )  # fmt: skip
    words = [image, "--recover", code(tmp_path, raw, "recover.bin"), "--nvdimm", f"file={tmp_path}/p,size=2M"]
    assert crash(*words)[0] == 0
    status, result = crash(*words, "--depth", "2")
    assert status == 3
    failure = result["failures"][0]
    assert failure["kind"] == "persistence atomicity"
    assert "during recovery" in failure["explanation"]
    # What is to be repaired is in recovery: its two stores must take effect together.
    assert [store["data"] for store in failure["in_recovery"]["lost"]] == ["0100000000000000"]
    assert failure["in_recovery"]["persisted"]["data"] == "0200000000000000"


def test_warnings_are_off_by_default(tmp_path: Path) -> None:
    image = program(tmp_path, "x=1; CW x; CW x; SF; SF; x=1; x=2; FL y; z=1; CW z")
    words = [image, "--nvdimm", f"file={tmp_path}/p,size=2M"]
    assert crash(*words)[1]["warnings"] == []
    kinds = sorted(item["kind"] for item in crash(*words, "--warnings")[1]["warnings"])
    assert kinds == [
        "flush of clean line", "overwrite before persist", "redundant fence", "redundant flush",
        "store not fenced at the end", "store not flushed at the end", "store not flushed at the end",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--observe", "2M"], "outside of the NVDIMM"),
        (["--observe", "0:0"], "outside of the NVDIMM"),
        (["--observe", "x"], "not a size"),
        (["--depth", "0"], "--depth must be at least 1"),
        (["--timeout", "0"], "seconds, more than 0"),
        (["--granularity", "block"], "for a Linux guest"),
    ],
)
def test_usage_errors(tmp_path: Path, words: list[str], says: str) -> None:
    done = emu("crash", program(tmp_path, "x=1"), "--nvdimm", f"file={tmp_path}/p,size=2M", *words)
    assert done.status == 2
    assert says in "\n".join(done.errors)


def test_no_nvdimm_is_said(tmp_path: Path) -> None:
    done = emu("crash", program(tmp_path, "x=1"))
    assert done.status == 2
    assert "NVDIMM" in done.errors[0]


def test_terminal_report_begins_with_the_verdict(tmp_path: Path) -> None:
    done = emu("crash", "commit-nofence", "--nvdimm", f"file={tmp_path}/p,size=2M")
    assert done.status == 3
    lines = done.out.splitlines()
    assert lines[0].startswith("FAILED")
    assert any(line.startswith("eager 21 / distinct 14 / executed 10 / complete yes") for line in lines)
    assert any("missing fence" in line for line in lines)


def test_a_worker_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(ThreadPoolExecutor):
        """As a process pool one of whose workers was killed."""

        def __init__(self, workers: int, mp_context: object, initializer: object) -> None:
            super().__init__(workers)

        def submit(self, *_: object, **__: object) -> NoReturn:
            raise BrokenExecutor("a process was terminated abruptly")

    image = guest.find("list-broken")
    assert image is not None
    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Dying)
    monkeypatch.setattr(jobs, "_WORTH_SENDING", 1)
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=16 * MIB)
    config = MachineConfig(image=str(image.path), slots=1, nvdimms=(NvdimmConfig(backend=backend),))
    with pytest.raises(HostError, match="worker process died"):
        investigate(Question(config, config, jobs=2))


def test_an_nvdimm_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool").write_bytes(bytes(2 << 20))
    without = emu("crash", "commit-noflush", "--nvdimm", "size=2M", "--json").document
    with_one = emu("crash", "commit-noflush", "--nvdimm", "file=pool", "--json").document
    assert without["failures"] == with_one["failures"] != []
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("size=2M,sync=on", "sync is about a file, and none is given"),
        ("label-size=128K", "no file given"),
        ("file=,size=2M", "no file given"),
    ],
)
def test_without_a_file_its_size_is_needed_and_nothing_about_a_file(text: str, what: str) -> None:
    result = emu("crash", "commit-noflush", "--nvdimm", text)
    assert result.status == 2
    assert what in result.errors[0]
    assert "no file given" in emu("run", "hello", "--nvdimm", text.replace(",sync=on", "")).errors[0]
