"""What a page of the docs tells its reader to type and to put into files, and what it shows as the answer."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 300
_FENCE = re.compile(r"(?:<!-- file: (?P<file>[\w./-]+) -->\n)?^```(?P<kind>\w*)\n(?P<inside>.*?)^```$", re.M | re.S)
_INDENTED = r" {4,8}(?=emu |qmp-shell )"


class File(NamedTuple):
    """The reader puts ``content`` into a file of this name."""

    name: str
    content: str


class Command(NamedTuple):
    """The reader types ``line``, and sees the lines ``shown`` among what it prints."""

    line: str
    shown: tuple[str, ...] = ()


def steps(text: str) -> Iterator[File | Command]:
    """What a page asks of its reader, in order. Prose never starts a line with four blanks or more."""
    rest = text
    for fence in (*_FENCE.finditer(text), None):
        before, _, rest = rest.partition(fence[0]) if fence else (rest, "", "")
        yield from _typed(before, _INDENTED)
        if fence is None:
            return
        inside = fence["inside"]
        if fence["file"]:
            yield File(fence["file"], inside)
        elif fence["kind"] == "sh":
            yield from _typed(inside, "")
        elif fence["kind"] == "console":
            for part in re.split(r"^(?=\$ )", inside, flags=re.M)[1:]:
                (command,) = _typed(part, r"\$ ")
                continued = re.match(r"(?:[^\n]*\\\n)*[^\n]*\n", part)
                assert continued
                yield command._replace(shown=tuple(part[continued.end() :].splitlines()))
        elif fence["kind"] == "text":
            yield from _typed(inside.partition("\nexamples:\n")[2], r"  (?=emu )")


def _typed(text: str, prompt: str) -> Iterator[Command]:
    for found in re.finditer(rf"^{prompt}(\S(?:[^\n]*\\\n)*[^\n]*)", text, re.M):
        # What stands behind many blanks says what the command is for.
        line = re.sub(r"\\\n\s+", "", found[1])
        line = re.split(r"\s{2,}(?![^']*'$)", line)[0].strip()
        if line and not line.startswith("#"):
            yield Command(line)


def absent(shown: tuple[str, ...], printed: str) -> str | None:
    """The first line of ``shown`` that ``printed`` does not have in its place; ``...`` in it stands for anything."""
    rest = iter(printed.splitlines())
    for line in shown:
        pattern = re.compile(".*".join(map(re.escape, line.rstrip().split("..."))))
        if line and not any(pattern.fullmatch(each.rstrip()) for each in rest):
            return line
    return None


class Shell:
    """One terminal: where ``cd`` went and what ``export`` set, the next command finds."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self._left = folder.with_name(f"{folder.name}.shell")

    def run(self, line: str) -> tuple[int, str]:
        """Status and output of ``line``, both streams as a terminal shows them."""
        done = subprocess.run(
            ["sh", "-c", f"{line}\nstatus=$?; pwd > '{self._left}'; exit $status"], cwd=self.folder,
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, errors="replace", timeout=PATIENCE_S,
        )  # fmt: skip
        if self._left.exists():
            self.folder = Path(self._left.read_text("utf-8").rstrip("\n"))
        return done.returncode, done.stdout

    def put(self, file: File) -> None:
        """What the reader does with an editor."""
        path = self.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.content, "utf-8")


def environment(programs: Path) -> dict[str, str]:
    """The reader's: ``programs`` is the folder of the commands of the environment that is active."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "PYTEST"))}
    path = os.pathsep.join([str(programs), *filter(_is_systems, clean["PATH"].split(os.pathsep))])
    return {**clean, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}


def _is_systems(folder: str) -> bool:
    """Not a folder of another environment, whose `emu` would hide that there is none."""
    return not Path(folder, "emu").exists()
