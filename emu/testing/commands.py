"""emu's commands as plain functions, for tests without fixtures: Hypothesis, unittest, scripts.

Each runs in a process of its own, which is ended, with all that it started, when its time is up. What a test is shown
when one refuses is its own line and emu's words, not the lines in here (pytest's ``__tracebackhide__``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emu.testing.results import CrashResult, EmuRefused, RunResult

EMU = (sys.executable, "-m", "emu")
TIMEOUT_S = 120.0


def run(image: str | Path, *options: str | Path, timeout: float = TIMEOUT_S) -> RunResult:
    """``emu run IMAGE OPTIONS``. EmuRefused with emu's own words when there is no result within ``timeout`` seconds."""
    __tracebackhide__ = True
    words = ("run", str(image), *map(str, options))
    return RunResult(*_document(words, timeout), words)


def crash(image: str | Path, *options: str | Path, timeout: float = TIMEOUT_S, keep: Path | None = None) -> CrashResult:
    """``emu crash IMAGE OPTIONS``; with the folder ``keep``, a report page and the memories that fail go there.

    EmuRefused with emu's own words when there is no result within ``timeout`` seconds.
    """
    __tracebackhide__ = True
    words = ("crash", str(image), *map(str, options))
    more: list[str] = []
    page: Path | None = None
    if keep is not None:
        if "--html" not in words:
            page = keep / "report.html"
            more += ["--html", str(page)]
        if "--export" not in words and image != "linux":
            more += ["--export", str(keep)]
    return CrashResult(*_document(words, timeout, more), words, page)


def cc(*words: str | Path, output: Path) -> Path:
    """``emu cc WORDS -o OUTPUT``; EmuRefused with the compiler's words when it does not compile."""
    __tracebackhide__ = True
    command = [*EMU, "cc", *map(str, words), "-o", str(output)]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise EmuRefused(ran.stderr.strip())
    return output


def _document(words: Sequence[str], timeout: float, more: Sequence[str] = ()) -> tuple[int, dict[str, Any], str]:
    """(status, document, stderr) of ``emu WORDS MORE --json``."""
    __tracebackhide__ = True
    ran = subprocess.Popen(
        [*EMU, *words, *more, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = ran.communicate(timeout=timeout)
    except BaseException as error:
        os.killpg(ran.pid, signal.SIGKILL)
        _, errors = ran.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise EmuRefused(f"emu {words[0]} did not end within {timeout:g} s\n{errors}".strip()) from None
        raise
    if not output:
        raise EmuRefused(errors.strip() or f"emu {words[0]} printed nothing and ended with status {ran.returncode}")
    return ran.returncode, json.loads(output), errors
