"""``emu.crash``: every power cut of a guest's run, and every memory that the machine could wake up with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from emu.api.description import Nvdimm, Path, Size, choice, configuration, domain_named, image_path
from emu.api.show import card, table
from emu.api.threads import in_thread
from emu.config import MachineConfig
from emu.errors import UsageError
from emu.host.claims import Claims, claims_of
from emu.host.files import Target
from emu.linux.initramfs import Input
from emu.linux.namespaces import FileSystem
from emu.linux.prepare import NAME, Request
from emu.linux.protocol import Role
from emu.persistence.lab import investigation
from emu.persistence.lab.deadline import Deadline
from emu.persistence.lab.explore import Limits, Progress
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.investigation import Answer, Question
from emu.persistence.lab.linux import KERNEL_CODE
from emu.persistence.lab.resume import KeptRuns
from emu.persistence.model.blocks import Tears
from emu.persistence.model.operations import parse_place
from emu.persistence.model.rules import FailedCas, Media, Order, Rules
from emu.persistence.report import ignored
from emu.persistence.report.about import about
from emu.persistence.report.document import document
from emu.persistence.report.excerpts import Sources, may_be_source
from emu.persistence.report.export import FILES, export
from emu.persistence.report.matrix import matrix as judge_all
from emu.persistence.report.symbols import Symbols, load_symbols
from emu.persistence.report.types import load_types

if TYPE_CHECKING:
    from concurrent.futures import Executor

_SHOWN = 8
LINUX_TIMEOUT_S = 600.0
_TIME_LIMIT_S, _LINUX_TIME_LIMIT_S = 300.0, 900.0
TEARS = 2
"""Places where a block write is torn with ``--granularity block``."""
_MOST_TEARS = 64
LINUX_BLOCKS = 300_000_000
"""Of a recovery in Linux, which mounts a file system and loads programs."""


def crash(
    image: Path,
    *,
    nvdimms: Sequence[Nvdimm],
    recover: Path | None = None,
    recover_append: str | None = None,
    append: str | None = None,
    memory: Size | None = None,
    persistence: Literal["cpu", "mem-ctrl"] | None = None,
    clock: Literal["virtual", "real"] | None = None,
    observe: Sequence[tuple[int, int]] = (),
    domain: Literal["adr", "eadr"] | None = None,
    media: Literal["dax-sync", "dax", "page-cache"] = "dax-sync",
    order: Literal["line", "location"] = "line",
    failed_cas: Literal["barrier", "load"] = "barrier",
    depth: int = 1,
    max_executions: int = 100_000,
    time_limit: float | None = None,
    timeout: float = 60.0,
    max_events: int = 1 << 18,
    recovery_blocks: int = 5_000_000,
    jobs: int = 1,
    start: int | str | None = None,
    stop: int | str | None = None,
    durable_when_done: bool = False,
    feed_printed: bool = False,
    check: Collection[str] = (),
    type: Sequence[str] = (),  # noqa: A002 - the option's name
    first_failure: bool = False,
    resume: Path | None = None,
    exec: str | None = None,  # noqa: A002 - the option's name
    setup: str | None = None,
    kernel: Path | None = None,
    fs: Literal["ext4", "xfs", "devdax", "none"] | None = None,
    add: Sequence[str] = (),
    scope: Literal["all", "program"] = "all",
    granularity: Literal["exact", "block"] = "exact",
    tears: int = TEARS,
    seed: int = 0,
    executor: Executor | None = None,
    warnings: bool = False,
    matrix: bool = False,
    suppress: Path | None = None,
    baseline: Path | Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CrashAnswer:
    """Cut the power at every point of the run of ``image``, and run recovery on every memory that it can tell apart.

    The arguments are the options of ``emu crash`` (docs/reference/commands.md) with their defaults. ``observe`` lists
    (offset, length) in bytes in the first NVDIMM, ``start`` and ``stop`` are ``--from`` and ``--to``, times are
    seconds; ``progress(done, waiting)`` is told of recoveries.
    ``baseline`` is an old document or its file. The files are never changed.

    The image "linux" is a Linux machine with the host's ``kernel``, or another: ``exec``, ``recover`` and ``setup`` are
    its commands; ``recovery_blocks`` begins at 300 million and ``timeout`` at 600 seconds. ``time_limit`` is 300
    seconds, and 900 there.

    With ``jobs`` above 1 recoveries run in as many processes, which import the script again: it needs the usual
    ``if __name__ == "__main__":``. An ``executor`` takes their place.

    UsageError and HostError when a machine cannot be built or an argument is wrong. What guests do is in the answer.
    """
    machine: dict[str, object] = {"nvdimm-persistence": persistence, "clock": clock}
    linux = None
    if image == NAME and not os.path.exists(NAME):  # noqa: PTH110 - as for any image
        linux = linux_request(
            execute=exec,
            recover=None if recover is None else os.fsdecode(recover),
            setup=setup,
            kernel=None if kernel is None else os.fsdecode(kernel),
            file_system=fs,
            added=add,
            default_memory=memory is None,
        )
        recovery_blocks, timeout = max(recovery_blocks, LINUX_BLOCKS), max(timeout, LINUX_TIMEOUT_S)
    config = configuration(None if linux else image, nvdimms, memory=memory, append=append, machine=machine)
    asked = question(
        config,
        recover=recover,
        recover_append=recover_append,
        observe=observe,
        domain=domain,
        media=media,
        order=order,
        failed_cas=failed_cas,
        depth=depth,
        max_executions=max_executions,
        time_limit=time_limit,
        timeout=timeout,
        max_events=max_events,
        recovery_blocks=recovery_blocks,
        jobs=jobs,
        start=start,
        stop=stop,
        durable_when_done=durable_when_done,
        feed_printed=feed_printed,
        check=check,
        types=type,
        first_failure=first_failure,
        warnings=warnings,
        linux=linux,
        scope=scope,
        granularity=granularity,
        tears=tears,
        seed=seed,
        matrix=matrix,
    )
    known = _known(suppress, baseline)
    read = {"--suppress": _name(suppress), "--baseline": _name(baseline)}
    target = None if resume is None else _target(asked, read, resume, "--resume")
    interruption = Interruption()
    done: list[Investigated] = []

    def investigate() -> None:
        tell = None if progress is None else lambda done, waiting, share: progress(done, waiting)
        found = investigated(
            asked, matrix=matrix, executor=executor, progress=tell, interruption=interruption, resume=target
        )
        done.append(found)

    try:
        in_thread(investigate, name="emu-laboratory", interrupt=interruption.ask)
        return CrashAnswer(done[0], warnings=warnings, known=known, read=read)
    except BaseException:
        for found in done:
            found.answer.close()
        raise


class Investigated(NamedTuple):
    """What the laboratory found, and what its document is made of. Close the answer."""

    answer: Answer
    symbols: Symbols
    matrix: list[dict[str, Any]] | None


def investigated(
    asked: Question,
    *,
    matrix: bool,
    executor: Executor | None = None,
    progress: Progress | None = None,
    interruption: Interruption | None = None,
    on_cause: investigation.OnCause | None = None,
    resume: Target | None = None,
) -> Investigated:
    """``investigation.investigate``, also under all other rules with ``matrix``. The file ``resume`` has the runs that
    were done before, and then all of them; UsageError where it is damaged or of another run.
    """
    kept = None if resume is None else KeptRuns(resume.name)
    answer = investigation.investigate(
        asked, executor=executor, progress=progress, interruption=interruption, on_cause=on_cause, kept=kept
    )
    try:
        if resume is not None and kept is not None:
            resume.write(kept.content())
        symbols = _symbols(answer)
        rows = None
        if matrix:
            rows = judge_all(answer, symbols, executor=executor, progress=progress, interruption=interruption)
        return Investigated(answer, symbols, rows)
    except BaseException:
        answer.close()
        raise


def _symbols(answer: Answer) -> Symbols:
    question = answer.question
    if question.linux is None:
        return load_symbols(question.workload.image, question.limits.deadline)
    from emu.persistence.report.programs import ProgramSymbols

    disk = question.workload.initrd
    assert isinstance(disk, bytes), "the laboratory has built it"
    asked = {event.pc for event in answer.workload.events}
    return ProgramSymbols(
        answer.workload.pages, disk, question.workload.image, asked, deadline=question.limits.deadline
    )


def linux_request(
    *,
    execute: str | None,
    recover: str | None,
    setup: str | None,
    kernel: str | None,
    file_system: str | None,
    added: Sequence[str],
    default_memory: bool = False,
) -> Request:
    """The commands and the kernel of a Linux crash test; UsageError when one is missing."""
    if execute is None or recover is None:
        missing = "--exec" if execute is None else "--recover"
        raise UsageError(f"a Linux guest needs {missing} 'COMMAND'", "write emu crash linux --exec 'A' --recover 'B'")
    commands = {Role.EXEC: execute, Role.RECOVERY: recover}
    if setup is not None:
        commands[Role.SETUP] = setup
    return Request(
        kernel, FileSystem(file_system) if file_system else None, added, commands, default_memory=default_memory
    )


def _known(
    suppress: Path | None, baseline: Path | Mapping[str, Any] | None
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What takes out of a document what these know. UsageError and HostError for what cannot be read."""
    rules = None if suppress is None else ignored.load_rules(os.fsdecode(suppress))
    name = _name(baseline)
    old = baseline if isinstance(baseline, Mapping) else None if name is None else ignored.load_document(name)
    return lambda result: ignored.apply(result, rules, old, baseline_name=name)


