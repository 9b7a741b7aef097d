"""Waiting for another thread, in one that takes signals meanwhile."""

from __future__ import annotations

import threading

# Any thread that lets a signal through again (a process is started, a mask set back) may take it for itself before
# the waiting one wakes up. Python has it noted then, and runs its handler in the main thread: so that one looks.
_LOOK_S = 0.1


def wait_for(event: threading.Event) -> None:
    """Return when ``event`` is set, or with what a signal handler raises.

    Not for a thread itself: Python 3.11 takes one whose ``join`` an exception interrupted for stopped.
    """
    while not event.wait(_LOOK_S):
        pass
