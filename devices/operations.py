"""Operation marks: a program says which of its operations begins and which is done. emu's own; nothing depends on it.

Two registers of 32 bits, write-only: an operation's number written to the first says that it begins, to the second
that it is done. Elsewhere nothing decodes these ports, so that the same program runs there unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

from emu.units import U32_MAX

OnMark = Callable[[str, int], None]
"""Told ``begin`` or ``done``, and the operation's number."""

BEGIN, DONE = "begin", "done"
_REGISTERS = {0: BEGIN, 4: DONE}


class OperationMarks:
    """Hands each mark to ``on_mark`` at once. It holds nothing, so there is nothing to reset and nothing to save.

    A write narrower than 32 bits is a number too; one that begins inside of a register is dropped. Reads give all ones,
    as where there is no such device.
    """

    width = 4

    def __init__(self, on_mark: OnMark) -> None:
        self._on_mark = on_mark

    def read(self, offset: int, size: int) -> int:
        return U32_MAX

    def write(self, offset: int, size: int, value: int) -> None:
        kind = _REGISTERS.get(offset)
        if kind is not None:
            self._on_mark(kind, value)
