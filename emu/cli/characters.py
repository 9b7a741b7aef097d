"""Where a guest's characters go: the standard output, a file, a line (``emu.cli.serial_line``), or nowhere."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
import time
from collections.abc import Callable

from emu.cli import output
from emu.errors import HostError, UsageError
from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.api.capture import Capture
    from emu.host.claims import Claims
    from emu.host.files import Target

STANDARD_STREAMS = ("stdio", "mon:stdio")
FILE = "file:"
_PIECE = 512
_UNHEARD_LIMIT = 64 << 10
_PATIENCE_MS = 200
_READER_S = 0.02


class Writer:
    """A sink that hands every character to the file descriptor at once, so that a prompt is seen before its answer.

    A file is opened, and emptied, by ``open`` or the first character: not before the guest surely runs.

    A reader that stops reading, or a FIFO's that has not come, holds up the guest, but not its end: once ``ended`` says
    so, what is left is dropped. When the reader of a standard stream has gone, or it is full, the guest may still come
    to its own end, and so to its own exit status, unheard; but one that goes on writing (``_UNHEARD_LIMIT`` bytes) is
    ended, like any program at a pipe. HostError for that, and for everything else that cannot be written.
    """

    def __init__(self, place: int | Target, name: str, stack: contextlib.ExitStack) -> None:
        self.ended: Callable[[], bool] = lambda: False
        self._place = place
        self._descriptor = -1
        self._name = name
        self._stack = stack
        self._poll = select.poll()
        self._waits = True
        self._lost: OSError | None = None
        self._unheard = 0

    def open(self) -> bool:
        """Be ready for the next character: False while nobody reads the FIFO that it is to go to.

        HostError when the file cannot be written. Harmless when open.
        """
        if self._descriptor >= 0:
            return True
        if isinstance(self._place, int):
            self._descriptor = self._place
        else:
            descriptor = self._place.stream_if_read()
            if descriptor is None:
                return False
            self._descriptor = descriptor
            self._stack.callback(os.close, self._descriptor)
        kind = os.fstat(self._descriptor).st_mode
        # Others never make one wait, and some say that they are never ready (/dev/kmsg).
        self._waits = stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(self._descriptor)
        self._poll.register(self._descriptor, select.POLLOUT)
        return True

    def __call__(self, data: bytes) -> None:
        while not self.open():
            if self.ended():
                return
            time.sleep(_READER_S)
        while data:
            if self._lost is not None:
                self._drop(len(data))
                return
            if self._waits and not self._poll.poll(_PATIENCE_MS):
                if self.ended():
                    return
                continue
            try:
                data = data[os.write(self._descriptor, data[:_PIECE]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self._lost = error
                if not isinstance(self._place, int) and error.errno != errno.EPIPE:
                    raise self._failure(error) from None
                if self._place == 1:
                    output.lose_standard_output(error)

    def _drop(self, length: int) -> None:
        assert self._lost is not None
        self._unheard += length
        if self._unheard > _UNHEARD_LIMIT:
            raise self._failure(self._lost)

    def _failure(self, error: OSError) -> HostError:
        what = f"cannot write the guest's output to {self._name}: {error.strerror}"
        if error.errno == errno.EPIPE:
            what = f"the guest goes on writing to {self._name}, whose reader has gone"
        return HostError(what, "give it another place with -serial file:PATH", errno=error.errno or 0)


def _nowhere(_data: bytes) -> None:
    """Drops what it gets."""


def make_sink(
    stack: contextlib.ExitStack, target: str, option: str, claims: Claims | None, *, standard: Capture | None
) -> Callable[[bytes], None]:
    """The sink that QEMU's word ``target`` names: stdio, mon:stdio, none, null or file:PATH; for ``-serial`` also pty
    and unix:PATH, a ``SerialLine``. No file is touched yet.

    ``claims`` takes the file as the output of ``option``, and ``stack`` closes it; ``standard`` takes the place of the
    standard output. UsageError for another word or a file that is an input too, HostError for one that cannot be
    written.
    """
    if target.startswith(FILE):
        assert claims is not None
        path = target.removeprefix(FILE)
        return Writer(claims.writes(path, f"the {option} file"), path, stack)
    if target in STANDARD_STREAMS:
        if standard is not None:
            return standard
        return _nowhere if sys.stdout is None else Writer(sys.stdout.fileno(), "the standard output", stack)
    if target in ("none", "null"):
        return _nowhere
    if option == "-serial" and is_line(target):
        from emu.cli.serial_line import make_line

        return make_line(stack, target)
    lines = ", pty, unix:PATH,server=on" if option == "-serial" else ""
    raise UsageError(f"{option}: '{target[:64]}' is not a place for characters", f"use stdio, none{lines} or file:PATH")


def is_line(target: str | None) -> bool:
    """Whether something can also be typed there: a pseudo-terminal or a socket."""
    return target is not None and (target == "pty" or target.startswith("unix:"))
