"""Runs ``emu`` as a process of its own, as a stranger does, and checks what every run must keep to."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from emu.testing.commands import EMU
from tests import documents, forked_emu

PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Result:
    """What a run left behind; ``errors`` are the lines on stderr, ``document`` is the JSON on stdout, which is as its
    published schema says.
    """

    status: int
    out: str
    errors: tuple[str, ...]

    @property
    def document(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.out)
        return documents.check(read) if "schema" in read else read


def emu(*words: object, stdin: bytes | None = None, timeout: float = PATIENCE_S, under: tuple[str, ...] = ()) -> Result:
    """``emu WORDS``, behind the command ``under`` if there is one. Never a traceback, never a bug of ours."""
    if under:
        ran = subprocess.run(
            [*under, *EMU, *map(str, words)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
        )
        done = forked_emu.Done(ran.returncode, ran.stdout, ran.stderr)
    else:
        done = forked_emu.run([str(word) for word in words], stdin=stdin, timeout=timeout)
    errors = done.errors.decode(errors="replace").splitlines()
    assert not any("Traceback" in line or "internal error" in line for line in errors), errors
    return Result(done.status, done.out.decode(errors="replace"), tuple(errors))


def refused(status: int, *words: object, under: tuple[str, ...] = ()) -> str:
    """The message of a run that must fail with ``status`` in one or two lines, before the guest has run."""
    result = emu("run", *words, "--quiet", "--timeout", str(PATIENCE_S), under=under)
    assert result.status == status, result
    assert result.out == ""
    assert 1 <= len(result.errors) <= 2, result.errors
    assert result.errors[0].startswith("emu: ")
    return "\n".join(result.errors)
