"""Starts the processes that read an image: ``debug_reader``, ``stack_reader`` and ``type_reader``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import NamedTuple

from emu.persistence.lab.deadline import NEVER, Deadline

# The clock on the wall may run faster than the reader's, on a busy host.
_WALL_FACTOR = 10


class Said(NamedTuple):
    """What a reader wrote until it ended, and its exit ``status``, negative after a signal."""

    output: bytes
    errors: bytes
    status: int


NOTHING = Said(b"", b"", -signal.SIGKILL)
"""Of a reader for which no time was left."""


def ask(reader: str, path: str, seconds: float, *words: str, data: bytes = b"", deadline: Deadline = NEVER) -> Said:
    """Run the module ``reader`` on the image at ``path``, with ``data`` as its standard input.

    It bounds its processor time by ``seconds`` itself, and is killed when ten times as many pass, or at ``deadline``.
    """
    if not deadline.left:
        return NOTHING
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)}
    command = [sys.executable, "-m", reader, os.path.abspath(path), str(seconds), *words]  # noqa: PTH100 - resolve() would follow links
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
        try:
            output, errors = process.communicate(data, timeout=min(_WALL_FACTOR * seconds, deadline.left))
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
    return Said(output, errors, process.returncode)
