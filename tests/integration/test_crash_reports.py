"""What continuous integration gets of ``emu crash``: SARIF, JUnit, suppressions, baselines, and diff."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run_emu import Result, emu

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pool(tmp_path: Path) -> list[str]:
    return ["--nvdimm", f"file={tmp_path}/none.img,size=2M"]


def saved(tmp_path: Path, guest: str, pool: list[str], *words: object) -> Path:
    path = tmp_path / f"{guest}.json"
    path.write_text(emu("crash", guest, *pool, "--json", *words).out)
    return path


def rules(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "known.txt"
    path.write_text(text)
    return path


def text_of(line: int) -> str:
    """A line of commit.c."""
    return (ROOT / "guest/crash/commit.c").read_text().splitlines()[line - 1].strip()


def test_sarif_shows_the_cause_at_the_source_line(tmp_path: Path, pool: list[str]) -> None:
    done = emu("crash", "commit-noflush", *pool, "--sarif", tmp_path / "a.sarif", "--warnings")
    assert done.status == 3
    log = json.loads((tmp_path / "a.sarif").read_text())
    (run,) = log["runs"]
    cause, *warnings = run["results"]
    where = cause["locations"][0]["physicalLocation"]
    assert (cause["ruleId"], cause["level"]) == ("missing-flush", "error")
    assert where["artifactLocation"]["uri"].endswith("guest/crash/commit.c")
    assert text_of(where["region"]["startLine"]) == "*value = expected(number);"
    assert where["region"]["snippet"]["text"] == "*value = expected(number);"
    (persisted,) = cause["relatedLocations"]
    assert text_of(persisted["physicalLocation"]["region"]["startLine"]) == "pool->committed = number + 1;"
    assert "value 0 is committed but reads 0" in cause["message"]["text"]
    assert {(item["ruleId"], item["level"]) for item in warnings} == {
        ("store-not-flushed-at-the-end", "warning"), ("redundant-fence", "note"),
    }  # fmt: skip
    assert {item["ruleId"] for item in run["results"]} == {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    (invocation,) = run["invocations"]
    assert (invocation["exitCode"], invocation["executionSuccessful"]) == (3, True)
    assert invocation["commandLine"].startswith("emu crash commit-noflush --nvdimm ")


def test_sarif_paths_are_relative_below_the_working_directory(
    tmp_path: Path, pool: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    emu("crash", "commit-noflush", *pool, "--sarif", tmp_path / "a.sarif")
    (cause,) = json.loads((tmp_path / "a.sarif").read_text())["runs"][0]["results"]
    file = cause["locations"][0]["physicalLocation"]["artifactLocation"]
    assert file == {"uri": "guest/crash/commit.c", "uriBaseId": "%SRCROOT%"}


def test_sarif_of_a_guest_without_names_points_into_the_image(tmp_path: Path) -> None:
    """mov rdi, base; store 1 at 64, then at 0; a recovery that fails when the first is missing."""
    rdi = bytes.fromhex("48bf0000000001000000")
    image, recovery = tmp_path / "a guest.bin", tmp_path / "r.bin"
    image.write_bytes(rdi + bytes.fromhex("48c7474001000000" + "48c70701000000" + "f4"))
    recovery.write_bytes(rdi + bytes.fromhex("48833f01750b48837f40017404b007e6f4f4"))
    words = ["--recover", recovery, "--nvdimm", f"file={tmp_path}/p.img,size=2M", "--sarif", tmp_path / "a.sarif"]
    assert emu("crash", image, *words, "--junit", tmp_path / "a.xml").status == 3
    (cause,) = json.loads((tmp_path / "a.sarif").read_text())["runs"][0]["results"]
    where = cause["locations"][0]["physicalLocation"]
    assert where["artifactLocation"]["uri"].endswith("/a%20guest.bin")
    assert where["address"] == {"absoluteAddress": 0x100000 + len(rdi), "kind": "instruction"}
    case = ET.parse(tmp_path / "a.xml").getroot().findall(".//testcase")[1]
    assert "file" not in case.attrib


def cases(path: Path) -> dict[str, str]:
    """The test cases of a JUnit file by name, with what they came to."""
    root = ET.parse(path).getroot()
    (suite,) = root.findall("testsuite")
    found = {case.attrib["name"]: next((item.tag for item in case), "passed") for case in suite.findall("testcase")}
    came = list(found.values())
    assert int(suite.attrib["tests"]) == len(came)
    assert (int(suite.attrib["failures"]), int(suite.attrib["errors"]), int(suite.attrib["skipped"])) == (
        came.count("failure"), came.count("error"), came.count("skipped"),
    )  # fmt: skip
    return found


def test_junit_has_a_case_for_the_whole_and_one_for_each_cause(tmp_path: Path, pool: list[str]) -> None:
    xml = tmp_path / "a.xml"
    assert emu("crash", "commit-noflush", *pool, "--junit", xml).status == 3
    (whole, first), (cause, second) = cases(xml).items()
    assert (whole, first, second) == ("every crash state recovers", "failure", "failure")
    assert text_of(int(cause.removeprefix("1. missing flush at commit.c:"))) == "*value = expected(number);"
    case = ET.parse(xml).getroot().findall(".//testcase")[1]
    assert case.attrib["file"].endswith("guest/crash/commit.c")
    assert case.attrib["line"] == cause.rpartition(":")[2]
    assert "value 0 is committed but reads 0" in (case[0].text or "")
    assert emu("crash", "commit-fixed", *pool, "--junit", xml).status == 0
    assert cases(xml) == {whole: "passed"}
    known = rules(tmp_path, "kind=missing flush\n")
    assert emu("crash", "commit-noflush", *pool, "--junit", xml, "--suppress", known).status == 0
    assert cases(xml) == {whole: "passed", cause: "skipped"}
    assert emu("crash", "commit-fixed", *pool, "--junit", xml, "--max-executions", "2").status == 10
    assert cases(xml) == {whole: "error"}


def test_an_output_is_no_input_and_no_other_output(tmp_path: Path, pool: list[str]) -> None:
    known = rules(tmp_path, "kind=missing flush\n")
    for words in (
        ["--sarif", "x", "--junit", "x"],
        ["--sarif", "x", "--html", "x"],
        ["--suppress", known, "--sarif", known],
        ["--junit", tmp_path / "none.img"],
        ["--sarif", tmp_path],
        ["--junit", tmp_path / "nowhere" / "a.xml"],
    ):
        done = emu("crash", "commit-fixed", *pool, *words)
        assert done.status in (2, 4), words
        assert done.out == ""
    assert known.read_text() == "kind=missing flush\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known.txt"]


@pytest.mark.parametrize(
    "rule",
    [
        "kind=missing flush",
        "kind=missing*,function=main",
        "source=commit.c:*",
        "source=*guest/crash/commit.c:36",
        "# a comment\n\n  function = ma?n  \n",
    ],
)
def test_what_is_suppressed_does_not_fail_and_is_counted(rule: str, tmp_path: Path, pool: list[str]) -> None:
    words = [*pool, "--suppress", rules(tmp_path, rule)]
    result = emu("crash", "commit-noflush", *words, "--json").document
    assert (result["status"], result["verdict"], result["headline"]) == (0, "ok", "No new failure")
    assert result["failures"] == []
    assert result["why"] == ["1 cause is ignored: 1 by a suppression"]
    (gone,) = result["ignored"]["failures"]
    assert gone["failure"]["kind"] == "missing flush"
    assert [rule["matched"] for rule in result["ignored"]["rules"]] == [1]
    lines = emu("crash", "commit-noflush", *words).out.splitlines()
    assert lines[:2] == ["ok: no new failure", "  1 cause is ignored: 1 by a suppression"]
    assert "ignored: 1 cause, 0 warnings" in lines


def test_what_no_rule_fits_still_fails(tmp_path: Path, pool: list[str]) -> None:
    text = "kind=missing fence\nkind=missing flush,function=other\nsource=commit.c:1\nkind=redundant*\n"
    done = emu("crash", "commit-noflush", *pool, "--suppress", rules(tmp_path, text), "--warnings", "--json")
    assert (done.status, len(done.document["failures"])) == (3, 1)
    assert [warning["kind"] for warning in done.document["warnings"]] == ["store not flushed at the end"]
    assert done.document["ignored"]["warnings"] == 1
    assert [rule["matched"] for rule in done.document["ignored"]["rules"]] == [0, 0, 0, 1]


@pytest.mark.parametrize("text", ["kind", "colour=red", "kind=", "kind=a,kind=b", "kind=a;function=b", "\xff=1"])
def test_a_wrong_rule_is_refused_with_its_line(text: str, tmp_path: Path, pool: list[str]) -> None:
    done = emu("crash", "commit-fixed", *pool, "--suppress", rules(tmp_path, f"# known\n{text}\n"))
    assert (done.status, done.out) == (2, "") or text == "kind=a;function=b"
    if text == "kind=a;function=b":
        assert done.status == 0, "a pattern that fits nothing"
    else:
        assert "known.txt:2" in done.errors[0]


def test_only_causes_that_the_baseline_has_not_fail(tmp_path: Path, pool: list[str]) -> None:
    old = saved(tmp_path, "commit-noflush", pool)
    same = emu("crash", "commit-noflush", *pool, "--baseline", old, "--json")
    assert (same.status, same.document["verdict"], same.document["failures"]) == (0, "ok", [])
    assert same.document["ignored"]["baseline"] == str(old)
    assert same.document["ignored"]["failures"][0]["by"] == "baseline"
    other = emu("crash", "commit-nofence", *pool, "--baseline", old, "--json")
    assert (other.status, len(other.document["failures"])) == (3, 1)
    # What a baseline ignored is in the next baseline too.
    again = tmp_path / "again.json"
    again.write_text(same.out)
    assert emu("crash", "commit-noflush", *pool, "--baseline", again).status == 0


def test_a_baseline_does_not_make_an_incomplete_run_complete(tmp_path: Path, pool: list[str]) -> None:
    old = saved(tmp_path, "commit-noflush", pool)
    done = emu("crash", "commit-noflush", *pool, "--baseline", old, "--max-executions", "5", "--json")
    assert done.document["ignored"]["failures"]
    assert done.document["complete"] is False
    assert done.document["failures"] == []
    assert (done.status, done.document["verdict"]) == (10, "incomplete")


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "is no document"), ('{"schema": "emu.run/1"}', "kind emu.run/1"), ("[1]", "is no document"),
     ('{"schema": "emu.crash/1", "failures": [{}], "ignored": null}', "is no document")],
)  # fmt: skip
def test_a_wrong_baseline_is_refused(content: str, says: str, tmp_path: Path, pool: list[str]) -> None:
    (tmp_path / "old.json").write_text(content)
    for done in (
        emu("crash", "commit-fixed", *pool, "--baseline", tmp_path / "old.json"),
        emu("crash", "diff", tmp_path / "old.json", tmp_path / "old.json"),
    ):
        assert (done.status, done.out) == (2, "")
        assert says in done.errors[0]
    assert emu("crash", "diff", tmp_path / "none.json", tmp_path / "none.json").status == 4


def test_diff_says_what_is_new_and_what_is_gone(tmp_path: Path, pool: list[str]) -> None:
    broken, other, fixed = (
        saved(tmp_path, guest, pool) for guest in ("commit-noflush", "commit-nofence", "commit-fixed")
    )

    def diff(old: Path, new: Path) -> tuple[Result, dict[str, Any]]:
        return emu("crash", "diff", old, new), emu("crash", "diff", old, new, "--json").document

    for old, new, status, counts in (
        (broken, other, 3, (1, 1, 0)),
        (broken, fixed, 0, (0, 1, 0)),
        (fixed, broken, 3, (1, 0, 0)),
        (broken, broken, 0, (0, 0, 1)),
    ):
        done, found = diff(old, new)
        assert (done.status, found["status"]) == (status, status)
        assert tuple(len(found[name]) for name in ("added", "removed", "same")) == counts
        titles = zip(("new in B", "gone in B", "in both"), counts, strict=True)
        assert [line for line in done.out.splitlines() if line.startswith(("new", "gone", "in both"))] == [
            f"{title}: {count}" for title, count in titles
        ]
    assert "missing fence" in diff(broken, other)[0].out.partition("new in B")[2].partition("gone in B")[0]
