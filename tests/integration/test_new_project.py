"""``emu new``: the project builds, its test finds the planted bug, and the fix that its README speaks of mends it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.run_emu import emu

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (on Debian: apt-get install gcc)")


def run_pytest(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "source"), [("--c", "my-log.c"), ("--asm", "my-log.S")])
def test_a_project_fails_on_its_bug_and_passes_with_the_fix(tmp_path: Path, kind: str, source: str) -> None:
    folder = tmp_path / "my-log"
    assert emu("new", folder, kind).status == 0
    assert not any("NAME" in path.name or "MODULE" in path.name for path in folder.rglob("*"))
    broken = run_pytest(folder)
    assert broken.returncode == 1, broken.stdout
    assert "1 failed, 1 passed" in broken.stdout
    assert "missing flush" in broken.stdout
    text = (folder / source).read_text()
    comment = re.search(r"/\* THE BUG: .*?:\n(.*?)\n *\*/", text, re.DOTALL)
    assert comment
    fix = re.sub(r"^ *\* ", "", comment[1], flags=re.MULTILINE)
    (folder / source).write_text(text.replace(comment[0], fix))
    mended = run_pytest(folder)
    assert mended.returncode == 0, mended.stdout
    assert "2 passed" in mended.stdout


@pytest.mark.parametrize("kind", ["--c", "--linux"])
def test_make_test_says_that_it_needs_pytest(tmp_path: Path, kind: str) -> None:
    made = emu("new", tmp_path / "log", kind)
    assert "&& make crash" in made.out, "what comes first needs nothing but emu"
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    path = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    tried = subprocess.run(["make", "-s", "test"], cwd=tmp_path / "log", capture_output=True, text=True, env=path)
    assert (tried.returncode, tried.stdout) == (2, "make test needs pytest: pip install pytest\n")


def test_a_bad_name_makes_nothing(tmp_path: Path) -> None:
    for name in ("", "1st", "two words", "..", "a" * 65):
        result = emu("new", f"{tmp_path}/{name}")
        assert result.status == 2, (name, result)
    (tmp_path / "there").mkdir()
    assert emu("new", tmp_path / "there").status == 2
    assert emu("new", tmp_path / "absent" / "name").status == 4
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
