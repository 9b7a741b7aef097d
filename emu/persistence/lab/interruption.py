"""Ends an investigation early, keeping what it has found: Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.devices.contract import ExitRequest
from emu.errors import Status

if TYPE_CHECKING:
    from emu.machine import Machine

INTERRUPTED = "interrupted"
"""Reason of the ``Exit`` of a machine that was ended by an interruption."""


class Interruption:
    """``ask`` may be called in any thread, also in a signal handler of a thread that runs no machine."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._machines: list[Machine] = []

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        """End the machine that runs now, and let no other one start."""
        self._asked.set()
        for machine in tuple(self._machines):
            self._end(machine)

    @contextmanager
    def ends(self, machine: Machine) -> Iterator[None]:
        """While this lasts, asking ends ``machine``; at once where that was asked before."""
        self._machines.append(machine)
        try:
            if self.asked:
                self._end(machine)
            yield
        finally:
            self._machines.remove(machine)

    @staticmethod
    def _end(machine: Machine) -> None:
        machine.end(ExitRequest(INTERRUPTED, Status.INTERRUPTED, None, "interrupted"))
