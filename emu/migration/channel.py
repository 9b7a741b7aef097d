"""Carries frames over a socket or a file, with a stall timeout and a cancel that takes effect at once.

A live channel is a stream socket used in both directions. A file channel goes one way: it is written as a whole under a
temporary name and renamed when it is complete and durable, so a snapshot file exists entirely or not at all.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from emu.errors import HostError
from emu.host import pages
from emu.host.files import Target
from emu.migration.errors import Cancelled, ConnectionLost, StreamError
from emu.migration.stream import Decoder, Encoder, Frame, FrameType
from emu.units import KIB, MIB

_MOST_BUFFERS = 512
MOST_FILES = 253
"""That Linux takes in one message (SCM_MAX_FD, unix(7))."""
_SMALL = 64 * KIB  # below this several buffers are better filled at once
_FIFO_S = 1.0
_RIGHTS = socket.CMSG_SPACE(MOST_FILES * array.array("i").itemsize)


class Interrupt:
    """Wakes a channel that waits: ``set`` from any thread makes the wait raise Cancelled, until ``disarm``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._armed = True
        self.requested = False

    def set(self) -> bool:
        """Cancel; False when that comes too late."""
        with self._lock:
            if not self._armed:
                return False
            self.requested = True
            os.eventfd_write(self._event, 1)
            return True

    def disarm(self) -> bool:
        """From here on a cancel comes too late. True when one came before and must be heeded."""
        with self._lock:
            self._armed = False
            return self.requested

    def check(self) -> None:
        if self._armed and self.requested:
            raise cancelled()

    def wait(self, seconds: float, *descriptors: int, writing: bool = False) -> bool:
        """Wait until one of ``descriptors`` is ready (True) or the time is over (False); Cancelled on ``set``."""
        poll = select.poll()
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLOUT if writing else select.POLLIN)
        if self._armed:
            poll.register(self._event, select.POLLIN)
        ready = poll.poll(max(0.0, seconds) * 1000)
        self.check()
        return bool(ready)

    def close(self) -> None:
        os.close(self._event)


def cancelled() -> Cancelled:
    return Cancelled("the migration was cancelled")


