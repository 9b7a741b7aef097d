"""Recovery runs spread over the workers of any ``concurrent.futures.Executor``: processes here, or a cluster's.

A worker is sent the whole task once and keeps it, with its booted machine, under a digest; after that only small jobs
travel. Image and NVDIMM files must be readable by every worker under the same paths.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cached_property

from emu.config import MachineConfig
from emu.persistence.events import Event
from emu.persistence.explore import Job, LocalWorker, Run, execute
from emu.persistence.model import Timeline, build
from emu.persistence.recovery import MachineRecovery
from emu.persistence.rules import Rules
from emu.persistence.workload import Contents, Dimm

# Fewer jobs than this are done at home: sending them away costs more than doing them.
_WORTH_SENDING = 24
_LARGEST_BATCH = 32


@dataclass(frozen=True)
class Task:
    """All that a worker must know: the machine that recovers, the workload's trace and the rules."""

    recovery: MachineConfig
    dimms: tuple[Dimm, ...]
    events: tuple[Event, ...]
    rules: Rules
    budget: int
    record: bool

    @cached_property
    def pickled(self) -> bytes:
        return pickle.dumps(self)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.pickled).hexdigest()


class Session:
    """A worker's own machine and view of the crash states. Close it."""

    def __init__(self, task: Task, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or build(task.events, task.rules)
        self.initial = Contents(task.recovery, task.dimms)
        self.recovery = MachineRecovery(task.recovery, budget=task.budget, record=task.record)

    def local_worker(self) -> LocalWorker:
        return LocalWorker(self.recovery, self.timeline, self.initial)

    def close(self) -> None:
        self.recovery.close()
        self.initial.close()


class _Kept(threading.local):
    """Each worker thread's task: a machine runs in one thread only."""

    digest = ""
    session: Session | None = None


_kept = _Kept()


def run_batch(digest: str, pickled: bytes | None, jobs: Sequence[Job], tracked: frozenset[int]) -> list[Run] | None:
    """Do ``jobs`` in this thread; None when the task of that digest is not kept here and did not come along."""
    session = _kept.session if _kept.digest == digest else None
    if session is None:
        if pickled is None:
            return None
        task: Task = pickle.loads(pickled)  # noqa: S301 - made by our own coordinator
        if _kept.session is not None:
            _kept.session.close()
        _kept.session = session = Session(task)
        _kept.digest = digest
    return [execute(job, session.recovery, tracked, session.timeline, session.initial) for job in jobs]


class ExecutorWorkers:
    """Spreads batches over ``workers`` workers of ``executor``; small rounds are done by ``home``."""

    def __init__(self, task: Task, executor: Executor, workers: int, home: LocalWorker) -> None:
        self._task = task
        self._executor = executor
        self._workers = workers
        self._home = home
        self._introduced = False

    def execute(self, jobs: Sequence[Job], tracked: frozenset[int]) -> Iterator[Run]:
        """The runs in the order of the jobs."""
        if len(jobs) < _WORTH_SENDING:
            yield from self._home.execute(jobs, tracked)
            return
        size = max(1, min(_LARGEST_BATCH, -(-len(jobs) // (4 * self._workers))))
        batches = [jobs[at : at + size] for at in range(0, len(jobs), size)]
        futures = [self._submit(batch, tracked, introduce=not self._introduced and number < self._workers)
                   for number, batch in enumerate(batches)]  # fmt: skip
        self._introduced = True
        for batch, future in zip(batches, futures, strict=True):
            runs = future.result()
            if runs is None:
                runs = self._submit(batch, tracked, introduce=True).result()
                assert runs is not None
            yield from runs

    def _submit(self, batch: Sequence[Job], tracked: frozenset[int], *, introduce: bool) -> Future[list[Run] | None]:
        pickled = self._task.pickled if introduce else None
        return self._executor.submit(run_batch, self._task.digest, pickled, batch, tracked)
