"""Puts the release notes of changes/*.md into CHANGELOG.md: python changes/collect.py VERSION DATE, or --draft."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
CHANGELOG = FOLDER.parent / "CHANGELOG.md"
_UNRELEASED = re.compile(r"^## Unreleased\n\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_USAGE = "usage: python changes/collect.py VERSION YYYY-MM-DD | --draft"


def fragments(folder: Path) -> list[Path]:
    """The notes that wait, by name. ValueError for one that is no list."""
    found = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    for path in found:
        if not path.read_text("utf-8").startswith("* "):
            raise ValueError(f"{path}: release notes are a list; the first line begins with '* '")
    return found


def released(changelog: str, notes: list[str], version: str, date: str) -> str:
    """``changelog`` with a section for ``version``, which takes what was unreleased, and ``notes``."""
    waiting = _UNRELEASED.search(changelog)
    if waiting is None:
        raise ValueError("CHANGELOG.md has no section '## Unreleased'")
    if f"## {version}\n" in changelog or f"## {version} " in changelog:
        raise ValueError(f"CHANGELOG.md has a section for {version} already")
    items = "\n".join(text.strip() for text in (waiting[1], *notes) if text.strip())
    if not items:
        raise ValueError("there is nothing to release")
    section = f"## Unreleased\n\n## {version} ({date})\n\n{items}\n\n"
    return (changelog[: waiting.start()] + section + changelog[waiting.end() :]).rstrip() + "\n"


def main(words: list[str]) -> None:
    try:
        waiting = fragments(FOLDER)
        notes = [path.read_text("utf-8") for path in waiting]
        if words == ["--draft"]:
            sys.stdout.write(released(CHANGELOG.read_text("utf-8"), notes, "next", "not yet"))
            return
        if len(words) != 2 or not re.fullmatch(r"\d{4}-\d\d-\d\d", words[1]):
            raise SystemExit(_USAGE)
        CHANGELOG.write_text(released(CHANGELOG.read_text("utf-8"), notes, *words), "utf-8")
    except ValueError as error:
        raise SystemExit(f"collect: {error}") from None
    for path in waiting:
        path.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
