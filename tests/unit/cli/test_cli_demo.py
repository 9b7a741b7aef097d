"""The demonstrations' own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.cli import demo
from emu.cli.main import main


def test_a_demonstration_begins_without_the_files_of_the_last_and_touches_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo" / "chapters").mkdir(parents=True)
    (tmp_path / "demo" / "thesis.txt").write_text("years of work")
    (tmp_path / "demo" / "pool.img").touch()
    seen: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(
        demo._DEMOS, "crash", lambda: seen.append(sorted(path.name for path in Path("demo").iterdir())) or 0
    )
    assert main(["demo", "crash"]) == 0
    assert seen == [["chapters", "thesis.txt"]]
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "years of work"
