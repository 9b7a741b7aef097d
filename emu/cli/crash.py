"""Cut the power at every point of a guest's run and show every memory that the machine could wake up with.

The guest runs once, recorded. Then its recovery (the same image again, or --recover) is run on each memory that it can
tell apart; a recovery that does not end well is a crash state that fails. Backing files are never changed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from emu.cli import options as machine_options
from emu.cli import output
from emu.config import PersistenceDomain
from emu.errors import Status, UsageError
from emu.persistence.model.rules import FailedCas, Media, Order
from emu.units import parse_size

if TYPE_CHECKING:
    from emu.api.crashes import Investigated
    from emu.host.files import Target
    from emu.linux.prepare import Request
    from emu.persistence.lab.interruption import Interruption
    from emu.persistence.lab.investigation import Answer, Question

EPILOG = """\
examples:
  emu crash commit-noflush --nvdimm size=2M                        find the missing flush, on an empty NVDIMM
  emu crash commit-noflush --nvdimm file=pool.img,size=2M          the same on what a file holds
  emu crash ./guest.bin --nvdimm size=2M --observe 0:8 --observe 64:8 --json
  emu crash level-broken --nvdimm file=p.img,size=2M --export out  and boot what failed: emu run ... (it says how)
  emu crash mapsync-broken --nvdimm file=p.img,size=2M --media dax
  emu crash linux --nvdimm file=p.img,size=64M --scope program \\
      --setup './log create /pmem/log' --exec './log append /pmem/log' \\
      --recover './log check /pmem/log'      your own program on your own kernel

