"""What a run of emu came to, as tests like to see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class EmuRefused(Exception):
    """``emu`` gave no result: a usage error, an image that is not there, no time left. The text is its own words."""


@dataclass(frozen=True, slots=True)
class _Result:
    """``document`` is what ``--json`` printed, ``stderr`` what else it said."""

    status: int
    document: dict[str, Any]
    stderr: str


class RunResult(_Result):
    """``emu run``: the document is emu.run/1."""

    __slots__ = ()

    @property
    def serial(self) -> str:
        """What the guest printed on COM1."""
        return str(self.document.get("serial", ""))


class CrashResult(_Result):
    """``emu crash``: the document is emu.crash/1."""

    __slots__ = ()

    @property
    def recovers(self) -> bool:
        """Whether there was something to judge, all of it was tried and every crash state recovered."""
        return self.status == 0 and self.document["verdict"] == "ok" and self.document["complete"] is True


def emu(words: Sequence[str], timeout: float) -> tuple[int, dict[str, Any], str]:
    """Run ``emu`` with ``words`` and ``--json`` in a process of its own: (status, document, stderr).

    EmuRefused when it gives no document within ``timeout`` seconds; it then leaves no process behind.
    """
    command = [sys.executable, "-m", "emu.cli.main", *words, "--json"]
    ran = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = ran.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(ran.pid, signal.SIGKILL)
        _, errors = ran.communicate()
        raise EmuRefused(f"emu {words[0]} did not end within {timeout:g} s\n{errors}".strip()) from None
    if not output:
        raise EmuRefused(errors.strip() or f"emu {words[0]} printed nothing and ended with status {ran.returncode}")
    return ran.returncode, json.loads(output), errors


def compile_guest(words: Sequence[str | Path], image: Path) -> None:
    """``emu cc WORDS -o IMAGE``; EmuRefused with the compiler's words when it does not compile."""
    command = [sys.executable, "-m", "emu.cli.main", "cc", *map(str, words), "-o", str(image)]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise EmuRefused(ran.stderr.strip())
