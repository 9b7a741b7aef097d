"""Work in a thread of its own, waited for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], *, name: str, interrupt: Callable[[], None] | None = None) -> T:
    """What ``work()`` returns or raises; it is done in a thread called ``name`` while this one waits.

    Python runs signal handlers between byte codes of the main thread only, and the CPU may run guest code for hours.
    What such a handler raises meanwhile (KeyboardInterrupt) calls ``interrupt``, which must bring the work to its end,
    and goes on its way once the work has ended: nothing may be closed under it.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def do() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=do, name=name, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        if interrupt is not None:
            interrupt()
            while thread.is_alive():
                with contextlib.suppress(KeyboardInterrupt):
                    thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]
