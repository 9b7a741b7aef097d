"""A terminal for tests: what is sent to it is kept."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import termios


class Terminal(io.StringIO):
    """What is sent to a terminal of ``columns``, kept here: the terminal itself passes it on in its own time."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self._ends = os.openpty()
        fcntl.ioctl(self._ends[1], termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def fileno(self) -> int:
        return self._ends[1]

    def isatty(self) -> bool:
        return True

    def sent(self) -> str:
        """What is new since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text

    def close(self) -> None:
        super().close()
        for end in self._ends:
            os.close(end)
