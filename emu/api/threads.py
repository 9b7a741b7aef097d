"""Work in a thread of its own, waited for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from emu.hints import TypeVar
from emu.host.waiting import wait_for

T = TypeVar("T")


def in_thread(work: Callable[[], T], *, name: str, interrupt: Callable[[], None] | None = None) -> T:
    """What ``work()`` returns or raises; it is done in a thread called ``name`` while this one waits.

    Python runs signal handlers between byte codes of the main thread only, and the CPU may run guest code for hours.
    What such a handler raises meanwhile (KeyboardInterrupt) calls ``interrupt``, which must bring the work to its end,
    and goes on its way once the work has ended: nothing may be closed under it.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    begin, over = threading.Event(), threading.Event()
    wanted = True

    def do() -> None:
        begin.wait()
        try:
            if wanted:
                outcome.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=do, name=name, daemon=True)
    try:
        thread.start()
        begin.set()
        wait_for(over)
    except BaseException:
        if not begin.is_set():  # interrupted while the thread started: nothing was done, and nothing will be
            wanted = False
            begin.set()
        elif interrupt is not None:
            interrupt()
            while not over.is_set():
                with contextlib.suppress(KeyboardInterrupt):
                    wait_for(over)
        raise
    if failure:
        raise failure[0]
    return outcome[0]
