"""What Ctrl-C, SIGTERM and SIGHUP do to the command: it ends with status 130, nothing left behind and no traceback.

Before and after the command's own work there is nothing to put away, and the process ends at once: Python's own way, an
exception in whatever is running, would also hit imports and the interpreter's shutdown. During the work that exception,
KeyboardInterrupt, is right; but once only, since what puts things away may not be interrupted in turn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    import signal as signal
    from types import FrameType
else:
    import _signal as signal  # the same functions, and numbers: Python's own makes enumerations of them first

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 0.001
INTERRUPTED = 130  # errors.Status.INTERRUPTED; this module is imported before everything else, and fast

_working = False
_interrupted = False
_owed = False


def take_over() -> None:
    """Handle the signals from here on, except those ignored on purpose (nohup, a shell's background job)."""
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    signal.signal(signal.SIGALRM, _interrupt)
    sys.unraisablehook = _not_raised


def name(number: int) -> str:
    """That of one of those that end the command."""
    return ("SIGINT", "SIGTERM", "SIGHUP")[ENDING.index(number)]


def settle() -> None:
    """Raise the KeyboardInterrupt that is still owed, if one is."""
    global _owed  # noqa: PLW0603 - as for put_away
    if _owed:
        _owed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt


def put_away() -> None:
    """The command is at its end and puts things away: from here on nothing interrupts it."""
    global _interrupted  # noqa: PLW0603 - signals belong to the process, and so does what is known about them
    _interrupted = True


def _end(_number: int, frame: FrameType | None) -> None:
    global _interrupted  # noqa: PLW0603 - as above
    if not _working:
        os._exit(INTERRUPTED)
    if not _interrupted:
        _interrupted = True
        _raise_in(frame)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    global _owed  # noqa: PLW0603 - as above
    _owed = False
    _raise_in(frame)


def _raise_in(frame: FrameType | None) -> None:
    """KeyboardInterrupt in what is running, or soon: one in ``_not_raised`` would be printed and forgotten."""
    while frame is not None:
        if frame.f_code is _not_raised.__code__:
            _owe()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _owe() -> None:
    global _owed  # noqa: PLW0603 - as above
    _owed = True
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _not_raised(problem: sys.UnraisableHookArgs) -> None:
    """In a finaliser or a callback of C code nothing can be raised: then the interruption comes a moment later."""
    if isinstance(problem.exc_value, KeyboardInterrupt):
        _owe()
    else:
        sys.__unraisablehook__(problem)


@contextmanager
def interruptible() -> Iterator[None]:
    """While the body runs, the first of the signals raises KeyboardInterrupt in it."""
    global _working, _interrupted  # noqa: PLW0603 - as above
    _working = True
    try:
        yield
    finally:
        _working = _interrupted = False