exit status, the first that is true: 14 the recorded run itself failed (its last words are said first); 3 some crash
states do not recover; 12 no store reached an NVDIMM, so there was nothing to judge; 10 no failure was found, but not
every crash state was tried; 0 every crash state recovers. 130 interrupted: Ctrl-C ends the exploration and shows what
was found so far, a second one ends at once. 2 usage; 4 the host cannot do it.
"""
# Timeout(1) and other wrappers send a signal to us and then to our group: that is one Ctrl-C, not two.
_SAME_KEY_S = 0.2
_RECOVERY_BLOCKS, _TIMEOUT_S = 5_000_000, 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("image", nargs="?", metavar="IMAGE", help="path of an image, or the name of a bundled guest")
    add("--recover", metavar="IMAGE2",
        help="the image that recovers; default: IMAGE again. With the image 'linux': its command")  # fmt: skip
    add("--recover-append", metavar="TEXT", help="the command line of recovery; default: that of the workload")
    add("--observe", action="append", default=[], metavar="OFFSET[:LENGTH]",
        help="show what these bytes of the first NVDIMM can hold after the crash (LENGTH 8 by default)")  # fmt: skip
    add("--domain", choices=sorted(domain.platform for domain in PersistenceDomain),
        help="what the platform saves when power fails (default: as -machine nvdimm-persistence=, or adr)")  # fmt: skip
    add("--media", choices=list(Media), default=Media.DAX_SYNC, help="what the NVDIMM is mapped from on its host")
    add("--order", choices=list(Order), default=Order.LINE,
        help="stores that persist in order: to one cache line, or to one 8-byte location")  # fmt: skip
    add("--failed-cas", choices=list(FailedCas), default=FailedCas.BARRIER,
        help="what a locked compare-and-swap that fails is worth")  # fmt: skip
    add("--from", dest="start", metavar="PLACE",
        help="let power fail from there on only: an event's number, or begin:ID, done:ID of an operation")  # fmt: skip
    add("--to", dest="stop", metavar="PLACE", help="and up to there")
    add("--durable-when-done", action="store_true",
        help="what an operation has stored must be durable when it says that it is done")  # fmt: skip
    add("--feed-printed", action="store_true",
        help="recovery reads on its standard input what the workload had printed when the power failed")  # fmt: skip
    add("--check", action="append", default=[], choices=("states", "robust"),
        help="states: recovery must print what it prints between two operations; robust: and see no store without "
        "those before it")  # fmt: skip
    add("--type", dest="types", action="append", default=[], metavar="OFFSET=TYPE",
        help="name fields of the program's struct TYPE at OFFSET in the first NVDIMM")  # fmt: skip
    add("--depth", type=int, default=1, metavar="N", help="power failures in a row: 2 crashes recovery too")
    add("--max-executions", type=int, default=100_000, metavar="N", help="stop after this many recoveries")
    add("--first-failure", action="store_true", help="stop when a crash state has failed, the simplest that does")
    add("--resume", metavar="FILE",
        help="keep the recoveries that were run in FILE, and do not run again those that are there")  # fmt: skip
    add("--time-limit", type=float, metavar="SECONDS",
        help="end all of it after this much real time, with what was found (default 300, Linux 900)")  # fmt: skip
    add("--timeout", type=float, metavar="SECONDS",
        help="end the recorded run after this much real time (default 60, Linux 600)")  # fmt: skip
    add("--max-events", type=int, default=1 << 18, metavar="N", help="end the recorded run after this many log entries")
    add("--recovery-blocks", type=int, metavar="N",
        help="a recovery that runs more basic blocks has failed (default 5 million, Linux 300 million)")  # fmt: skip
    add("--jobs", type=int, default=1, metavar="N", help="processes that run recoveries")
    add("--json", action="store_true", help="print one JSON document (schema emu.crash/1)")
    add("--html", metavar="FILE", help="write a report page")
    add("--sarif", metavar="FILE", help="write the causes as SARIF 2.1.0, for code-scanning services")
    add("--junit", metavar="FILE", help="write the causes as JUnit XML, for continuous integration")
    add("--timeline", action="store_true", help="also draw stores, flushes and fences for each cache line")
    add(
        "--export",
        metavar="DIR",
        help="write the memory of each failure, and say how to boot it; of Linux, all that this needs",
    )
    add("--warnings", action="store_true",
        help="also list stores that are not durable at the end, redundant flushes and fences and the like")  # fmt: skip
    add("--matrix", action="store_true", help="also judge the recording under every domain, medium and order")
    add("--suppress", metavar="FILE", help="do not fail for what the rules in this file know")
    add("--baseline", metavar="FILE", help="fail for new causes only; FILE is what --json printed before")
    linux = parser.add_argument_group("Linux guest ('emu crash linux')")
    linux.add_argument("--exec", metavar="COMMAND", help="the command whose every power cut is judged")
    linux.add_argument("--setup", metavar="COMMAND", help="prepares the NVDIMM before; is not judged")
    linux.add_argument("--fs", choices=("ext4", "xfs", "devdax", "none"),
                       help="what a blank NVDIMM becomes: /pmem (default ext4) or /dev/dax0.0")  # fmt: skip
    linux.add_argument("--add", action="append", default=[], metavar="FILE[:PATH]",
                       help="put a file or folder of the host into the guest; repeatable")  # fmt: skip
    linux.add_argument("--scope", choices=("all", "program"), default="all",
                       help="whose stores can be lost: the kernel's too, or only the program's own")  # fmt: skip
    linux.add_argument("--granularity", choices=("exact", "block"), default="exact",
                       help="how 4 KiB that the kernel copies at once persist: in all ways, or whole, not at all or "
                       "torn at some places; then not every state is tried")  # fmt: skip
    linux.add_argument("--tears", type=int, default=2, metavar="N",
                       help="with --granularity block: torn at so many places (default 2)")  # fmt: skip
    linux.add_argument("--seed", type=int, default=0, metavar="N",
                       help="which these places are (default 0)")  # fmt: skip
    machine_options.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    question = _question(options)
    outputs = _outputs(options, question)
    known = _known(options)
    from emu.api.crashes import investigated
    from emu.persistence.report.about import about
    from emu.persistence.report.document import document
    from emu.persistence.report.export import export

    progress = on_cause = None
    if not options.json and sys.stderr.isatty():
        from emu.cli.crash_progress import CrashProgress

        progress = shown = CrashProgress(sys.stderr, question.limits.deadline)
        on_cause = lambda workload, failure: shown.cause(failure, workload, question.workload.image)  # noqa: E731
    try:
        found = _interruptible(
            lambda stop: investigated(
                question,
                matrix=options.matrix,
                progress=progress,
                interruption=stop,
                on_cause=on_cause,
                resume=outputs.get("resume"),
            )
        )
    finally:
        if progress is not None:
            progress.clear()
    with found.answer as answer:
        exported = export(answer, options.export) if options.export else None
        result = document(
            answer,
            found.symbols,
            exported=exported,
            warnings=options.warnings,
            about=about(options.words),
            matrix=found.matrix,
            timeline=options.json,
        )
        result = known(result)
        _write(outputs, result, found)
        if options.json:
            print(json.dumps(result, indent=2))
        else:
            from emu.persistence.report.colours import wants_colour
            from emu.persistence.report.terminal import report_lines

            for line in report_lines(result, colour=wants_colour(sys.stdout), width=output.columns(sys.stdout)):
                print(line)
            if options.timeline:
                _print_timeline(answer)
    return int(result["status"])


def _interruptible(work: Callable[[Interruption], Investigated]) -> Investigated:
    """Do ``work`` in a thread of its own. The first Ctrl-C asks it to come to an end, the second one ends the process.

    Python runs signal handlers between byte codes of the main thread only, and the CPU may run guest code for long.
    """
    from emu.api.threads import in_thread
    from emu.persistence.lab.interruption import Interruption

    interruption = Interruption()
    asked_at = 0.0

    def interrupted(_number: int, _frame: object) -> None:
        nonlocal asked_at
        if not interruption.asked:
            asked_at = time.monotonic()
            interruption.ask()
        elif time.monotonic() - asked_at > _SAME_KEY_S:
            os._exit(Status.INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    try:
        if before is not signal.SIG_IGN:  # a shell's background job
            signal.signal(signal.SIGINT, interrupted)
        return in_thread(lambda: work(interruption), name="laboratory", interrupt=interruption.ask)
    finally:
        signal.signal(signal.SIGINT, before)


def _question(options: argparse.Namespace) -> Question:
    from emu.api.crashes import LINUX_BLOCKS, LINUX_TIMEOUT_S, question

    linux = None
    if options.image == "linux" and not os.path.exists("linux"):  # noqa: PTH110 - as for any image
        linux = _linux(options)
        config = machine_options.machine_config(options, None, files_needed=False)
    else:
        config = machine_options.machine_config(options, _image(options), files_needed=False)
    timeout = options.timeout
    if timeout is None:
        timeout = _TIMEOUT_S if linux is None else LINUX_TIMEOUT_S
    blocks = options.recovery_blocks
    if blocks is None:
        blocks = _RECOVERY_BLOCKS if linux is None else LINUX_BLOCKS
    return question(
        config,
        recover=options.recover,
        recover_append=options.recover_append,
        observe=[_range(text) for text in options.observe],
        domain=options.domain,
        media=options.media,
        order=options.order,
        failed_cas=options.failed_cas,
        depth=options.depth,
        max_executions=options.max_executions,
        time_limit=options.time_limit,
        timeout=timeout,
        max_events=options.max_events,
        recovery_blocks=blocks,
        jobs=options.jobs,
        start=options.start,
        stop=options.stop,
        durable_when_done=options.durable_when_done,
        feed_printed=options.feed_printed,
        check=options.check,
        types=options.types,
        first_failure=options.first_failure,
        warnings=options.warnings,
        linux=linux,
        scope=options.scope,
        granularity=options.granularity,
        tears=options.tears,
        seed=options.seed,
        matrix=options.matrix,
    )


def _image(options: argparse.Namespace) -> str:
    image = options.kernel or options.image
    if options.kernel and options.image:
        raise UsageError("two images given: IMAGE and -kernel", "give one of them")
    if image is None:
        raise UsageError("no image given", "write emu crash IMAGE; 'emu guests' lists the bundled ones")
    if options.exec or options.setup or options.add or options.fs or options.scope != "all":
        raise UsageError("--exec, --setup, --add, --fs and --scope are for a Linux guest", "write emu crash linux ...")
    return machine_options.resolve_image(image)


def _linux(options: argparse.Namespace) -> Request:
    from emu.api.crashes import linux_request

    if options.initrd:
        raise UsageError("-initrd does not go with the image 'linux'", "--add puts files into the guest")
    return linux_request(
        execute=options.exec,
        recover=options.recover,
        setup=options.setup,
        kernel=options.kernel,
        file_system=options.fs,
        added=options.add,
        default_memory=options.memory is None,
    )


def _range(text: str) -> tuple[int, int]:
    offset, _, length = text.partition(":")
    return parse_size(offset, what="--observe"), parse_size(length or "8", what="--observe")


def _known(options: argparse.Namespace) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What takes out of a document what --suppress and --baseline know. Both are read now, before the work."""
    if options.suppress is None and options.baseline is None:
        return lambda result: result
    from emu.persistence.report import ignored

    rules = None if options.suppress is None else ignored.load_rules(options.suppress)
    baseline = None if options.baseline is None else ignored.load_document(options.baseline)
    return lambda result: ignored.apply(result, rules, baseline, baseline_name=options.baseline)


