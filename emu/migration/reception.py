"""The door of an incoming migration: of all that connect, finds the one that is a source.

Anybody who reaches the address may connect: a probe, a port scanner, a second destination that asks whether somebody
listens. A caller counts as a source when its first frame is whole and is a preamble in good order. Until then it has
changed nothing here; it is heard beside all others, for a limited time, and what it does ends nobody's wait.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from emu.errors import EmuError
from emu.migration.agreement import decode_preamble
from emu.migration.channel import Interrupt, SocketChannel
from emu.migration.errors import ConnectionLost, StreamError
from emu.migration.stream import Frame, FrameType

# When more have connected, who has waited longest without a word goes first.
MOST_CALLERS = 16
_UNTIL_CALLED_S = 3600.0
_ACCEPT_RETRY_S = 0.05


@dataclass(slots=True)
class _Caller:
    channel: SocketChannel
    deadline: float

    def preamble(self) -> Frame | None:
        """Its preamble once it is here; StreamError or ConnectionLost when it is no source."""
        frame = self.channel.receive_now()
        if frame is None:
            if time.monotonic() >= self.deadline:
                raise ConnectionLost("no preamble in time")
            return None
        if frame.kind is not FrameType.PREAMBLE:
            raise StreamError(f"migration stream: it begins with {frame.kind.name}")
        decode_preamble(frame.data, live=True)
        return frame

    def dismiss(self, error: EmuError) -> None:
        """An emu of another version wants to know why."""
        with contextlib.suppress(EmuError):
            self.channel.send(FrameType.FAILED, b"", [error.what.encode(errors="replace")[:2048]], patience=0)
        self.channel.close()


def wait_for_source(
    listener: socket.socket,
    open_channel: Callable[[socket.socket], SocketChannel],
    interrupt: Interrupt,
    *,
    patience: float,
) -> tuple[SocketChannel, Frame]:
    """Wait at ``listener`` (non-blocking) for a source: its channel, and the preamble that it sent.

    ``open_channel`` makes the channel of a connection; ``patience`` is how many seconds one may take for its preamble.
    Cancelled when ``interrupt`` is set.
    """
    callers: list[_Caller] = []
    try:
        while True:
            wait = min((caller.deadline - time.monotonic() for caller in callers), default=_UNTIL_CALLED_S)
            interrupt.wait(wait, listener.fileno(), *(caller.channel.fileno() for caller in callers))
            _accept(listener, callers, open_channel, interrupt, patience)
            for caller in tuple(callers):
                try:
                    frame = caller.preamble()
                except EmuError as error:
                    callers.remove(caller)
                    caller.dismiss(error)
                    continue
                if frame is not None:
                    callers.remove(caller)
                    return caller.channel, frame
    finally:
        for caller in callers:
            caller.channel.close()


def _accept(
    listener: socket.socket,
    callers: list[_Caller],
    open_channel: Callable[[socket.socket], SocketChannel],
    interrupt: Interrupt,
    patience: float,
) -> None:
    try:
        connection, _ = listener.accept()
    except BlockingIOError:
        return
    except OSError:
        # Out of descriptors, or the caller has gone already: try again, but not at once.
        interrupt.wait(_ACCEPT_RETRY_S)
        return
    if len(callers) == MOST_CALLERS:
        callers.pop(0).channel.close()
    callers.append(_Caller(open_channel(connection), time.monotonic() + patience))
