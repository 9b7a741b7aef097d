"""Ends runs that take too long in real time: a guest that waits for an interrupt uses up no basic blocks."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from emu.devices.contract import ExitRequest
from emu.errors import Status

if TYPE_CHECKING:
    from types import TracebackType

    from emu.machine import Machine

_LOOKS_EVERY_S = 0.1


class Watchdog:
    """One thread for thousands of short runs, each of which may last ``seconds``. Close it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._watched: tuple[Machine, float] | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def watches(self, machine: Machine) -> Watchdog:
        """Until the end of a ``with`` statement, end ``machine`` if this lasts longer than it may, with the reason
        ``timeout``. One machine at a time.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
            self._thread.start()
        with self._lock:
            self._watched = machine, time.monotonic() + self._seconds
        return self

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._watched = None

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while not self._closed.wait(_LOOKS_EVERY_S):
            with self._lock:
                if self._watched is not None and time.monotonic() > self._watched[1]:
                    detail = f"the guest was still running after {self._seconds:g} s"
                    self._watched[0].end(ExitRequest("timeout", Status.TIMEOUT, None, detail))
                    self._watched = None
