"""Where a guest's characters go: the standard output, a file, or nowhere."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

from emu.errors import HostError, UsageError

STANDARD_STREAMS = ("stdio", "mon:stdio")
CAPTURE_LIMIT = 64 << 20
_PIECE = 512
_UNHEARD_LIMIT = 64 << 10
_PATIENCE_MS = 200


class Writer:
    """A sink that hands every character to the file descriptor at once, so that a prompt is seen before its answer.

    A reader that stops reading holds up the guest, but not its end: once ``ended`` says so, what is left is dropped.
    When the reader has gone, the guest may still come to its own end, and so to its own exit status, unheard; but one
    that goes on writing (``_UNHEARD_LIMIT`` bytes) is ended, like any program at a pipe. HostError for that, and for
    everything else that cannot be written.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.ended: Callable[[], bool] = lambda: False
        self._descriptor = descriptor
        self._name = name
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._deserted = False
        self._unheard = 0

    def __call__(self, data: bytes) -> None:
        while data:
            if self._deserted:
                self._drop(len(data))
                return
            if not self._poll.poll(_PATIENCE_MS):
                if self.ended():
                    return
                continue
            try:
                data = data[os.write(self._descriptor, data[:_PIECE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self._deserted = True
            except OSError as error:
                what = f"cannot write the guest's output to {self._name}: {error.strerror}"
                raise HostError(what, "give it another place with -serial file:PATH", errno=error.errno or 0) from None

    def _drop(self, length: int) -> None:
        self._unheard += length
        if self._unheard > _UNHEARD_LIMIT:
            what = f"the guest goes on writing to {self._name}, whose reader has gone"
            raise HostError(what, "give it another place with -serial file:PATH", errno=errno.EPIPE)


class Capture:
    """A sink that keeps what comes, up to ``CAPTURE_LIMIT`` bytes; ``cut`` tells whether there was more."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.cut = False

    def __call__(self, data: bytes) -> None:
        if len(self.data) < CAPTURE_LIMIT:
            self.data += data
        else:
            self.cut = True


def _nowhere(_data: bytes) -> None:
    """Drops what it gets."""


def open_sink(stack: contextlib.ExitStack, target: str, *, standard: Capture | None) -> Callable[[bytes], None]:
    """The sink that QEMU's word ``target`` names: stdio, mon:stdio, none, null or file:PATH.

    ``standard`` takes the place of the standard output. UsageError for another word, HostError when the file cannot be
    written.
    """
    if target.startswith("file:"):
        path = target.removeprefix("file:")
        try:
            file = stack.enter_context(Path(path).open("wb", buffering=0))  # noqa: SIM115 - the stack closes it
        except OSError as error:
            raise HostError(
                f"{path}: {error.strerror}", "give a path that can be written", errno=error.errno or 0
            ) from None
        return Writer(file.fileno(), path)
    if target in STANDARD_STREAMS:
        if standard is not None:
            return standard
        return _nowhere if sys.stdout is None else Writer(sys.stdout.fileno(), "the standard output")
    if target in ("none", "null"):
        return _nowhere
    raise UsageError(f"'{target[:64]}' is not a place for characters", "use stdio, none or file:PATH")
