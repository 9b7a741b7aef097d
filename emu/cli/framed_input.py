"""The standard input of a Linux guest's command: read when the guest's init asks, and sent in frames with an end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING

from emu.devices.uart16550 import Uart16550
from emu.linux.protocol import END_OF_INPUT, FRAME, frames

if TYPE_CHECKING:
    from emu.machine import Machine

_RETRY_S = 0.05


class FramedInput:
    """The thread that waits for descriptor 0, one frame for each time that ``wanted`` is set."""

    def __init__(self, machine: Machine, wanted: threading.Event) -> None:
        self._machine = machine
        self._wanted = wanted
        self._wake, self._woken_by = os.pipe()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="standard input", daemon=True)
        # Reading from the terminal in the background then fails, instead of stopping the whole process.
        self._before = signal.signal(signal.SIGTTIN, signal.SIG_IGN)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give up what has not been asked for."""
        self._stopped.set()
        self._wanted.set()
        os.close(self._woken_by)
        self._thread.join()
        os.close(self._wake)
        signal.signal(signal.SIGTTIN, self._before)

    def _work(self) -> None:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            self._wanted.wait()
            self._wanted.clear()
            poll.poll()
            if self._stopped.is_set():
                return
            data = b""
            with contextlib.suppress(OSError):  # a terminal of others: nothing comes from there
                data = os.read(0, FRAME)
            self._send(b"".join(frames(data)) or END_OF_INPUT)
            if not data:
                return

    def _send(self, frame: bytes) -> None:
        while frame and not self._stopped.is_set():
            taken = self._machine.call(partial(self._receive, frame))
            frame = frame[taken:]
            if frame:
                self._stopped.wait(_RETRY_S)

    def _receive(self, frame: bytes) -> int:
        com1 = self._machine.devices["com1"]
        assert isinstance(com1, Uart16550), "the board puts it there"
        return com1.receive(frame)
