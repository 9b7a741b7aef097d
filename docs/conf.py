"""The documentation site: `make docs` builds it with Sphinx, MyST and Furo; there a warning is an error.

What the site's contents list is what index.md lists, section by section, so that the pages read the same in a forge.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "emu"
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
author = "the emu authors"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"emu {version}"
html_copy_source = False

_SECTION = re.compile(r"^## (.+)\n((?:(?!^## ).*\n)*)", re.MULTILINE)
_PAGE = re.compile(r"\]\(([\w/.-]+)\.md\)")


def _contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Give index.md a hidden table of contents for each of its sections."""
    if name != "index":
        return
    for title, text in _SECTION.findall(source[0]):
        pages = "\n".join(dict.fromkeys(_PAGE.findall(text)))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx. Drawings that a forge renders (mermaid) are shown as their text."""
    app.connect("source-read", _contents)
    app.add_lexer("mermaid", TextLexer)
