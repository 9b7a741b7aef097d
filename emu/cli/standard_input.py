"""The standard input as what is typed at COM1: taken only when the guest reads, and not a byte lost.

A guest that never reads leaves it to whoever comes next, such as the rest of a shell's loop. Its end is the end of what
is typed, not of the guest, as under QEMU.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterable
from functools import partial

from emu.cli import output
from emu.cli.signals import signal
from emu.devices.contract import ExitRequest
from emu.errors import Status
from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.devices.uart16550 import Uart16550
    from emu.machine import Machine

_PIECE = 4096
_RETRY_S = 0.05
_BACKGROUND_S = 0.5
_ESCAPE = 0x01  # Ctrl-A, QEMU's
_KEYS_HELP = "emu: Ctrl-A x ends the run, Ctrl-A Ctrl-A types Ctrl-A, Ctrl-A h shows this; so does Ctrl-C end it"


def type_standard_input(
    stack: contextlib.ExitStack, machine: Machine, *, escapes: bool, interrupts: bool = True
) -> None:
    """Feed the standard input to COM1 until it ends or ``stack`` closes.

    A terminal gives up its line editing, as under QEMU: the guest sees every key. Ctrl-C still interrupts, or with
    ``interrupts`` off is the guest's too, and with ``escapes`` Ctrl-A begins a command to emu.
    """
    from emu.devices.uart16550 import Uart16550

    com1 = machine.devices["com1"]
    if sys.stdin is None or not isinstance(com1, Uart16550):
        return
    descriptor = sys.stdin.fileno()
    # Reading from the terminal in the background then fails, instead of stopping the whole process.
    stack.callback(signal.signal, signal.SIGTTIN, signal.signal(signal.SIGTTIN, signal.SIG_IGN))
    is_terminal = os.isatty(descriptor)
    if is_terminal:
        _key_by_key(stack, descriptor, interrupts=interrupts)
    typist = Typist(machine, com1, _Escapes() if is_terminal and escapes else None)
    typist.start(partial(typist.follow, descriptor))
    stack.callback(typist.stop)


def _key_by_key(stack: contextlib.ExitStack, terminal: int, *, interrupts: bool) -> None:
    if not _in_foreground(terminal):
        return
    before = termios.tcgetattr(terminal)
    keys = termios.tcgetattr(terminal)
    keys[0] &= ~(termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL
                 | termios.IXON)  # fmt: skip
    keys[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    if not interrupts:
        keys[3] &= ~termios.ISIG
    keys[6][termios.VMIN], keys[6][termios.VTIME] = 1, 0
    keys[6][termios.VQUIT] = b"\0"  # it would kill without giving the terminal back: let the guest have it

    def restore() -> None:
        # Who has been put in the background meanwhile would be stopped for this.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTTOU})

    stack.callback(restore)
    termios.tcsetattr(terminal, termios.TCSANOW, keys)


def _in_foreground(terminal: int) -> bool:
    """Whether we are the ones who are typed to; not so at a terminal that does not control us."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False


class _Escapes:
    """Splits what is typed at a terminal into bytes for the guest and, after Ctrl-A, commands for emu."""

    def __init__(self) -> None:
        self._escaped = False

    def split(self, typed: bytes) -> Iterable[bytes | str]:
        """Bytes for the guest, or the letter of a command, in order."""
        plain = bytearray()
        for byte in typed:
            if self._escaped:
                self._escaped = False
                if byte in b"xh":
                    yield bytes(plain)
                    plain.clear()
                    yield chr(byte)
                elif byte == _ESCAPE:
                    plain.append(byte)
            elif byte == _ESCAPE:
                self._escaped = True
            else:
                plain.append(byte)
        yield bytes(plain)


class Typist:
    """Types at COM1 what comes from outside, in a thread of its own, since nothing else may wait for it."""

    def __init__(self, machine: Machine, com1: Uart16550, escapes: _Escapes | None = None) -> None:
        self._machine = machine
        self._com1 = com1
        self._descriptor = -1
        self._escapes = escapes
        self._wake, self._woken_by = os.pipe()
        self._stopped = threading.Event()
        self._fetched = threading.Event()
        self._thread: threading.Thread

    def start(self, work: Callable[[], None]) -> None:
        """Do ``work``, which follows one descriptor or several, in the thread."""
        self._thread = threading.Thread(target=work, name="typist", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give up what has not been typed yet."""
        self._stopped.set()
        self._fetched.set()
        os.close(self._woken_by)
        self._thread.join()
        os.close(self._wake)

    def follow(self, descriptor: int) -> None:
        """Type what comes from ``descriptor`` to its end, or until ``stop``."""
        self._descriptor = descriptor
        while self.awaits(descriptor) and self._serve():
            pass

    def awaits(self, descriptor: int) -> bool:
        """Wait for something to read there; False when it is for ``stop`` that there is nothing to wait for."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        poll.poll()
        return not self._stopped.is_set()

    def _serve(self) -> bool:
        """Something can be read, or the end is there; whether to go on."""
        available = None if self._escapes else _available(self._descriptor)
        if available is None:
            return self._read_and_type()
        if available == 0:
            return False
        self._fetched.clear()
        if not self._stopped.is_set():
            self._machine.call(self._announce)
        self._fetched.wait()
        return not self._stopped.is_set()

    def _announce(self) -> None:
        if self._machine.exit is None:
            self._com1.announce(self._fetch)

    def _fetch(self) -> bytes:
        """What there is now; in the machine's thread. Nothing, if somebody else has taken it."""
        data = b""
        with contextlib.suppress(OSError):
            if _available(self._descriptor):
                data = os.read(self._descriptor, _PIECE)
        self._fetched.set()
        return data

    def _read_and_type(self) -> bool:
        """For terminals, where Ctrl-A must be seen at once, and for devices that cannot say what they have."""
        try:
            typed = os.read(self._descriptor, _PIECE)
        except BlockingIOError:
            return True
        except OSError as error:
            in_background = os.isatty(self._descriptor) and not _in_foreground(self._descriptor)
            if error.errno != errno.EIO or not in_background:
                return False
            return not self._stopped.wait(_BACKGROUND_S)
        if not typed:
            return False
        for piece in self._escapes.split(typed) if self._escapes else (typed,):
            if isinstance(piece, bytes):
                self._type(piece)
            elif piece == "x":
                self._machine.end(ExitRequest("interrupted", Status.INTERRUPTED, None, "Ctrl-A x"))
            else:
                output.note(_KEYS_HELP)
        return True

    def _type(self, typed: bytes) -> None:
        """Hand over ``typed`` as fast as the guest reads it."""
        while typed and not self._stopped.is_set():
            taken = self._machine.call(partial(self._com1.receive, typed))
            typed = typed[taken:]
            if typed and not taken:
                self._stopped.wait(_RETRY_S)


def _available(descriptor: int) -> int | None:
    """How many bytes can be read at once; None when the kernel does not say (FIONREAD), as for /dev/null."""
    try:
        answer = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    except OSError:
        return None
    return int.from_bytes(answer, sys.byteorder, signed=True)
