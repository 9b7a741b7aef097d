"""What a run of emu came to, as tests like to see it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _Result:
    """``document`` is what ``--json`` printed, empty when emu refused; ``stderr`` says why."""

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
        """Whether the exploration was complete and every crash state recovered."""
        return self.status == 0 and bool(self.document.get("complete"))


def emu(words: Sequence[str], timeout: float) -> tuple[int, dict[str, Any], str]:
    """Run ``emu`` with ``words`` and ``--json`` in a process of its own: (status, document, stderr)."""
    ran = subprocess.run(
        [sys.executable, "-m", "emu.cli.main", *words, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else {}, ran.stderr