def _write(outputs: Mapping[str, Target], result: dict[str, Any], found: Investigated) -> None:
    if "html" in outputs:
        from emu.persistence.report.page import report_html

        outputs["html"].write(report_html(result, found.answer, found.symbols).encode(errors="backslashreplace"))
    if "sarif" in outputs:
        from emu.persistence.report.sarif import sarif

        outputs["sarif"].write(json.dumps(sarif(result), indent=2).encode())
    if "junit" in outputs:
        from emu.persistence.report.junit import junit

        outputs["junit"].write(junit(result))


def _outputs(options: argparse.Namespace, question: Question) -> dict[str, Target]:
    """Look at all that will be read and written, before the work; where the reports go, by the options' names."""
    from emu.api.crashes import claims_of_question
    from emu.persistence.report.export import FILES

    read = {"--suppress": options.suppress, "--baseline": options.baseline, "the defaults in": options.defaults or None}
    names = [name for name in ("html", "sarif", "junit", "resume") if getattr(options, name)]
    outputs = [getattr(options, name) for name in ("export", *names) if getattr(options, name)]
    claims = claims_of_question(question, read, outputs)
    claims.writes_standard_streams()
    if options.export:
        claims.writes_family(options.export, FILES, "--export")
    return {name: claims.writes(getattr(options, name), f"--{name}") for name in names}


def _print_timeline(answer: Answer) -> None:
    import shutil

    from emu.persistence.report.colours import wants_colour
    from emu.persistence.report.terminal_timeline import timeline_lines

    print()
    for line in timeline_lines(answer, width=shutil.get_terminal_size().columns, colour=wants_colour(sys.stdout)):
        print(line)
