"""How a document came about: the command, the version of emu and the date."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from emu import __version__


def about(words: Sequence[str] | None) -> dict[str, Any]:
    """The entry ``about`` of a document that is made now. ``words`` are those behind ``emu``; None in a script."""
    return {
        "command": None if words is None else shlex.join(["emu", *words]),
        "version": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