def _name(file: Path | Mapping[str, Any] | None) -> str | None:
    return None if file is None or isinstance(file, Mapping) else os.fsdecode(file)


def question(
    config: MachineConfig,
    *,
    recover: Path | None,
    recover_append: str | None,
    observe: Sequence[tuple[int, int]],
    domain: str | None,
    media: str,
    order: str,
    failed_cas: str,
    depth: int,
    max_executions: int,
    time_limit: float | None,
    timeout: float,
    max_events: int,
    recovery_blocks: int,
    jobs: int,
    start: int | str | None = None,
    stop: int | str | None = None,
    durable_when_done: bool = False,
    feed_printed: bool = False,
    check: Collection[str] = (),
    types: Sequence[str] = (),
    first_failure: bool = False,
    warnings: bool = False,
    linux: Request | None = None,
    scope: str = "all",
    granularity: str = "exact",
    tears: int = TEARS,
    seed: int = 0,
    matrix: bool = False,
) -> Question:
    """The Question that the options of ``emu crash`` mean for the machine ``config``; UsageError for a wrong one."""
    if time_limit is None:
        time_limit = _TIME_LIMIT_S if linux is None else _LINUX_TIME_LIMIT_S
    counts = {
        "depth": depth,
        "max-executions": max_executions,
        "max-events": max_events,
        "jobs": jobs,
        "recovery-blocks": recovery_blocks,
    }
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"--{name} must be at least 1", "give a larger number")
    if not 0 < timeout <= 1e6 or not 0 < time_limit <= 1e6:
        raise UsageError("--timeout and --time-limit are seconds, more than 0", "give another number")
    if not config.nvdimms:
        raise UsageError(
            "there is no NVDIMM to lose anything", "give an empty one, --nvdimm size=2M, or a file: --nvdimm file=PATH"
        )
    deadline = Deadline.after(time_limit)
    recovery = config
    if recover is not None and linux is None:
        recovery = replace(recovery, image=image_path(recover))
    if recover_append is not None:
        recovery = replace(recovery, cmdline=recover_append)
    rules = Rules(
        domain_named(domain) if domain else config.domain,
        choice(Order, order, "--order"),
        choice(Media, media, "--media"),
        choice(FailedCas, failed_cas, "--failed-cas"),
        KERNEL_CODE if scope == "program" else None,
    )
    torn = None
    if granularity != "exact":
        if linux is None:
            raise UsageError("--granularity is for a Linux guest", "write emu crash linux ...")
        if matrix:
            raise UsageError(
                "--granularity block goes with one --domain, --order and --media, and --matrix judges under all",
                "leave one of them out",
            )
        if replace(rules, failed_cas=FailedCas.BARRIER) != Rules() or depth > 1:
            raise UsageError(
                "--granularity block goes with power failures of the workload, and with the default --domain, --order, "
                "--media and --scope only",
                "leave the other option away, or look exactly",
            )
        if not 0 <= tears <= _MOST_TEARS:
            raise UsageError(f"--tears must be from 0 to {_MOST_TEARS}", "give another number")
        torn = Tears(tears, seed)
    if linux is not None and recover_append is not None:
        raise UsageError("--recover-append does not go with the image 'linux'", "put the words into --recover")
    for name in check:
        if name not in investigation.CHECKS:
            raise UsageError(
                f"--check {name}: there is no such check", f"give one of {', '.join(investigation.CHECKS)}"
            )
    if linux is not None and feed_printed:
        linux = linux._replace(input=Input.RECOVERY)
    if durable_when_done and not rules.flushes_count:
        raise UsageError(
            "--durable-when-done: in a page cache no flush or fence makes anything durable, only msync, which the run "
            "does not show",
            "choose another --media",
        )
    asked = Question(
        config,
        recovery,
        rules,
        tuple(observe),
        Limits(max_executions, deadline, depth, first_failure),
        workload_timeout=timeout,
        event_limit=max_events,
        budget=recovery_blocks,
        jobs=jobs,
        start=_place(start, "--from"),
        stop=_place(stop, "--to"),
        durable_when_done=durable_when_done,
        feed_printed=feed_printed,
        checks=frozenset(check),
        warnings=warnings,
        types=tuple(types),
        linux=linux,
        tears=torn,
    )
    load_types(asked.program, asked.types, deadline)  # what is wrong with them is said before the work
    return asked


