"""The reference pages are what the code says."""

import runpy
from graphlib import CycleError
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", ["options", "commands", "cpu-features", "documents"])
def test_reference_page_is_up_to_date(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    generate = runpy.run_path(str(DOCS / "generate.py"))
    written = (DOCS / "reference" / f"{page}.md").read_text()
    assert written == generate[f"{page.replace('-', '_')}_page"](), "run: python docs/generate.py"


def test_manual_page_is_up_to_date() -> None:
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert (DOCS / "man" / "emu.1").read_text() == generate["manual_page"](), "run: python docs/generate.py"


def test_drawing_of_the_imports_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    generate = runpy.run_path(str(DOCS / "generate.py"))
    assert (DOCS / "architecture.md").read_text() == generate["architecture_page"](), "run: python docs/generate.py"


def test_a_circle_of_imports_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    imports = import_module("imports")
    monkeypatch.setattr(imports, "rooms", lambda: {"cli": {"machine"}, "machine": {"cli"}})
    with pytest.raises(CycleError):
        imports.drawing()


def test_each_key_of_the_documents_says_what_it_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that say it by their values, and those that only hold others."""
    monkeypatch.syspath_prepend(str(DOCS))
    schemas = import_module("schemas")
    silent = []
    for path in schemas.SCHEMAS.glob("*.schema.json"):
        rows = list(schemas.Reader().document(schemas.loaded(path.name)))
        assert [row.path for row in rows].count("schema") >= 1
        silent += [
            f"{path.name}: {row.path}"
            for row in rows
            if not row.meaning and not row.kind.startswith(("`", "object", "list of object", "null or object"))
        ]
    assert silent == []
