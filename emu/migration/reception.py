"""The door of an incoming migration: of all that connect, finds the one that is a source.

Anybody who reaches the address may connect: a probe, a port scanner, a second destination that asks whether somebody
listens. A caller counts as a source when its first frame is whole and is a preamble in good order. Until then it has
changed nothing here; it is heard beside all others, for a limited time, and what it does ends nobody's wait.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from emu.errors import EmuError
from emu.host.sockets import Listener
from emu.migration.agreement import decode_preamble
from emu.migration.channel import Interrupt, SocketChannel
from emu.migration.errors import ConnectionLost, StreamError
from emu.migration.landing import Lander
from emu.migration.lanes import Offer
from emu.migration.stream import ON_A_LANE, Decoder, Frame, FrameType

# When more have connected, who has waited longest without a word goes first.
MOST_CALLERS = 16
_UNTIL_CALLED_S = 3600.0
_ACCEPT_RETRY_S = 0.05


@dataclass(slots=True)
class _Caller:
    channel: SocketChannel
    deadline: float

    def first_frame(self) -> Frame | None:
        """Its first frame once it is here; StreamError or ConnectionLost when it sends none."""
        frame = self.channel.receive_now()
        if frame is None and time.monotonic() >= self.deadline:
            raise ConnectionLost("no first frame in time")
        return frame

    def dismiss(self, error: EmuError) -> None:
        """An emu of another version wants to know why."""
        with contextlib.suppress(EmuError):
            self.channel.send(FrameType.FAILED, b"", [error.what.encode(errors="replace")[:2048]], patience=0)
        self.channel.close()


class Door:
    """Where the connections of one source arrive: it owns ``listener``. ``patience``: seconds for a first frame."""

    def __init__(self, listener: Listener, interrupt: Interrupt, *, patience: float) -> None:
        self._listener = listener
        self._interrupt = interrupt
        self._patience = patience

    def source(self, open_channel: Callable[[socket.socket], SocketChannel]) -> tuple[SocketChannel, Frame]:
        return wait_for_source(self._listener.socket, open_channel, self._interrupt, patience=self._patience)

    def lanes(
        self, offer: Offer, source: SocketChannel, new_lander: Callable[[], Lander]
    ) -> list[tuple[SocketChannel, Lander]]:
        """Wait for the connections that the preamble offered, in their order; each with a Lander of its own.

        ConnectionLost unless all come in time, or when the ``source`` says anything, which can only be that it failed.
        """
        landers: dict[SocketChannel, Lander] = {}
        lanes: dict[int, SocketChannel] = {}

        def open_channel(sock: socket.socket) -> SocketChannel:
            lander = new_lander()  # not open: it takes no pages of a stranger's
            decoder = Decoder(ON_A_LANE, lander.place)
            channel = SocketChannel(sock, decoder, self._interrupt, stall_timeout=self._patience)
            landers[channel] = lander
            return channel

        def examine(channel: SocketChannel, frame: Frame) -> None:
            number = offer.number(frame)
            if number in lanes:
                raise StreamError(f"migration stream: connection {number} is there already")
            lanes[number] = channel

        callers: list[_Caller] = []
        deadline = time.monotonic() + self._patience
        try:
            while len(lanes) < offer.count:
                if time.monotonic() >= deadline:
                    raise ConnectionLost(f"{len(lanes)} of {offer.count} connections for pages came in time")
                if (frame := source.receive_now()) is not None:
                    raise ConnectionLost(f"the source said {frame.kind.name} instead of opening its connections")
                _hear(
                    self._listener.socket, callers, open_channel, examine, self._interrupt,
                    patience=self._patience, until=deadline, beside=source.fileno(),
                )  # fmt: skip
        except BaseException:
            for channel in lanes.values():
                channel.close()
            raise
        finally:
            for caller in callers:
                caller.channel.close()
        return [(lanes[number], landers[lanes[number]]) for number in range(offer.count)]

    def close(self) -> None:
        self._listener.close()


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
            found = _hear(listener, callers, open_channel, _examine_preamble, interrupt, patience=patience)
            if found is not None:
                return found
    finally:
        for caller in callers:
            caller.channel.close()


def _examine_preamble(_: SocketChannel, frame: Frame) -> None:
    if frame.kind is not FrameType.PREAMBLE:
        raise StreamError(f"migration stream: it begins with {frame.kind.name}")
    decode_preamble(frame.data, live=True)


def _hear(
    listener: socket.socket,
    callers: list[_Caller],
    open_channel: Callable[[socket.socket], SocketChannel],
    examine: Callable[[SocketChannel, Frame], None],
    interrupt: Interrupt,
    *,
    patience: float,
    until: float = math.inf,
    beside: int | None = None,
) -> tuple[SocketChannel, Frame] | None:
    """Wait until something comes, at most ``until``, from the ``callers``, new ones or ``beside`` them.

    The first who has sent its first frame, which ``examine`` takes, is a caller no more and returned. Who sends
    anything else is sent away.
    """
    end = min((caller.deadline for caller in callers), default=math.inf)
    wait = min(min(end, until) - time.monotonic(), _UNTIL_CALLED_S)
    others = () if beside is None else (beside,)
    interrupt.wait(wait, listener.fileno(), *(caller.channel.fileno() for caller in callers), *others)
    _accept(listener, callers, open_channel, interrupt, patience)
    for caller in tuple(callers):
        try:
            frame = caller.first_frame()
            if frame is not None:
                examine(caller.channel, frame)
        except EmuError as error:
            callers.remove(caller)
            caller.dismiss(error)
            continue
        if frame is not None:
            callers.remove(caller)
            return caller.channel, frame
    return None


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