def _place(place: int | str | None, option: str) -> str | None:
    if place is None:
        return None
    parse_place(str(place), option)
    return str(place)


def claims_of_question(asked: Question, read: Mapping[str, str | None], outputs: Collection[str]) -> Claims:
    """The files that an investigation reads, none of which may be written. ``read`` are more of them, by the options
    that name them. The sources that reports quote are among them if one of ``outputs`` may be a source.
    """
    claims = claims_of(asked.workload, runs=False)
    if asked.recovery.image is not None:
        claims.reads(asked.recovery.image, "the image of recovery")
    if asked.linux is not None:
        asked.linux.claim(claims)
    for what, name in read.items():
        if name is not None:
            claims.reads(name, what)
    # Only then is the debug information read before the work.
    if any(map(may_be_source, outputs)):
        for path in Sources.of(asked.program, asked.limits.deadline).files():
            claims.reads(path, "a source of the image")
    return claims


def _target(asked: Question, read: Mapping[str, str | None], path: Path, option: str) -> Target:
    name = os.fsdecode(path)
    return claims_of_question(asked, read, [name]).writes(name, option)


class CrashAnswer:
    """What ``crash`` found. A context manager: it holds what the NVDIMMs held before the run, until ``close``.

    ``document`` is what ``emu crash --json`` prints (schema emu.crash/1); the other attributes are its entries. They
    stay after ``close``; ``write_html`` and ``export`` do not.
    """

    def __init__(
        self,
        found: Investigated,
        *,
        warnings: bool,
        known: Callable[[dict[str, Any]], dict[str, Any]],
        read: Mapping[str, str | None],
    ) -> None:
        self._read = read
        self._answer, self._symbols, self._matrix = found
        self._warnings = warnings
        self._known = known
        self._closed = False
        self.document: dict[str, Any] = self._describe(None)

    def _describe(self, exported: dict[int, dict[str, Any]] | None) -> dict[str, Any]:
        said = document(self._answer, self._symbols, exported=exported, warnings=self._warnings, matrix=self._matrix)
        return self._known(said)

    @property
    def ok(self) -> bool:
        """Whether there was something to judge, all of it was tried, and every crash state recovered."""
        return self.status == 0 and self.complete

    @property
    def verdict(self) -> str:
        """ok, failed, incomplete, nothing to judge or workload failed."""
        return str(self.document["verdict"])

    @property
    def status(self) -> int:
        """The exit status that ``emu crash`` would have."""
        return int(self.document["status"])

    @property
    def headline(self) -> str:
        """The verdict in a sentence."""
        return str(self.document["headline"])

    @property
    def complete(self) -> bool:
        """Whether every crash state of this one execution was covered."""
        return bool(self.document["complete"])

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The causes of what fails, as in the document."""
        return list(self.document["failures"])

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """What the observed bytes can hold, with the crash points and the verdict, as in the document."""
        return list(self.document["outcomes"])

    def write_html(self, path: Path) -> None:
        """Write the report page, all of it or nothing. UsageError when ``path`` is one of the inputs, else HostError.

        Durable when: the operating system writes the file back.
        """
        from emu.persistence.report.page import report_html

        target = self._target(path, "--html")
        page = report_html(self._dated(), self._answer, self._symbols)
        target.write(page.encode(errors="backslashreplace"))

    def write_sarif(self, path: Path) -> None:
        """Write the causes as SARIF 2.1.0. Errors and durability as for ``write_html``."""
        from emu.persistence.report.sarif import sarif

        self._target(path, "--sarif").write(json.dumps(sarif(self._dated()), indent=2).encode())

    def write_junit(self, path: Path) -> None:
        """Write the causes as JUnit XML. Errors and durability as for ``write_html``."""
        from emu.persistence.report.junit import junit

        self._target(path, "--junit").write(junit(self._dated()))

    def _target(self, path: Path, option: str) -> Target:
        return _target(self._open().question, self._read, path, option)

    def _dated(self) -> dict[str, Any]:
        """The document for a reader of today; ``document`` itself is the same for the same run."""
        return {**self.document, "about": about(None)}

    def export(self, folder: Path) -> Mapping[int, Mapping[str, Any]]:
        """Write the memory of each failure into ``folder``; by the failure's number its ``files`` and the ``command``
        that boots them, which ``document`` then has too. UsageError and HostError as for ``write_html``.

        Durable when: the operating system writes the files back.
        """
        answer, name = self._open(), os.fsdecode(folder)
        claims_of_question(answer.question, self._read, [name]).writes_family(name, FILES, "--export")
        written = export(answer, name)
        self.document = self._describe(written)
        return written

    def close(self) -> None:
        """Give the NVDIMMs' files back. Harmless when closed."""
        self._closed = True
        self._answer.close()

    def _open(self) -> Answer:
        if self._closed:
            raise UsageError("this answer is closed", "write reports and memories inside of its 'with' block")
        return self._answer

    def __enter__(self) -> CrashAnswer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<emu.crash: {self.verdict}, {len(self.failures)} failures{'' if self.complete else ', not complete'}>"

    def _repr_html_(self) -> str:
        found = self.document
        facts = [
            ("image", found["image"]),
            ("why", "; ".join(found["why"]) or None),
            ("model", ", ".join(str(found["model"][name]) for name in ("domain", "order", "media"))),
            ("crash points", found["crash_points"]),
            ("recoveries", found["executed"]),
            ("complete", "yes" if self.complete else f"no: {'; '.join(found['incomplete_because'])}"),
        ]
        causes = [(item["kind"], item["explanation"], item["crash_point"]) for item in found["failures"][:_SHOWN]]
        more = [table(("failure", "because", "before event"), causes)] if causes else []
        return card(f"{self.verdict}: {self.headline}", facts, *more)
