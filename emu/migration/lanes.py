"""Several connections for the pages of one migration (QEMU's multifd); everything else stays on the first one.

Each lane is a stream of its own, with its own sequence and checksums, and has a thread at either end. Within a round
every page goes out once, over whichever lane is free. At the end of a round each lane brings SYNC with the round's
number, and the first connection ROUND_END (the last round: STATE): the destination goes on only when all have come, and
takes nothing more from a lane before the round is durable. So no page of a round arrives after one of the next.

A lane that fails ends the migration, as the first connection does.
"""

from __future__ import annotations

import hmac
import secrets
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from emu.errors import EmuError
from emu.migration.channel import SocketChannel
from emu.migration.compression import METHODS
from emu.migration.errors import StreamError, internal_error
from emu.migration.guest import Block
from emu.migration.landing import Lander
from emu.migration.pages import PageSender, batches
from emu.migration.persister import ALIVE_S
from emu.migration.stream import Frame, FrameType, Run
from emu.units import MIB, PAGE

MOST = 255
_KEY = 16
_HELLO = struct.Struct(f"<{_KEY}sH")
_ROUND = struct.Struct("<I")
_PIECE = 4 * MIB // PAGE  # pages of one piece of work
# While the first connection lives, a lane may be silent for as long as others are not.
_NEVER_S = 1e6


class Offer:
    """What the preamble says of the lanes: ``count`` of them, who may open one (``key``), and how pages are packed."""

    def __init__(self, count: int, compression: str, key: bytes | None = None) -> None:
        self.count = count
        self.compression = compression
        self.key = key or secrets.token_bytes(_KEY)

    def encode(self) -> dict[str, Any]:
        return {"count": self.count, "key": self.key.hex(), "compression": self.compression}

    @classmethod
    def decode(cls, raw: Any) -> Offer | None:
        """StreamError unless ``raw`` is what ``encode`` makes, or None."""
        match raw:
            case None:
                return None
            case {"count": int(count), "key": str(key), "compression": str(method)} if len(raw) == 3:
                known = type(count) is int and 1 <= count <= MOST and method in METHODS
                if known and len(key) == 2 * _KEY and all(digit in "0123456789abcdef" for digit in key):
                    return cls(count, method, bytes.fromhex(key))
        raise StreamError("migration stream: the preamble's description of its connections is malformed")

    def hello(self, number: int) -> bytes:
        """The meta of the first frame, LANE, on lane ``number``."""
        return _HELLO.pack(self.key, number)

    def number(self, frame: Frame) -> int:
        """Which lane ``frame`` opens; StreamError when it opens none of these."""
        if frame.kind is not FrameType.LANE or len(frame.meta) != _HELLO.size:
            raise StreamError("migration stream: this destination has its source already")
        key, number = _HELLO.unpack(frame.meta)
        if not hmac.compare_digest(key, self.key) or number >= self.count:
            raise StreamError("migration stream: this destination has its source already")
        return int(number)


