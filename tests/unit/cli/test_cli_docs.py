"""The reference pages are what the code says."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", ["options", "commands", "cpu-features"])
def test_reference_page_is_up_to_date(page: str) -> None:
    generate = runpy.run_path(str(DOCS / "generate.py"))
    written = (DOCS / "reference" / f"{page}.md").read_text()
    assert written == generate[f"{page.replace('-', '_')}_page"](), "run: python docs/generate.py"
