"""The standard input of a recovery that may read what the workload had printed (``--feed-printed``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emu.persistence.model.crashstate import FULL
from emu.persistence.model.events import printed_address

END = b"\4"
"""Ends the input of a guest: Ctrl-D, as the guests' ``stdio.h`` takes it."""


class Input:
    """Used by one recovery after another: ``rewind`` before each. ``read`` gives the next of ``pieces`` or, behind the
    last one that is out, the end. ``ask`` tells the content of a word of the model (unit and mask).
    """

    def __init__(self, pieces: Sequence[bytes], ask: Callable[[int, int], int]) -> None:
        self._pieces = pieces
        self._ask = ask
        self.rewind()

    def rewind(self) -> None:
        """Begin anew."""
        self.taken, self._ended = 0, False

    def read(self) -> bytes:
        """What comes next; nothing behind the end."""
        if self._ended:
            return b""
        if self.taken < len(self._pieces) and self._ask(printed_address(self.taken), FULL):
            self.taken += 1
            return self._pieces[self.taken - 1]
        self._ended = True
        return END
