"""Release notes are collected from fragments, and what is under which licence is written down."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COLLECT = runpy.run_path(str(ROOT / "changes" / "collect.py"))
OLD = "# Changelog\n\n## Unreleased\n\n* waited\n\n## 0.1.0\n\n* first\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "changes").mkdir()
    for name in ("collect.py", "README.md"):
        shutil.copy(ROOT / "changes" / name, tmp_path / "changes")
    (tmp_path / "CHANGELOG.md").write_text(OLD)
    (tmp_path / "changes" / "b.md").write_text("* second\n  line\n")
    (tmp_path / "changes" / "a.md").write_text("* one\n* two\n")
    return tmp_path


def collect(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "changes/collect.py", *words], cwd=project, capture_output=True, text=True)


def test_a_release_takes_all_fragments(project: Path) -> None:
    assert collect(project, "0.2.0", "2026-12-01").returncode == 0
    assert (project / "CHANGELOG.md").read_text() == (
        "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-12-01)\n\n* waited\n* one\n* two\n* second\n  line\n\n"
        "## 0.1.0\n\n* first\n"
    )
    assert {path.name for path in (project / "changes").iterdir()} == {"README.md", "collect.py"}
    nothing = collect(project, "0.3.0", "2026-12-02")
    assert (nothing.returncode, nothing.stderr) == (1, "collect: there is nothing to release\n")


def test_a_draft_changes_nothing(project: Path) -> None:
    draft = collect(project, "--draft")
    assert "## next (not yet)\n\n* waited\n* one\n" in draft.stdout
    assert (project / "CHANGELOG.md").read_text() == OLD
    assert (project / "changes" / "a.md").exists()


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (("0.1.0", "2026-12-01"), "* one\n", "has a section for 0.1.0 already"),
        (("0.2.0", "2026-12-01"), "one\n", "release notes are a list"),
        (("0.2.0",), "* one\n", "usage:"),
        (("0.2.0", "tomorrow"), "* one\n", "usage:"),
    ],
)
def test_what_cannot_be_released_is_left_as_it_is(project: Path, words: tuple[str, ...], text: str, said: str) -> None:
    (project / "changes" / "a.md").write_text(text)
    refused = collect(project, *words)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert (project / "CHANGELOG.md").read_text() == OLD
    assert (project / "changes" / "b.md").exists()


def test_the_fragments_of_this_project_can_be_collected() -> None:
    waiting = [path.read_text("utf-8") for path in COLLECT["fragments"](ROOT / "changes")]
    assert COLLECT["released"]((ROOT / "CHANGELOG.md").read_text("utf-8"), waiting, "next", "today")


def test_every_dependency_is_listed_with_its_licence() -> None:
    listed = dict(re.findall(r"^\| (\w+) \|.*\| (\S+) \|$", (ROOT / "THIRD-PARTY.md").read_text("utf-8"), re.MULTILINE))
    listed.pop("package", None)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {str(re.match(r"[\w-]+", each)[0]) for each in project["dependencies"]}  # type: ignore[index]
    assert needed <= set(listed)
    said = metadata.metadata("cffi")["License-Expression"]
    if said is not None:
        assert listed["cffi"] == said
    assert set(project["license-files"]) == {"LICENSE", "THIRD-PARTY.md"}
