"""The standard input of a recovery that may read what the workload had printed (``--feed-printed``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from emu.linux.protocol import END_OF_INPUT, FRAME, frames
from emu.persistence.model.crashstate import FULL
from emu.persistence.model.events import printed_address

END = b"\4"
"""Ends the input of a guest: Ctrl-D, as the guests' ``stdio.h`` takes it."""


class Taken(NamedTuple):
    """How much a recovery has read: pieces, what is left of the last one, and whether it came to the end."""

    pieces: int = 0
    rest: bytes = b""
    ended: bool = False


class Input:
    """Used by one recovery after another: set ``taken`` before each. ``read`` gives the next of ``pieces`` or, behind
    the last one that is out, the end. ``ask`` tells the content of a word of the model (unit and mask).
    """

    def __init__(self, pieces: Sequence[bytes], ask: Callable[[int, int], int]) -> None:
        self._pieces = pieces
        self._ask = ask
        self.taken = Taken()

    def read(self) -> bytes:
        """What comes next; nothing behind the end."""
        if self.taken.ended:
            return b""
        return self._next() or END

    def _next(self) -> bytes:
        """The next piece; nothing at the end, which is asked for once."""
        number = self.taken.pieces
        if self.taken.ended or number == len(self._pieces) or not self._ask(printed_address(number), FULL):
            self.taken = self.taken._replace(ended=True)
            return b""
        self.taken = self.taken._replace(pieces=number + 1)
        return self._pieces[number]


class FramedInput(Input):
    """The same for a Linux machine's command, in the frames of ``emu.linux.protocol``: one with each ``read``."""

    def read(self) -> bytes:
        """The next frame, which is as long as it can be; the one that means the end behind the last."""
        data = self.taken.rest
        while len(data) < FRAME and (piece := self._next()):
            data += piece
        self.taken = self.taken._replace(rest=data[FRAME:])
        return b"".join(frames(data[:FRAME])) or END_OF_INPUT
