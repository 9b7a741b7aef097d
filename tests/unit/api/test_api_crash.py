"""``emu.crash``: the laboratory in a script."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import emu


@pytest.fixture
def dimms(tmp_path: Path) -> list[emu.Nvdimm]:
    return [emu.Nvdimm(tmp_path / "pool.img", size="2M")]


def test_an_answer_says_what_fails_writes_it_and_prints_nothing(
    dimms: list[emu.Nvdimm], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with emu.crash("commit-noflush", nvdimms=dimms, observe=[(0, 8), (64, 8)]) as answer:
        assert (answer.ok, answer.verdict, answer.status, answer.complete) == (False, "failed", 3, True)
        assert [failure["kind"] for failure in answer.failures] == ["missing flush"]
        assert all(len(outcome["observed"]) == 2 for outcome in answer.outcomes)
        assert answer.document["schema"] == "emu.crash/1"
        answer.write_html(tmp_path / "report.html")
        written = answer.export(tmp_path / "failures")
        assert answer.failures[0]["reproduce"] == written[0]
        (file,) = written[0]["files"]
    assert "missing flush" in (tmp_path / "report.html").read_text("utf-8")
    with emu.Machine("commit-noflush", nvdimms=[emu.Nvdimm(file)]) as machine:
        assert machine.run(timeout=60).status == 3, "the exported memory fails when it is booted"
    assert not (tmp_path / "pool.img").exists()
    for late in (lambda: answer.write_html(tmp_path / "late.html"), lambda: answer.export(tmp_path / "late")):
        with pytest.raises(emu.UsageError, match="this answer is closed"):
            late()
    assert answer.verdict == "failed"
    assert repr(answer) == "<emu.crash: failed, 1 failures>"
    assert capfd.readouterr() == ("", "")


def test_the_fixed_guest_is_ok_and_so_it_is_in_an_executor(dimms: list[emu.Nvdimm]) -> None:
    progress: list[tuple[int, int]] = []
    with emu.crash("commit-fixed", nvdimms=dimms, progress=lambda done, left: progress.append((done, left))) as answer:
        assert (answer.ok, answer.verdict, answer.status, answer.failures) == (True, "ok", 0, [])
    assert progress
    with ThreadPoolExecutor(1) as executor, emu.crash("commit-fixed", nvdimms=dimms, executor=executor) as other:
        assert other.document == answer.document


def test_no_failure_without_completeness_is_not_ok(dimms: list[emu.Nvdimm]) -> None:
    with emu.crash("commit-fixed", nvdimms=dimms, max_executions=1) as answer:
        assert (answer.ok, answer.verdict, answer.status, answer.complete) == (False, "incomplete", 10, False)


def test_options_reach_the_laboratory(dimms: list[emu.Nvdimm]) -> None:
    with (
        emu.crash("mapsync-broken", nvdimms=dimms) as right,
        emu.crash("mapsync-broken", nvdimms=dimms, media="dax") as lost,
    ):
        assert (right.ok, lost.verdict) == (True, "failed")
    with emu.crash("commit-noflush", nvdimms=dimms, persistence="cpu") as saved:
        assert (saved.ok, saved.document["model"]["domain"]) == (True, "eadr")
    with emu.crash("commit-noflush", nvdimms=dimms, domain="eadr", recover="hello", recover_append="x") as other:
        assert other.document["recover"].endswith("hello.elf")


def test_what_is_known_does_not_fail_and_reports_are_written(dimms: list[emu.Nvdimm], tmp_path: Path) -> None:
    rules = tmp_path / "known.txt"
    rules.write_text("kind=missing flush\n")
    with emu.crash("commit-noflush", nvdimms=dimms) as before:
        before.write_sarif(tmp_path / "a.sarif")
        before.write_junit(tmp_path / "a.xml")
    assert json.loads((tmp_path / "a.sarif").read_text())["runs"][0]["results"][0]["ruleId"] == "missing-flush"
    assert '<failure message="the line' in (tmp_path / "a.xml").read_text()
    (tmp_path / "old.json").write_text(json.dumps(before.document))
    for known in ({"suppress": rules}, {"baseline": before.document}, {"baseline": tmp_path / "old.json"}):
        with emu.crash("commit-noflush", nvdimms=dimms, **known) as answer:
            assert (answer.ok, answer.failures, len(answer.document["ignored"]["failures"])) == (True, [], 1)
            answer.write_html(tmp_path / "a.html")
            answer.export(tmp_path / "failures")
            assert answer.document["ignored"]["failures"][0]["failure"]["reproduce"]
        page = (tmp_path / "a.html").read_text("utf-8")
        assert "No new failure" in page
        assert "Known, and ignored" in page
        assert "Why it fails" not in page
    with pytest.raises(emu.HostError):
        emu.crash("commit-noflush", nvdimms=dimms, suppress=tmp_path / "none.txt")


def test_the_files_are_not_changed_and_not_written_over(dimms: list[emu.Nvdimm], tmp_path: Path) -> None:
    pool = tmp_path / "pool.img"
    pool.write_bytes(bytes(2 << 20))
    before = hashlib.sha256(pool.read_bytes()).digest()
    with emu.crash("commit-noflush", nvdimms=dimms) as answer:
        with pytest.raises(emu.UsageError, match="is the same file as"):
            answer.write_html(pool)
        with pytest.raises(emu.HostError):
            answer.write_html(tmp_path)
    assert hashlib.sha256(pool.read_bytes()).digest() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"max_executions": 0}, "--max-executions must be at least 1"),
        ({"timeout": 0}, "--timeout and --time-limit are seconds"),
        ({"media": "paper"}, "--media: 'paper' is not accepted"),
        ({"domain": "pdr"}, "--domain: 'pdr' is not accepted"),
        ({"observe": [(2 << 20, 8)]}, "--observe 2097152:8 lies outside"),
        ({"nvdimms": []}, "there is no NVDIMM to lose anything"),
        ({"recover": "no-such-guest"}, "no image 'no-such-guest'"),
    ],
)
def test_a_wrong_argument_gives_the_words_of_the_command(
    arguments: dict[str, object], words: str, dimms: list[emu.Nvdimm], tmp_path: Path
) -> None:
    with pytest.raises(emu.UsageError, match=words):
        emu.crash("commit-fixed", **{"nvdimms": dimms, **arguments})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_keyboard_interrupt(dimms: list[emu.Nvdimm], tmp_path: Path) -> None:
    threading.Timer(0.5, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        emu.crash("count", nvdimms=[emu.Nvdimm(tmp_path / "c.img", size="16M")])
