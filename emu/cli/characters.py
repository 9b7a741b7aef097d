"""Where a guest's characters go and where they come from: the standard streams, a file, or nowhere."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from emu.errors import HostError, UsageError

if TYPE_CHECKING:
    from devices.uart16550 import Uart16550
    from emu.machine import Machine

STANDARD_STREAMS = ("stdio", "mon:stdio")
CAPTURE_LIMIT = 64 << 20
_PIECE = 512
_UNHEARD_LIMIT = 64 << 10
_PATIENCE_MS = 200
_RETRY_S = 0.05
_BACKGROUND_S = 0.5


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


def type_standard_input(stack: contextlib.ExitStack, machine: Machine) -> None:
    """Feed the standard input to COM1 until it ends or ``stack`` closes. A terminal gives up its line editing, as under
    QEMU: the guest sees every key, but Ctrl-C still interrupts."""
    from devices.uart16550 import Uart16550

    com1 = machine.devices["com1"]
    if sys.stdin is None or not isinstance(com1, Uart16550):
        return
    descriptor = sys.stdin.fileno()
    if os.isatty(descriptor):
        _key_by_key(stack, descriptor)
    typist = _Typist(machine, com1, descriptor)
    typist.start()
    stack.callback(typist.stop)


def _key_by_key(stack: contextlib.ExitStack, terminal: int) -> None:
    import termios

    try:
        in_foreground = os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return  # not the terminal that controls us
    if not in_foreground:
        return
    before = termios.tcgetattr(terminal)
    keys = termios.tcgetattr(terminal)
    keys[0] &= ~(termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL
                 | termios.IXON)  # fmt: skip
    keys[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    keys[6][termios.VMIN], keys[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, keys)

    def restore() -> None:
        # Who has been put in the background meanwhile would be stopped for this.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})

    stack.callback(restore)


class _Typist:
    """The thread that reads the standard input, since nothing else may wait for it."""

    def __init__(self, machine: Machine, com1: Uart16550, descriptor: int) -> None:
        self._machine = machine
        self._com1 = com1
        self._descriptor = descriptor
        self._wake, self._woken_by = os.pipe()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="standard input", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give up what has not been typed yet."""
        self._stopped.set()
        os.close(self._woken_by)
        self._thread.join()
        os.close(self._wake)

    def _work(self) -> None:
        # Reading from the terminal in the background then fails, instead of stopping the whole process.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTIN})
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while not self._stopped.is_set():
            poll.poll()
            if self._stopped.is_set():
                return
            try:
                typed = os.read(self._descriptor, 4096)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.EIO or not self._in_background():
                    return
                self._stopped.wait(_BACKGROUND_S)
                continue
            if not typed:
                return
            self._type(typed)

    def _in_background(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) != os.getpgrp()
        except OSError:
            return False

    def _type(self, typed: bytes) -> None:
        """Hand over ``typed`` as fast as the guest reads it."""
        while typed and not self._stopped.is_set():
            taken = self._machine.call(partial(self._com1.receive, typed))
            typed = typed[taken:]
            if typed and not taken:
                self._stopped.wait(_RETRY_S)
