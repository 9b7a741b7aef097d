"""Work in a thread of its own: what signals do meanwhile."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from emu.api.threads import in_thread


def test_what_work_returns_or_raises_arrives() -> None:
    assert in_thread(lambda: threading.current_thread().name, name="worker") == "worker"
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 // 0, name="worker")


def test_a_signal_that_the_working_thread_took_is_handled_while_it_works() -> None:
    """The kernel gives a process's signal to any thread that lets it through, also to one that just does so again."""
    handled = threading.Event()

    def work() -> bool:
        time.sleep(0.2)  # until the other one waits
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return handled.wait(60)

    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: handled.set())
    try:
        assert in_thread(work, name="worker")
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_brings_the_work_to_its_end_first() -> None:
    asked, ended = threading.Event(), threading.Event()

    def work() -> None:
        time.sleep(0.2)  # as above
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        assert asked.wait(60)
        ended.set()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_thread(work, name="worker", interrupt=asked.set)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.is_set()


def test_ctrl_c_while_the_thread_starts_leaves_nothing_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    threads: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        threads.append(thread)
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_thread(done.set, name="worker", interrupt=done.set)
    threads[0].join()
    assert not done.is_set()
