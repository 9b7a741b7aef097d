"""One investigation from end to end: record the workload, explore its crash states, explain what fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from emu import __version__
from emu.config import MachineConfig
from emu.errors import HostError, UsageError
from emu.linux.prepare import Request, prepare
from emu.linux.programs import command
from emu.linux.protocol import Role
from emu.persistence.lab import resume
from emu.persistence.lab.deadline import Deadline
from emu.persistence.lab.explore import (
    FIRST_FAILURE,
    Exploration,
    Interrupted,
    Limits,
    Progress,
    Verdict,
    Workers,
    explore,
)
from emu.persistence.lab.findings import ROBUSTNESS, Analyst, Failure, with_promises
from emu.persistence.lab.interruption import INTERRUPTED, Interruption
from emu.persistence.lab.jobs import ExecutorWorkers, Session, Task, be_there, process_pool
from emu.persistence.lab.linux import KERNEL_CODE, Scene
from emu.persistence.lab.live import LiveCauses
from emu.persistence.lab.memories import MOST_STEPS, Patience
from emu.persistence.lab.promised import unkept
from emu.persistence.lab.recorder import TRACE_FULL
from emu.persistence.lab.recovery import judge
from emu.persistence.lab.resume import KeptRuns
from emu.persistence.lab.robust import violations
from emu.persistence.lab.stacks import Capture, capture
from emu.persistence.lab.states import States, states_of
from emu.persistence.lab.told import tell
from emu.persistence.lab.unsynced import Unsynced
from emu.persistence.lab.workload import Contents, Workload, record
from emu.persistence.model.blocks import Tears, find_blocks
from emu.persistence.model.distinct import count_distinct
from emu.persistence.model.events import Event, Fence, Flush, LabelWrite, Store, WriteBack, units_of
from emu.persistence.model.operations import Operation, Window, operations, window
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import Timeline, build
from emu.persistence.model.waste import Waste, find_waste

STATES, ROBUST = "states", "robust"
"""Checks: see ``lab.states`` and ``lab.robust``."""
CHECKS = (STATES, ROBUST)
_LONGEST_OBSERVED = 4096
# Steps of the search for causes while somebody who pressed Ctrl-C waits for a prompt.
_STEPS_INTERRUPTED = 2_000_000
_MOST_NAMED = 512
# What of the whole time, and how many seconds at most, is left when the exploration ends for all that comes after it,
# and when the explanations end for what reads the debug information.
_FOR_THE_REST = 0.25, 60.0
_FOR_NAMES = 0.1, 20.0
# A run that lasts longer is ended; before that those of other processes tell what they have found.
_GRACE_S = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """What to investigate. ``observe`` lists (offset, length) in the first NVDIMM. Times in seconds.

    ``workload_timeout`` bounds the recorded run; ``budget`` bounds a recovery, in basic blocks, so that an endless one
    is the same failure on every host. One that waits without running is bounded by ``workload_timeout`` too.

    Power fails from ``start`` to ``stop`` only (see ``model.operations.window``). With ``durable_when_done`` what a
    finished operation stored must be durable when it says that it is done. With ``feed_printed`` recovery reads on its
    standard input what the workload had printed. ``checks`` are more ways to judge than how recovery ends: ``CHECKS``.
    ``warnings``: what is wasted is to be shown, so its stacks are wanted. ``types`` are the words of ``--type``,
    which name fields in reports.

    With ``linux`` both machines get its kernel, and its commands are workload and recovery. With ``tears`` its block
    writes are not looked at exactly.
    """

    workload: MachineConfig
    recovery: MachineConfig
    rules: Rules = field(default_factory=Rules)
    observe: tuple[tuple[int, int], ...] = ()
    limits: Limits = field(default_factory=Limits)
    workload_timeout: float = 60.0
    event_limit: int = 1 << 18
    budget: int = 5_000_000
    jobs: int = 1
    start: str | None = None
    stop: str | None = None
    durable_when_done: bool = False
    feed_printed: bool = False
    checks: frozenset[str] = frozenset()
    warnings: bool = False
    types: tuple[str, ...] = ()
    linux: Request | None = None
    tears: Tears | None = None

    @property
    def program(self) -> str | None:
        """The file whose code is judged: the image, or the program that the workload of a Linux machine is."""
        if self.linux is None:
            return self.workload.image
        return command(self.linux.commands[Role.EXEC], "--exec").programs[-1]

    @property
    def scope(self) -> str:
        """``program`` when only a program's own stores can be lost, else ``all``."""
        return "all" if self.rules.trusted_from is None else "program"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the observed bytes held, the crash points (event numbers) that allow it, and what became of recovery."""

    observed: tuple[bytes, ...]
    events: tuple[int, ...]
    verdict: bool | None
    endings: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """All that an investigation found; ``distinct`` is None when counting would have taken too long.

    It owns ``initial``, what the NVDIMMs held before the workload, and ``scene``, what a Linux machine was made ready
    with: a context manager. ``unexplained`` says why failing states were left without a cause; empty when each has one.
    ``states`` are those of ``--check states``; ``captures`` the stacks at the events that failures name, where the
    workload was run again for them.
    """

    question: Question
    workload: Workload
    window: Window
    initial: Contents
    timeline: Timeline
    exploration: Exploration
    eager: int
    distinct: int | None
    outcomes: tuple[Outcome, ...]
    failures: tuple[Failure, ...]
    unexplained: str
    waste: tuple[Waste, ...]
    incomplete_because: tuple[str, ...]
    interrupted: bool = False
    states: States | None = None
    captures: Mapping[int, Capture] = field(default_factory=dict)
    scene: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self.initial.close()
        self.scene.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def workload_failed(self) -> bool:
        """Whether the recorded run itself ended as no recovery may end. One that emu cut short has not."""
        ended = self.workload.ended
        return ended.reason not in (TRACE_FULL, INTERRUPTED) and not judge(ended, b"").ok

    @property
    def empty(self) -> bool:
        """Whether there was nothing to judge: no store and no label write of the workload reached an NVDIMM."""
        return not any(isinstance(event, Store | LabelWrite) for event in self.workload.events)

    @property
    def complete(self) -> bool:
        """Whether every crash state of this one execution was covered."""
        return not self.incomplete_because

    @property
    def failed(self) -> bool:
        """Whether some memory does not recover, lacks what was promised, or fails another check."""
        return not self.recovers or any(
            failure.promise is not None or failure.kind == ROBUSTNESS for failure in self.failures
        )

    @property
    def recovers(self) -> bool:
        """Whether recovery failed on none of the memories that it was run on."""
        return all(outcome.verdict is not False for outcome in self.outcomes)

    @property
    def operations(self) -> list[Operation]:
        """What the workload says of itself."""
        return operations(self.workload.marks)

    @property
    def whole(self) -> bool:
        """Whether power failed in all of the run, not only in a part of it."""
        return self.window == Window(0, len(self.workload.events))

    @property
    def counts(self) -> dict[str, int]:
        """How many events of each class."""
        return count_events(self.workload.events)


def count_events(events: Sequence[Event]) -> dict[str, int]:
    """Numbers of regular and non-temporal stores, of flushes (also of the whole cache) and of fences; and of label
    writes, if there are any.
    """
    labels = sum(isinstance(event, LabelWrite) for event in events)
    return {
        "stores": sum(isinstance(event, Store) and not event.nt for event in events),
        "nt_stores": sum(isinstance(event, Store) and event.nt for event in events),
        "flushes": sum(isinstance(event, Flush | WriteBack) for event in events),
        "fences": sum(isinstance(event, Fence) for event in events),
        **({"label_writes": labels} if labels else {}),
    }


OnCause = Callable[[Workload, Failure], None]


def investigate(
    question: Question,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    interruption: Interruption | None = None,
    workload: Workload | None = None,
    on_cause: OnCause | None = None,
    kept: KeptRuns | None = None,
) -> Answer:
    """Answer ``question``. With an ``executor`` its workers run the recoveries (``question.jobs`` of them at a time).
    A ``workload`` is one that was recorded before, of the question of an open answer but for its rules. ``on_cause`` is
    told of causes with the run that they are in, while the exploration goes on. Runs that are ``kept`` are not done
    again.

    UsageError or HostError when a machine cannot be built. Whatever the guests do ends in an ``Answer``, and so does an
    ``interruption``: what was found until then. Close the answer.
    """
    interruption = interruption or Interruption()
    search = question.limits.deadline.leaving(*_FOR_THE_REST)
    with ExitStack() as of_answer, ExitStack() as scratch:
        searching = scratch.enter_context(interruption.until(replace(search, at=search.at + _GRACE_S)))
        scene = None
        if question.linux is not None and workload is None:
            question, scene = _scene(question, question.linux, of_answer)
        if executor is None and question.jobs > 1:
            # They start while the workload is recorded.
            executor = scratch.enter_context(_processes(question.jobs, at_once=workload is None))
        answer = _answer(question, scene, workload, executor, progress, interruption, searching, on_cause, kept)
        return replace(answer, scene=of_answer.pop_all())


@contextmanager
def _processes(jobs: int, *, at_once: bool) -> Iterator[Executor]:
    """Processes for ``jobs`` jobs; they start ``at_once``, or when there is work for them."""
    from concurrent.futures import BrokenExecutor

    with process_pool(jobs) as pool:
        try:
            for _ in range(jobs if at_once else 0):
                pool.submit(be_there)
            yield pool
        except BrokenExecutor:
            raise HostError("a worker process died", "it may have run out of memory: use fewer --jobs") from None


def _scene(question: Question, asked: Request, scratch: ExitStack) -> tuple[Question, Scene]:
    """Make ready what the Linux machine of ``question`` needs; both live as long as ``scratch``."""
    prepared = prepare(asked, question.workload, scratch)
    folder = Path(scratch.enter_context(TemporaryDirectory(prefix="emu-crash-")))
    question = replace(question, workload=prepared.config, recovery=prepared.config)
    return question, Scene(prepared, Role.SETUP in asked.commands, folder)


def _answer(
    question: Question,
    scene: Scene | None,
    workload: Workload | None,
    executor: Executor | None,
    progress: Progress | None,
    interruption: Interruption,
    searching: Interruption,
    on_cause: OnCause | None,
    kept: resume.KeptRuns | None,
) -> Answer:
    deadline = question.limits.deadline
    recorded = workload is None
    if workload is None:
        workload = record(
            question.workload,
            timeout=question.workload_timeout,
            event_limit=question.event_limit,
            interruption=searching,
            scene=scene,
            hear_prints=question.feed_printed or STATES in question.checks,
        )
        workload = tell(workload, prints=question.feed_printed, boundaries=STATES in question.checks)
    begun = workload.begun
    if begun is not None:
        question = replace(question, workload=begun.config, recovery=begun.config)
    if question.tears is not None:
        blocks = find_blocks(workload.events, KERNEL_CODE, question.tears)
        question = replace(question, rules=replace(question.rules, blocks=blocks))
    observe = _observed_units(question, workload)
    part = window(question.start, question.stop, workload.marks, len(workload.events))
    happened = workload.events[: part.last]
    timeline = build(happened, question.rules, part.first, is_late=lambda: searching.asked)
    task = Task(question.recovery, workload.dimms, happened, question.rules, question.budget,
                question.workload_timeout, question.limits.depth > 1, part.first,
                None if begun is None else begun.booted, question.feed_printed,
                () if STATES in question.checks else None,
                # Robustness is about all reads; what Linux's recovery has read spares the analysis its slow runs.
                all_reads=ROBUST in question.checks or question.linux is not None)  # fmt: skip
    initial = Contents(question.workload, workload.dimms)
    session = Session(task, timeline, initial, searching)
    states = live = unsynced = None
    if begun is not None and begun.again is not None:
        unsynced = Unsynced(workload, begun.again, question.budget, question.workload_timeout, searching)
    if on_cause is not None:
        found_one = partial(on_cause, workload)
        live = LiveCauses(timeline, workload.events, initial, session.recovery, found_one, first=part.first,
                          machine=session.machine, unsynced=unsynced)  # fmt: skip
    try:
        if STATES in question.checks:
            # Of all of the run: what a crash inside of an operation may show is known only when that has ended.
            excused = (Interrupted, UsageError) if workload.cut_short else (Interrupted,)
            with suppress(*excused):  # then nothing is explored, either
                states = states_of(workload.events, initial, session.machine)
                task = replace(task, legal=states.legal)
                session.judge(states.legal)
        if kept is not None:
            kept.serve(_made_with(question, workload, part, initial))
        found = explore(
            timeline,
            initial,
            _workers(question, task, session, executor, searching, kept),
            limits=replace(question.limits, deadline=deadline.leaving(*_FOR_THE_REST)),
            observe=observe,
            progress=progress,
            interruption=searching,
            on_failure=live,
            matters=session.matters,
        )
        # What was found is still explained after an interruption.
        explaining = deadline.leaving(*_FOR_NAMES)
        patience = Patience(_STEPS_INTERRUPTED if interruption.asked else MOST_STEPS, explaining)
        with (Interruption() if interruption.asked else interruption).until(explaining) as session.machine.interruption:
            if unsynced is not None:
                unsynced.interruption = session.machine.interruption
            analyst = Analyst(found, timeline, workload.events, initial, session.recovery, patience,
                              first=part.first, machine=session.machine, unsynced=unsynced)  # fmt: skip
            failures = analyst.explain()
        late = _Late(interruption, explaining)
        because = list(found.incomplete_because)
        # A run that was cut short need not have come to the end of an operation.
        has_promises = not workload.cut_short or any(one.done is not None for one in operations(workload.marks))
        if question.durable_when_done and question.rules.flushes_count and has_promises:
            promises = unkept(workload.events, operations(workload.marks), part, question.rules, initial)
            broken = list(takewhile(lambda _: not late(), promises))
            failures = with_promises(failures, broken, workload.events)
        if ROBUST in question.checks and not (failures and question.limits.first_failure):
            failures += violations(found, timeline, happened, initial, failures, is_late=late)
        if late.said and (question.durable_when_done or ROBUST in question.checks):
            because.append(late.said)
        left_out = question.limits.first_failure and len(failures) > 1
        if left_out:
            failures = failures[:1]
        captures: Mapping[int, Capture] = {}
        waste = None
        if timeline.points[-1].event == len(happened):  # there was time for all of it
            waste = find_waste(workload.events, timeline, is_late=late)
        if late.said and question.warnings:
            because.append(late.said)
        wanted = named(failures, (waste or ()) if question.warnings else (), len(workload.events))
        can_be_run_again = begun is None or begun.again is not None
        if recorded and wanted and can_be_run_again and explaining.left and not interruption.asked:
            captures = capture(question.workload, workload, wanted, interruption=interruption,
                               timeout=min(question.workload_timeout, explaining.left))  # fmt: skip
        if workload.cut_short and workload.ended.reason != INTERRUPTED:
            because.insert(0, f"the workload was cut short: {workload.cut_short}")
        if left_out:
            because.append(FIRST_FAILURE)
        because += workload.doubts
        because += _inexact(question)
        return Answer(
            question,
            workload,
            part,
            initial,
            timeline,
            found,
            sum(point.eager for point in timeline.points),
            None if interruption.asked else count_distinct(timeline, initial, is_late=late),
            tuple(_outcomes(question, workload, timeline, found)),
            tuple(failures),
            analyst.unexplained,
            waste or (),
            tuple(dict.fromkeys(because)),
            interruption.asked,
            states,
            captures,
        )
    except BaseException:
        initial.close()
        raise
    finally:
        session.close()


class _Late:
    """Whether it is late for what comes after the exploration: at ``deadline``, and soon after an interruption, since
    somebody waits for a prompt. ``said`` is why, once somebody was told that it is.
    """

    def __init__(self, interruption: Interruption, deadline: Deadline) -> None:
        self._interruption = interruption
        self._deadline = deadline
        self.said = ""

    def __call__(self) -> bool:
        if self._interruption.asked:
            soon = Deadline.after(_GRACE_S)
            self._deadline = min(self._deadline, soon, key=lambda one: one.at)
        if not self._deadline.left:
            self.said = self._interruption.why or str(self._deadline)
        return bool(self.said)


def _inexact(question: Question) -> list[str]:
    """That block writes were not looked at exactly, if there were any."""
    if question.tears is None or question.rules.blocks is None or not question.rules.blocks.pages:
        return []
    pages, tears = len(question.rules.blocks.pages), question.tears
    what = "1 block" if pages == 1 else f"{pages} blocks"
    how = f"torn at {tears.places} places each (--granularity block, seed {tears.seed})"
    return [f"the kernel's writes of {what} of 4 KiB were tried whole, not at all, and {how}"]


def named(failures: Sequence[Failure], waste: Iterable[Waste], events: int) -> list[int]:
    """The events that a report names, as far as there are such: first those that make the causes."""
    found: list[int | None] = []
    for failure in failures:
        found += [*failure.lost, failure.persisted]
    found += [item.first_event for item in waste]
    for failure in failures:
        found += [failure.event, *failure.forced, *failure.also]
    return [number for number in dict.fromkeys(found) if number is not None and number < events][:_MOST_NAMED]


def _made_with(question: Question, workload: Workload, part: Window, initial: Contents) -> dict[str, str]:
    """Digests of all that decides what a recovery does and which are run; not of how long, and where."""

    def bare(config: MachineConfig) -> MachineConfig:
        dimms = tuple(replace(dimm, backend=replace(dimm.backend, path=None)) for dimm in config.nvdimms)
        return replace(config, image=None, nvdimms=dimms)

    return {
        "release of emu": __version__,
        "image": resume.digest_of_file(question.workload.image),
        "image of recovery": resume.digest_of_file(question.recovery.image),
        "content of an NVDIMM": resume.digest(initial.view(number) for number in range(len(workload.dimms))),
        "value of an option": resume.digest([
            bare(question.workload), bare(question.recovery), question.rules, question.observe, question.limits.depth,
            question.budget, question.workload_timeout, question.event_limit, part, question.feed_printed,
            sorted(question.checks),
        ]),
        "recorded run": resume.digest(workload.events),
    }  # fmt: skip


def _observed_units(question: Question, workload: Workload) -> list[tuple[int, int]]:
    first = workload.dimms[0]
    found = []
    for offset, length in question.observe:
        if not 0 < length <= _LONGEST_OBSERVED or not 0 <= offset <= first.size - length:
            raise UsageError(
                f"--observe {offset}:{length} lies outside of the NVDIMM of {first.size} bytes, or is too long",
                f"give an offset in the first NVDIMM and a length of at most {_LONGEST_OBSERVED}",
            )
        found += list(units_of(first.gpa + offset, length))
    return found


def _workers(
    question: Question,
    task: Task,
    session: Session,
    executor: Executor | None,
    interruption: Interruption,
    kept: KeptRuns | None,
) -> Workers:
    home = session.local_worker()
    if kept is not None:
        home = replace(home, recovery=kept.recovery(home.recovery))
        if executor is not None:
            task = replace(task, kept=kept.content())
    return home if executor is None else ExecutorWorkers(task, executor, question.jobs, home, interruption, kept)


def _outcomes(question: Question, workload: Workload, timeline: Timeline, found: Exploration) -> Iterator[Outcome]:
    """Results that look the same from outside, joined: by what was observed or, where nothing is, by how they ended."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, result in enumerate(found.results):
        key: tuple[object, ...] = (result.observed,)
        if not question.observe:
            verdict = result.leaf.verdict
            key = () if verdict is None else (verdict.ok, verdict.reason, verdict.code)
        groups.setdefault(key, []).append(number)
    joined = []
    for numbers in groups.values():
        results = [found.results[number] for number in numbers]
        verdicts = [result.leaf.verdict for result in results]
        known = [verdict for verdict in verdicts if verdict is not None]
        ok = False if any(not item.ok for item in known) else True if len(known) == len(verdicts) else None
        events = {timeline.points[point].event for result in results for point in result.points}
        joined.append(
            Outcome(
                _as_bytes(question, workload, results[0].observed),
                tuple(sorted(events)),
                ok,
                tuple(
                    dict.fromkeys(sorted(known, key=lambda item: (item.ok, item.reason, item.code or 0, item.output)))
                ),
            )
        )
    yield from sorted(joined, key=lambda outcome: (outcome.verdict is not False, outcome.observed, outcome.events))


def _as_bytes(question: Question, workload: Workload, values: tuple[int, ...]) -> tuple[bytes, ...]:
    """The observed values, one byte string for each range of the question."""
    result, rest = [], list(values)
    for offset, length in question.observe:
        data = b""
        for _, mask in units_of(workload.dimms[0].gpa + offset, length):
            low = (mask & -mask).bit_length() // 8
            data += (rest.pop(0) >> 8 * low).to_bytes(bin(mask).count("1") // 8, "little")
        result.append(data)
    return tuple(result)
