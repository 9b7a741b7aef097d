"""Exploration spread over the workers of any ``concurrent.futures.Executor``: processes here, or a cluster's.

A worker is sent the whole task once and keeps it, with its booted machine, for as long as that investigation lasts;
after that branches of the tree travel, which it owns until they have grown. Image and NVDIMM files must be readable by
every worker under the same paths.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from emu.config import MachineConfig
from emu.machine import Exit
from emu.persistence.lab.booted import Booted
from emu.persistence.lab.chunks import Chunks
from emu.persistence.lab.explore import LocalWorker, Recovery
from emu.persistence.lab.growth import Branch, End, Grown, Growth, Interrupted, Job, Run, execute
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.matters import Matters
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.resume import KeptRuns
from emu.persistence.lab.states import Judging, Legal
from emu.persistence.lab.told import pieces
from emu.persistence.lab.workload import Contents, Dimm
from emu.persistence.model.events import Event
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import Timeline, build

# Fewer jobs than this are done at home: sending them away costs more than doing them.
_WORTH_SENDING = 24
_LARGEST_BATCH = 32
# Batches for each worker in a round: branches grow unequally, and at its end some wait for the last.
_BATCHES = 16
_POLL_S = 0.2
# As for the command's own process (emu.cli.start): what an exploration makes stays, and is no garbage.
_GARBAGE_THRESHOLD = 100_000


@dataclass(frozen=True)
class Task:
    """All that a worker must know: the machine that recovers, the workload's trace and the rules; power fails from
    event ``first`` on. ``linux``: recovery is a Linux machine's command, from there on. ``feed_printed``: it gets what
    was printed. ``legal``: what it shows is judged, too. ``kept``: the runs that need not be run, as
    ``KeptRuns.content``; without it none are kept. ``all_reads``: all are asked for, not only those that can matter.

    ``key`` names the investigation. What a worker keeps belongs to that one: the next may find the same paths with
    other bytes behind them.
    """

    recovery: MachineConfig
    dimms: tuple[Dimm, ...]
    events: Sequence[Event]
    rules: Rules
    budget: int
    timeout: float
    record: bool
    first: int = 0
    linux: Booted | Exit | None = None
    feed_printed: bool = False
    legal: Legal | None = None
    kept: bytes | None = None
    all_reads: bool = False
    key: str = field(default_factory=lambda: os.urandom(16).hex())

    @cached_property
    def pickled(self) -> bytes:
        return pickle.dumps(self)


class Session:
    """A worker's own machine and view of the crash states. Close it; an ``initial`` that was given stays open.

    ``fresh`` are the runs that were not kept, where any are.
    """

    def __init__(
        self,
        task: Task,
        timeline: Timeline | None = None,
        initial: Contents | None = None,
        interruption: Interruption | None = None,
    ) -> None:
        self.timeline = timeline or build(task.events, task.rules, task.first)
        self._own = initial is None
        self.initial = Contents(task.recovery, task.dimms) if initial is None else initial
        self.chunks = Chunks(self.timeline, self.initial)
        self.matters = None if task.all_reads else Matters(self.timeline)
        self.machine = MachineRecovery(
            task.recovery,
            budget=task.budget,
            timeout=task.timeout,
            record=task.record,
            interruption=interruption,
            linux=task.linux,
            printed=pieces(task.events) if task.feed_printed else None,
            keep_shown=task.legal is not None,
        )
        self.fresh: list[Run] = []
        self.judge(task.legal)

    def judge(self, legal: Legal | None) -> None:
        """Let what recovery shows be judged, where there is something ``legal``."""
        self.recovery: Recovery = self.machine if legal is None else Judging(self.machine, legal)

    def keep(self, kept: KeptRuns) -> None:
        """Run what is not kept only, and keep it."""
        self.recovery = kept.recovery(self.recovery, self.fresh.append)

    def local_worker(self) -> LocalWorker:
        return LocalWorker(self.recovery, self.timeline, self.initial)

    def close(self) -> None:
        self.machine.close()
        if self._own:
            self.initial.close()


@dataclass(frozen=True)
class Done:
    """A batch that is done. ``chunks`` are those that its branches name; ``fresh`` are the runs that are to be kept."""

    results: list[Grown | Run]
    chunks: dict[int, bytes]
    fresh: tuple[Run, ...]


class _Kept(threading.local):
    """Each worker thread's task: a machine runs in one thread only."""

    key = ""
    session: Session | None = None


_kept = _Kept()


def be_there() -> None:
    """Nothing, in a worker: for this it has started, and has imported all that it needs."""


