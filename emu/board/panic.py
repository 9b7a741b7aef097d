"""Tells from its console that a Linux kernel panicked, which nothing in a PC's hardware says.

A panic ends in a reset (``panic=SECONDS``), which is then the end of the run and no new start, or in a loop behind the
line "---[ end Kernel panic", which would last for ever.
"""

from __future__ import annotations

from emu.devices.contract import End, ExitRequest, Reset, Sink
from emu.errors import Status

_WORDS = b"Kernel panic - "
_PANIC = rb"(?:\[[ \d.]+\] ?)?Kernel panic - (.{1,200})"
_STANDS = rb"(?:\[[ \d.]+\] ?)?---\[ end Kernel panic - "
_LONGEST_LINE = 1024


class PanicWatch:
    """A sink in front of ``sink``. ``reset`` is what devices ask for a reset: it ends the machine after a panic."""

    def __init__(self, sink: Sink, end: End, reset: Reset) -> None:
        self._sink = sink
        self._end = end
        self._reset = reset
        self._line = bytearray()
        self._words: str | None = None

    def __call__(self, data: bytes) -> None:
        self._sink(data)
        for byte in data:
            if byte == 0x0A:
                self._look(bytes(self._line).rstrip(b"\r"))
                self._line.clear()
            elif len(self._line) < _LONGEST_LINE:
                self._line.append(byte)

    def _look(self, line: bytes) -> None:
        if _WORDS not in line:
            return
        import re  # a run without a panic does without

        if match := re.match(_PANIC, line):
            self._words = match[1].decode(errors="replace")
        elif self._words is not None and re.match(_STANDS, line):
            self._panicked()

    def reset(self) -> None:
        """A device resets the machine."""
        if self._words is None:
            self._reset()
        else:
            self._panicked()

    def _panicked(self) -> None:
        self._end(ExitRequest("panic", Status.GUEST_CRASHED, None, f"Kernel panic - {self._words}"))
