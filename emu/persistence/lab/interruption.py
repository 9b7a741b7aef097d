"""Ends an investigation early, keeping what it has found: Ctrl-C, or the end of its time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emu.devices.contract import ExitRequest
from emu.errors import Status

if TYPE_CHECKING:
    from types import TracebackType

    from emu.machine import Machine
    from emu.persistence.lab.deadline import Deadline

INTERRUPTED = "interrupted"
"""Reason of the ``Exit`` of a machine that was ended by an interruption."""


class Interruption:
    """``ask`` may be called in any thread, also in a signal handler of a thread that runs no machine. ``why`` says
    what asked.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._machines: list[Machine] = []
        self._parts: list[Interruption] = []
        self.why = ""

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self, why: str = INTERRUPTED) -> None:
        """End the machine that runs now, and let no other one start."""
        self.why = self.why or why
        self._asked.set()
        for part in tuple(self._parts):
            part.ask(why)
        for machine in tuple(self._machines):
            self._end(machine)

    @contextmanager
    def until(self, deadline: Deadline) -> Iterator[Interruption]:
        """An interruption of a part of the work: it is asked when this one is, and at ``deadline``."""
        part = Interruption()
        self._parts.append(part)
        timer = None
        if deadline.at != math.inf:
            timer = threading.Timer(deadline.left, part.ask, (str(deadline),))
            timer.daemon = True
            timer.start()
        try:
            if self.asked:
                part.ask(self.why)
            yield part
        finally:
            self._parts.remove(part)
            if timer is not None:
                timer.cancel()

    def ends(self, machine: Machine) -> _Ending:
        """While this lasts (a context manager), asking ends ``machine``; at once where that was asked before."""
        return _Ending(self, machine)

    def _end(self, machine: Machine) -> None:
        machine.end(ExitRequest(INTERRUPTED, Status.INTERRUPTED, None, self.why))


class _Ending:
    """What ``Interruption.ends`` gives. No generator: there is one for each of ten thousand runs a second."""

    __slots__ = ("_interruption", "_machine")

    def __init__(self, interruption: Interruption, machine: Machine) -> None:
        self._interruption = interruption
        self._machine = machine

    def __enter__(self) -> None:
        interruption = self._interruption
        interruption._machines.append(self._machine)
        if interruption.asked:
            interruption._end(self._machine)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._interruption._machines.remove(self._machine)
