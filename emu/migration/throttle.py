"""Auto-converge: slow the guest down until it dirties memory more slowly than the stream moves it."""

from __future__ import annotations

import threading

from emu.migration.guest import Guest
from emu.migration.parameters import Parameters
from emu.migration.progress import Progress

_SLICE_S = 0.01


class Throttle:
    """Holds the guest back for a percentage of the time, from a thread that lives from first use to ``stop``.

    Virtual time follows executed instructions, so a throttled guest computes the same; it only takes longer.
    """

    def __init__(self, guest: Guest, progress: Progress) -> None:
        self._guest = guest
        self._progress = progress
        self._percent = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def tighten(self, parameters: Parameters) -> None:
        """Begin with cpu-throttle-initial percent, then add cpu-throttle-increment up to max-cpu-throttle."""
        step = parameters.cpu_throttle_increment if self._percent else parameters.cpu_throttle_initial
        self._percent = min(self._percent + step, parameters.max_cpu_throttle)
        self._progress.throttle = self._percent
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="migration-throttle", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while not self._over.is_set():
            share = self._percent / 100
            self._guest.hold_back(_SLICE_S * share / (1 - share))
            self._over.wait(_SLICE_S)

    def stop(self) -> None:
        """Let the guest run freely again; returns when nothing holds it back any more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._progress.throttle = 0
