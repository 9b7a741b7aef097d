"""What the pages show is what the commands print today."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

CAPTURES = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "captures.py"))


@pytest.mark.parametrize("page", CAPTURES["PAGES"])
def test_page_shows_real_output(page: str) -> None:
    for path, text in CAPTURES["build"](page):
        assert path.read_text("utf-8") == text, f"{path.name} is behind; run: python docs/captures.py"
