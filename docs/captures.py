"""Runs the commands that the pages show and puts their real output in: python docs/captures.py.

A page asks for it in comments. `<!-- capture: COMMAND -->` is followed by a block that this script writes;
`<!-- file: NAME -->` by one that its reader, and this script before the commands, puts in a file of that name;
`<!-- figure: NAME.svg: COMMAND -->` draws the timeline of the report page that COMMAND writes as report.html. The
commands of one page run in one empty directory, in order. A test fails when a page is behind.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = ("index.md", "explanation/persistence-model.md", "explanation/compare.md", "how-to/find-a-missing-flush.md",
         "how-to/use-it-in-ci.md", "tutorial/first-crash.md", "../README.md")  # fmt: skip
DEBUGGER_PAGES = ("how-to/debug-with-gdb.md",)
"""These need gdb, so it is an examiner's test that looks at them (tests/oracle/test_oracle_gdb.py)."""

_CAPTURE = re.compile(r"(<!-- capture: (?P<command>.+?) -->\n)(```console\n.*?^```\n)?", re.M | re.S)
_FILE = re.compile(r"<!-- file: (?P<name>[\w.-]+) -->\n```\w*\n(?P<content>.*?)^```\n", re.M | re.S)
_FIGURE = re.compile(r"<!-- figure: (?P<name>[\w-]+\.svg): (?P<command>.+?) -->\n")


# Whoever shows the image may be light where the reader's system is dark.
_PAPER = "svg {background: var(--card)}"


def build(page: str) -> Iterator[tuple[Path, str]]:
    """The files that ``page`` stands for: its figures, and last itself."""
    text = (DOCS / page).read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for match in _FILE.finditer(text):
            (Path(folder) / match["name"]).write_text(match["content"], "utf-8")

        def block(match: re.Match[str]) -> str:
            command = match["command"]
            return f"{match[1]}```console\n$ {command}\n{_run(command, folder).rstrip()}\n```\n"

        text = _CAPTURE.sub(block, text)
        for match in _FIGURE.finditer(text):
            _run(match["command"], folder)
            html = (Path(folder) / "report.html").read_text("utf-8")
            yield DOCS / page.rpartition("/")[0] / "figures" / match["name"], _figure(html)
    yield DOCS / page, text


def _run(command: str, folder: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if done.stderr:
        raise SystemExit(f"{command}: {done.stderr}")
    return done.stdout.replace(f"{DOCS.parent}/", "")


def _figure(html: str) -> str:
    """The first panel of the timeline with the page's style, as an image of its own."""
    end = html.index("</svg>", html.index('aria-labelledby="panel-1-t'))
    start = html.rindex("<svg ", 0, end)
    style = html[html.index("<style>") : html.index("</style>") + len("</style>")]
    defs = html[html.index("<defs>") : html.index("</defs>") + len("</defs>")]
    inside = html[html.index(">", start) + 1 : end]
    opening = html[start : html.index(">", start)].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    style = style.replace("&", "&amp;").replace("> *", "&gt; *").replace("</style>", f"{_PAPER}</style>")
    return f"{opening}>{style}{defs}{inside}</svg>\n"


def main() -> None:
    for page in PAGES + DEBUGGER_PAGES:
        for path, text in build(page):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