class Channel(Protocol):
    """What the two sides of a migration need. ``live`` tells whether there is anybody at the other end to answer."""

    live: bool
    passes_files: bool
    sent: int
    files: list[int]

    def send(
        self,
        kind: FrameType,
        meta: bytes = b"",
        data: Sequence[memoryview | bytes] = (),
        *,
        digest: int | None = None,
        files: Sequence[int] = (),
        patience: float | None = None,
    ) -> None: ...

    def receive(self, *, patience: float | None = None, until: float | None = None) -> Frame: ...

    def readable(self) -> bool: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class SocketChannel:
    """Both directions over one connected stream socket, which it owns. ``stall_timeout`` in seconds of silence.

    A unix socket passes open files along (``files`` holds those received, until ``close``): the peer is on this host.
    """

    live = True

    def __init__(self, sock: socket.socket, decoder: Decoder, interrupt: Interrupt, *, stall_timeout: float) -> None:
        sock.setblocking(False)
        # Room for a frame, so that the two sides need not take turns.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        self._socket = sock
        self._decoder = decoder
        self._interrupt = interrupt
        self._stall = stall_timeout
        self._encoder = Encoder()
        self._opened = False
        self.sent = 0
        self.passes_files = sock.family == socket.AF_UNIX
        self.files: list[int] = []

    def send(
        self,
        kind: FrameType,
        meta: bytes = b"",
        data: Sequence[memoryview | bytes] = (),
        *,
        digest: int | None = None,
        files: Sequence[int] = (),
        patience: float | None = None,
    ) -> None:
        """Send one frame; the data may change again when this returns. ``sent`` counts the bytes the kernel took.

        ``digest`` is the CRC of the data, where the caller has it already.

        ConnectionLost when the other side takes no byte for ``patience`` seconds (default: the stall timeout).
        """
        limit = self._stall if patience is None else patience
        head = self._encoder.frame(kind, meta, data, digest)
        if not self._opened:
            head = self._encoder.opening + head
            self._opened = True
        buffers = [memoryview(head), *(memoryview(part) for part in data)]
        while buffers:
            self._interrupt.check()
            try:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
                count = self._socket.sendmsg(buffers[:_MOST_BUFFERS], rights)
            except BlockingIOError:
                if not self._interrupt.wait(limit, self._socket.fileno(), writing=True):
                    raise ConnectionLost(f"the other side took no data for {limit:g} s") from None
                continue
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {error.strerror}") from None
            self.sent += count
            files = ()
            while count:
                taken = min(count, len(buffers[0]))
                buffers[0] = buffers[0][taken:]
                count -= taken
                if not buffers[0]:
                    buffers.pop(0)

    def receive(self, *, patience: float | None = None, until: float | None = None) -> Frame:
        """The next frame. ConnectionLost after ``patience`` (default: the stall timeout) seconds without a byte.

        With ``until`` (of time.monotonic) also when the frame is not whole by then, whatever has come of it.
        """
        limit = self._stall if patience is None else patience
        while True:
            self._interrupt.check()
            frame = self.receive_now()
            if frame is not None:
                return frame
            left = limit if until is None else min(limit, until - time.monotonic())
            if not self._interrupt.wait(left, self._socket.fileno()):
                raise ConnectionLost(f"the other side was silent for {limit:g} s")
            if until is not None and time.monotonic() >= until:
                raise ConnectionLost("the other side did not answer in time")

    def receive_now(self) -> Frame | None:
        """The next frame if all of it is here already, else None. ConnectionLost when the other side has gone."""
        while True:
            try:
                digest: int | None = None
                rights: list[tuple[int, int, bytes]] = []
                buffers = self._decoder.buffers()[:_MOST_BUFFERS]
                if self._decoder.in_data and len(buffers[0]) > _SMALL:
                    count, digest = pages.receive(self._socket.fileno(), buffers[0], self._decoder.digest)
                else:
                    count, rights, _, _ = self._socket.recvmsg_into(buffers, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.EFAULT:  # memory whose file was cut short: a store would have met SIGBUS
                    raise HostError("no storage is left for received pages", "make room and migrate again") from None
                raise ConnectionLost(f"the connection broke: {error.strerror}") from None
            if rights:
                self._take_files(rights)
            if not count:
                raise ConnectionLost("the other side closed the connection")
            frame = self._decoder.advance(count, digest)
            if frame is not None:
                return frame

    def fileno(self) -> int:
        return self._socket.fileno()

    def readable(self) -> bool:
        """Whether a byte (or the end) is waiting."""
        return self._interrupt.wait(0, self._socket.fileno())

    def finish(self) -> None:
        """Nothing: a live stream ends with its last frame."""

    def _take_files(self, rights: Sequence[tuple[int, int, bytes]]) -> None:
        for level, kind, data in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                got = array.array("i")
                got.frombytes(data[: len(data) - len(data) % got.itemsize])
                self.files.extend(got)
        if len(self.files) > MOST_FILES:
            raise StreamError("migration stream: more open files came with it than one message takes")

    def hang_up(self, how: int = socket.SHUT_RDWR) -> None:
        """Nothing more comes, for whoever waits there in another thread (and nothing goes, unless ``how`` says so)."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(how)

    def close(self) -> None:
        self._socket.close()
        while self.files:
            os.close(self.files.pop())


class FileWriter:
    """A snapshot in the making: ``finish`` makes it durable and names it; ``close`` without it leaves nothing.

    A FIFO or a device is written into, and waits for its reader where a cancel can end it.
    """

    live = passes_files = False

    def __init__(self, target: Target, interrupt: Interrupt) -> None:
        self.files: list[int] = []
        self._interrupt = interrupt
        self._encoder = Encoder()
        self.sent = 0
        self._file = target.begin(durable=True, wait=False, mode=0o600)  # guest memory is nobody else's business
        try:
            self._write([self._encoder.opening])
        except BaseException:
            self.close()
            raise

    def send(
        self,
        kind: FrameType,
        meta: bytes = b"",
        data: Sequence[memoryview | bytes] = (),
        *,
        digest: int | None = None,
        files: Sequence[int] = (),
        patience: float | None = None,
    ) -> None:
        self._interrupt.check()
        self._write([self._encoder.frame(kind, meta, data, digest), *data])

    def _write(self, parts: Sequence[memoryview | bytes]) -> None:
        buffers = [memoryview(part) for part in parts]
        while buffers:
            try:
                count = os.writev(self._file.descriptor, buffers[:_MOST_BUFFERS])
            except BlockingIOError:
                self._interrupt.wait(_FIFO_S, self._file.descriptor, writing=True)
                continue
            except OSError as error:
                raise self._file.failure(error) from None
            self.sent += count
            while count:
                taken = min(count, len(buffers[0]))
                buffers[0] = buffers[0][taken:]
                count -= taken
                if not buffers[0]:
                    buffers.pop(0)

    def receive(self, *, patience: float | None = None, until: float | None = None) -> Frame:
        raise ConnectionLost("a file does not answer")

    def readable(self) -> bool:
        return False

    def finish(self) -> None:
        """Durable when it returns: the file was fsynced, renamed, and its directory fsynced."""
        self._file.finish()

    def close(self) -> None:
        self._file.abandon()


class FileReader:
    """A snapshot being read, until ``interrupt``. What is sent to it is dropped: nobody listens."""

    live = passes_files = False

    def __init__(self, path: str, decoder: Decoder, interrupt: Interrupt) -> None:
        self.files: list[int] = []
        self._decoder = decoder
        self._path = path
        self._interrupt = interrupt
        self.sent = 0
        try:  # without waiting for who writes to a FIFO: that can be interrupted below
            self._file: int | None = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise HostError(
                f"{path}: {error.strerror}", "name a file that 'emu migrate' wrote", errno=error.errno or 0
            ) from None

    def send(
        self,
        kind: FrameType,
        meta: bytes = b"",
        data: Sequence[memoryview | bytes] = (),
        *,
        digest: int | None = None,
        files: Sequence[int] = (),
        patience: float | None = None,
    ) -> None:
        pass

    def receive(self, *, patience: float | None = None, until: float | None = None) -> Frame:
        assert self._file is not None
        while True:
            if not self._interrupt.wait(_FIFO_S, self._file):
                continue
            try:
                count = os.readv(self._file, self._decoder.buffers()[:_MOST_BUFFERS])
            except BlockingIOError:  # another reader was faster
                continue
            except OSError as error:
                raise HostError(f"{self._path}: {error.strerror}", "read the file from elsewhere") from None
            if not count:
                raise StreamError(f"{self._path}: the file ends too early", "it is incomplete: take the snapshot again")
            frame = self._decoder.advance(count)
            if frame is not None:
                return frame

    def readable(self) -> bool:
        return True

    def finish(self) -> None:
        """StreamError when anything follows the last frame."""
        assert self._file is not None
        if os.read(self._file, 1):
            raise StreamError(f"{self._path}: there are bytes behind the end of the snapshot")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Pacer:
    """Keeps all senders together at or below ``limit`` bytes per second (0: no limit), by waiting before they go on."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def spend(self, count: int, limit: int) -> None:
        """Account for ``count`` bytes just sent, and wait until the next may go."""
        if not limit:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - 0.05) + count / limit
        while (left := self._free_at - time.monotonic()) > 0:
            self._interrupt.wait(min(left, 0.5))