class _Lanes:
    """Either side: a channel and a thread for each, and what one of them failed with (``error``)."""

    def __init__(self) -> None:
        self.error: EmuError | None = None
        self._channels: list[SocketChannel] = []
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._over = False

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for channel in self._channels:
            channel.hang_up()
        for thread in self._threads:
            thread.join()
        for channel in self._channels:
            channel.close()

    def _wait(self, done: Callable[[], bool], alive: Callable[[], None]) -> None:
        """Wait until it is ``done``, calling ``alive`` meanwhile. Raises what a lane failed with."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: done() or self.error is not None, ALIVE_S)
                if self.error is not None:
                    raise self.error
                if done():
                    return
            alive()


class SendingLanes(_Lanes):
    """The source's side. ``dial`` opens a connection, ``sender`` makes what sends pages over one."""

    def __init__(
        self, offer: Offer, dial: Callable[[], SocketChannel], sender: Callable[[SocketChannel], PageSender]
    ) -> None:
        """Opens all of them; ConnectionLost or Cancelled where that cannot be."""
        super().__init__()
        self.senders: list[PageSender] = []
        self._work: deque[tuple[int, Block, Sequence[Run]]] = deque()
        self._busy = 0
        try:
            for number in range(offer.count):
                channel = dial()
                self._channels.append(channel)
                channel.send(FrameType.LANE, offer.hello(number))
                self.senders.append(sender(channel))
        except BaseException:
            self.close()
            raise
        for one in self.senders:
            thread = threading.Thread(target=self._send, args=(one,), name="migration-lane", daemon=True)
            self._threads.append(thread)
            thread.start()

    def send(self, number: int, block: Block, runs: Sequence[Run], alive: Callable[[], None]) -> None:
        """Have ``runs`` of ``block``, which has the index ``number``, sent; ``alive`` is called while that waits.

        They have been sent when ``sync`` has returned. What a lane failed with is raised here or there.
        """
        for batch in batches(runs, _PIECE):
            self._wait(lambda: len(self._work) < 2 * len(self.senders), alive)
            with self._changed:
                self._work.append((number, block, batch))
                self._changed.notify_all()

    def sync(self, number: int, alive: Callable[[], None]) -> None:
        """End round ``number``: all that was given has been sent, and each lane has said so."""
        self._wait(lambda: not self._work and not self._busy, alive)
        for channel in self._channels:
            channel.send(FrameType.SYNC, _ROUND.pack(number))

    def _send(self, sender: PageSender) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._work or self._over)
                if self._over:
                    return
                work = self._work.popleft()
                self._busy += 1
                self._changed.notify_all()
            error: EmuError | None = None
            try:
                sender.send(*work)
            except EmuError as caught:
                error = caught
            except Exception as caught:
                error = internal_error(caught)
            with self._changed:
                self._busy -= 1
                self.error = self.error or error
                self._changed.notify_all()
            if error is not None:
                return


class ReceivingLanes(_Lanes):
    """The destination's side: takes pages from ``lanes``, each a channel with the Lander of its decoder.

    ``failed`` is called, from any thread, when ``error`` has become that of a lane.
    """

    def __init__(self, lanes: Sequence[tuple[SocketChannel, Lander]], failed: Callable[[], None]) -> None:
        super().__init__()
        self._failed = failed
        self._channels = [channel for channel, _ in lanes]
        self._reached = [0] * len(lanes)
        self._round = 1
        self._threads = [
            threading.Thread(target=self._take, args=(number, *lane), name="migration-lane", daemon=True)
            for number, lane in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, alive: Callable[[], None]) -> None:
        """Wait until every page of this round has landed, calling ``alive`` meanwhile. Raises what a lane raised."""
        self._wait(lambda: min(self._reached) >= self._round, alive)

    def next_round(self) -> None:
        """From here on pages of the next round are taken."""
        with self._changed:
            self._round += 1
            self._changed.notify_all()

    def _take(self, number: int, channel: SocketChannel, lander: Lander) -> None:
        try:
            lander.open = True
            while True:
                frame = channel.receive(patience=_NEVER_S)
                if frame.kind is FrameType.SYNC:
                    if not self._arrive(number, frame):
                        return
                elif frame.kind in (FrameType.PAGES, FrameType.ZEROS, FrameType.PACKED):
                    lander.take(frame)
                else:
                    raise StreamError(f"migration stream: {frame.kind.name} on a connection for pages")
        except EmuError as error:
            self._fail(error)
        except Exception as error:
            self._fail(internal_error(error))

    def _arrive(self, number: int, frame: Frame) -> bool:
        """Note the end of a round, and wait for the next one; False when there is none."""
        with self._changed:
            if frame.meta != _ROUND.pack(self._round):
                raise StreamError(f"migration stream: a connection ends another round than {self._round}")
            reached = self._reached[number] = self._round
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or self._round > reached)
            return not self._over

    def _fail(self, error: EmuError) -> None:
        with self._changed:
            if self._over:
                return
            self.error = self.error or error
            self._changed.notify_all()
        self._failed()
