"""A place for a guest's characters."""

from __future__ import annotations

from typing import Final

from emu.units import counted


class Capture:
    """A sink that keeps what comes in ``data``, up to ``LIMIT`` bytes; ``cut`` tells whether there was more."""

    LIMIT: Final = 64 << 20

    def __init__(self) -> None:
        self.data = bytearray()
        self.cut = False

    def __call__(self, data: bytes) -> None:
        if len(self.data) < self.LIMIT:
            self.data += data
        else:
            self.cut = True

    @property
    def text(self) -> str:
        """``data`` as UTF-8; what is not becomes U+FFFD."""
        return self.data.decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"<emu.Capture: {counted(len(self.data), 'byte')}{', cut' if self.cut else ''}>"
