"""Where a lesson happens: a folder in which its commands run, with ``emu`` on the PATH however it was installed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from emu.errors import HostError
from emu.learn.lesson import Check, Task

__all__ = ["Ran", "Workplace"]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended; ``output`` is what it printed on both streams."""

    status: int
    output: str


class Workplace:
    """Runs the commands of one lesson; use it in a ``with`` statement.

    ``folder`` is the student's own, and stays; without one, the lesson gets a folder that goes when it ends.
    ``files`` (the lesson's folder) is what commands find in ``$LESSON``.
    """

    def __init__(self, files: Path, folder: Path | None = None) -> None:
        self._stack = ExitStack()
        try:
            private = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="emu-lesson-")))
            command = private / "bin" / "emu"
            command.parent.mkdir()
            command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m emu "$@"\n')
            command.chmod(0o755)
            self.folder = folder or private / "folder"
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            self._stack.close()
            place = folder or tempfile.gettempdir()
            raise HostError(f"cannot make a folder for the lesson in {place}: {error.strerror}") from None
        self._files = files
        self._environment = {
            **os.environ,
            "PATH": f"{command.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LESSON": str(files),
        }

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def run(self, script: str) -> Ran:
        """Run ``script`` in the folder, without standard input; its first command that fails ends it."""
        done = self._shell(script, subprocess.STDOUT)
        return Ran(done.returncode, done.stdout)

    def check(self, check: Check) -> str | None:
        """None when ``check`` holds, else what was found instead."""
        done = self._shell(check.run, subprocess.PIPE)
        if done.returncode != check.status:
            said = done.stderr.strip() or self._for_people(check.run, done.stdout)
            return f"{check.run}: status {done.returncode}, expected {check.status}" + (f"\n{said}" if said else "")
        if not check.expect:
            return None
        try:
            document = json.loads(done.stdout)
        except ValueError:
            return f"{check.run}: it printed no JSON document"
        for path, expected in check.expect.items():
            found = _at(document, path)
            if found != expected:
                return f"{check.run}: {path} is {json.dumps(found)}, expected {json.dumps(expected)}"
        return None

    def _for_people(self, script: str, said: str) -> str:
        """What a command ``said`` on its standard output; of a JSON document the headline, and how to read the rest."""
        try:
            document = json.loads(said)
        except ValueError:
            return said.strip()
        headline = f"{document['headline']}; " if isinstance(document, dict) and "headline" in document else ""
        return f"{headline}to read what is wrong, in {self.folder}: {script.replace(' --json', '')}"

    def hand_out(self, task: Task) -> list[Path]:
        """Put the files of ``task`` into the folder; one that is there already is the student's, and stays."""
        places = [self.folder / name for name in task.files]
        for place in places:
            if not place.exists():
                shutil.copyfile(self._files / place.name, place)
        return places

    def solve(self, task: Task) -> None:
        """Put the solution of ``task`` into the folder."""
        for name, solution in task.solution.items():
            shutil.copyfile(self._files / solution, self.folder / name)

    def solution_of(self, task: Task, name: str) -> str:
        """The text of the solution for the student's file ``name``."""
        return (self._files / task.solution[name]).read_text(encoding="utf-8")

    def _shell(self, script: str, errors: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=self.folder,
            env=self._environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        )


def _at(document: Any, path: str) -> Any:
    """What ``document`` has at a dotted path, numbers being places in lists; None where there is nothing."""
    for step in path.split("."):
        if isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        elif isinstance(document, dict):
            document = document.get(step)
        else:
            return None
    return document
