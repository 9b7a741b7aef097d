"""emu's side of the talk with init during a plain run: who gets which bytes, and how it ended."""

from __future__ import annotations

from collections.abc import Callable

from emu.devices.contract import Sink
from emu.linux.protocol import Ended, Failure, Message, Role, ended, failure

_LOG_LIMIT = 64 << 10


class Log:
    """The last 64 KiB that the kernel wrote to its console."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def __call__(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * _LOG_LIMIT:
            del self._kept[:-_LOG_LIMIT]

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace").replace("\r\n", "\n")

    def last_lines(self, count: int) -> list[str]:
        """The last ``count`` lines that say something."""
        return [line for line in self.text.splitlines() if line.strip()][-count:]


class Conversation:
    """``emu.devices.initport.InitHost`` for one run, of ``Role.EXEC`` unless ``plays`` is another.

    ``kernel`` gets COM1 until the command has it as its terminal, then ``terminal`` does. ``input_wanted`` is called
    for each frame of standard input that init asks for. ``ended`` and ``failure`` are what init said last, else None.
    """

    def __init__(self, kernel: Sink, terminal: Sink, input_wanted: Callable[[], None]) -> None:
        self.serial = kernel
        self.ended: Ended | None = None
        self.failure: Failure | None = None
        self.plays = Role.EXEC
        self._terminal = terminal
        self._input_wanted = input_wanted

    def write_serial(self, data: bytes) -> None:
        """The sink of COM1."""
        self.serial(data)

    def said(self, message: int, argument: int) -> None:
        match message:
            case Message.TERMINAL:
                self.serial = self._terminal
            case Message.INPUT:
                self._input_wanted()
            case Message.ENDED:
                self.ended = ended(argument)
            case Message.FAILED:
                self.failure = failure(argument)
            case _:
                pass

    def role(self) -> int:
        return self.plays