def run_batch(key: str, pickled: bytes | None, batch: Sequence[Branch | Job], tracked: frozenset[int]) -> Done | None:
    """Grow branches and do jobs in this thread; None when the task of that key is not here and did not come along."""
    session = _kept.session if _kept.key == key else None
    if session is None:
        if pickled is None:
            return None
        task: Task = pickle.loads(pickled)  # noqa: S301 - made by our own coordinator
        if _kept.session is not None:
            _kept.session.close()
        _kept.session = session = Session(task)
        if task.kept is not None:
            session.keep(KeptRuns("", task.kept))
        _kept.key = key
    recovery, timeline, initial = session.recovery, session.timeline, session.initial
    chunks, matters = session.chunks, session.matters

    def run(job: Job) -> Run:
        return execute(job, recovery, tracked, timeline, initial)

    results = [
        run(work) if isinstance(work, Job) else Growth.elsewhere(work, timeline, initial, chunks, matters, run)
        for work in batch
    ]
    grown = (result for result in results if isinstance(result, Grown))
    used = dict.fromkeys(number for result in grown for node in result.nodes for number in node[3])
    done = Done(results, {number: chunks.data(number) for number in used}, tuple(session.fresh))
    session.fresh.clear()
    return done


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """A pool of processes that end with this block, whatever they do then, and with this process, however it ends."""
    from multiprocessing.context import SpawnContext, SpawnProcess

    started: list[SpawnProcess] = []
    results: list[Any] = []

    # A fresh interpreter: a fork would copy a process in which an engine is open.
    class Context(SpawnContext):
        def Process(  # type: ignore[override]  # noqa: N802 - a class there, as in all of multiprocessing
            self, *words: Any, **options: Any
        ) -> SpawnProcess:
            started.append(SpawnProcess(*words, **options))
            return started[-1]

        def SimpleQueue(self) -> Any:  # noqa: N802 - as above; the executor's queue of results
            results.append(super().SimpleQueue())
            return results[-1]

    class Pool(futures.ProcessPoolExecutor):
        def submit(self, *words: Any, **options: Any) -> Future[Any]:
            # Here workers start. Ctrl-C at the terminal reaches them too: blocked until _follow_parent ignores it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                return super().submit(*words, **options)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    _start_tracker()
    pool = Pool(workers, mp_context=Context(), initializer=_follow_parent)
    try:
        yield pool
    finally:
        for process in started:
            process.kill()
        for queue in results:
            # A worker that is killed while it writes a result leaves the executor's thread waiting for the rest of it,
            # for ever while anybody can write: we are the last who could.
            queue._writer.close()
        pool.shutdown(cancel_futures=True)


def _start_tracker() -> None:
    """Multiprocessing's helper that removes what a process leaves which was ended: it shares our standard error, and
    need not say there what it has to remove.
    """
    from multiprocessing import resource_tracker

    before = sys.warnoptions[:]
    sys.warnoptions.append(f"ignore:::{resource_tracker.__name__}")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = before


def _follow_parent() -> None:
    """In a worker: end when the parent does. Ctrl-C at the terminal reaches us too, and is the parent's business."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="follow-parent", daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    # A pipe whose other end only the parent holds: it closes when the parent ends, also by SIGKILL, also before this.
    parent.join()
    os._exit(1)


class ExecutorWorkers:
    """Spreads branches over ``workers`` workers of ``executor``; small rounds are done by ``home``. What is run is
    ``kept``, where the task has what was kept before.
    """

    def __init__(
        self,
        task: Task,
        executor: Executor,
        workers: int,
        home: LocalWorker,
        interruption: Interruption | None = None,
        kept: KeptRuns | None = None,
    ) -> None:
        self._task = task
        self._kept = kept
        self._executor = executor
        self._workers = workers
        self._home = home
        self._interruption = interruption or Interruption()
        self._introduced = False

    def grow(self, growth: Growth, ends: Sequence[End], tracked: frozenset[int]) -> Iterator[None]:
        """Grow the ends, one after the other; ``Interrupted`` instead of waiting on when that was asked for."""
        if len(ends) < _WORTH_SENDING:
            yield from self._home.grow(growth, ends, tracked)
            return
        size = max(1, min(_LARGEST_BATCH, -(-len(ends) // (_BATCHES * self._workers))))
        batches = [ends[at : at + size] for at in range(0, len(ends), size)]
        taken = [[growth.take(end) for end in batch] for batch in batches]
        submitted = [self._submit(batch, tracked, introduce=not self._introduced and number < self._workers)
                     for number, batch in enumerate(taken)]  # fmt: skip
        self._introduced = True
        for batch, work, future in zip(batches, taken, submitted, strict=True):
            done = self._wait(future)
            if done is None:
                done = self._wait(self._submit(work, tracked, introduce=True))
                assert done is not None
            if self._kept is not None:
                self._kept.add(tracked, done.fresh)
            numbers = {number: growth.tree.chunks.add(data)[0] for number, data in done.chunks.items()}
            for end, result in zip(batch, done.results, strict=True):
                growth.put(end.node, result, numbers)
                yield

    def _submit(
        self, batch: Sequence[Branch | Job], tracked: frozenset[int], *, introduce: bool
    ) -> Future[Done | None]:
        pickled = self._task.pickled if introduce else None
        return self._executor.submit(run_batch, self._task.key, pickled, batch, tracked)

    def _wait(self, future: Future[Done | None]) -> Done | None:
        while not self._interruption.asked:
            try:
                return future.result(_POLL_S)
            except futures.TimeoutError:
                if future.done():
                    raise  # the job's own
        raise Interrupted
