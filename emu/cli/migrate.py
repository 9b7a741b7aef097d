"""Move a running machine to another emu, or to a file, by asking its QMP socket."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from emu.api.moves import UNDER_WAY, configure, document
from emu.cli.progress import ProgressLine
from emu.errors import Status, UsageError
from emu.monitor.client import QmpClient
from emu.units import PAGE, counted, human_size, parse_size
from emu.words import printable

EPILOG = """\
examples:
  emu run count --nvdimm file=a.img,size=2M -qmp unix:q.sock,server=on,wait=off
  emu migrate --qmp q.sock file:machine.emu                                    a snapshot; the guest goes on
  emu migrate --qmp q.sock --status
  emu migrate --qmp q.sock --cancel                                            what is under way
  emu run --nvdimm file=b.img,size=2M --incoming unix:m.sock                   the destination of a move
  emu migrate --qmp q.sock unix:m.sock                                         moves it there

exit status: 0 completed; 2 usage; 4 refused, failed, cancelled or of unknown outcome (stderr says which, and what to
do); 130 interrupted (the migration is cancelled).
"""

_POLL_S = 0.1
_KNOWN_SHARE = ("active", "pre-switchover", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", nargs="?", metavar="URI", help="where to: unix:PATH, tcp:[HOST]:PORT, fd:N or file:PATH")
    parser.add_argument("--qmp", required=True, metavar="SOCKET", help="QMP socket of the machine: a path or HOST:PORT")
    parser.add_argument("--status", action="store_true", help="only say how far a migration is")
    parser.add_argument("--cancel", action="store_true", help="cancel a migration; the guest goes on at the source")
    parser.add_argument("--max-bandwidth", metavar="SIZE", help="bytes per second; default: as fast as it goes")
    parser.add_argument("--downtime-limit", metavar="MS", type=int,
                        help="milliseconds the guest may stand still (default 300)")  # fmt: skip
    parser.add_argument(
        "--auto-converge", action="store_true", help="slow the guest down if it dirties too much memory"
    )
    parser.add_argument("--ignore-shared", action="store_true",
                        help="both ends use the same NVDIMM file: hand it over, copy nothing of it")  # fmt: skip
    parser.add_argument("--allow-weaker-persistence", action="store_true",
                        help="accept a destination whose mapping promises less than the source's")  # fmt: skip
    parser.add_argument("--detach", action="store_true", help="start it and return at once")
    parser.add_argument(
        "--then",
        choices=("quit", "cont", "stay"),
        metavar="quit|cont|stay",
        help="what the source does then; default: quit after a move, cont after a snapshot",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document (schema emu.migrate/1)")


def run(options: argparse.Namespace) -> int:
    if sum((options.uri is not None, options.status, options.cancel)) != 1:
        raise UsageError("give one of URI, --status and --cancel", "see emu migrate --help")
    with QmpClient(options.qmp) as machine:
        if options.cancel:
            machine.execute("migrate_cancel")
        elif options.uri is not None:
            _configure(machine, options)
            machine.execute("migrate", {"uri": options.uri})
        if options.status or options.detach:
            return _report(machine.execute("query-migrate"), options, wait=False)
        answer = _watch(machine, options)
        status = _report(answer, options, wait=not options.cancel)
        if status == Status.OK and options.uri is not None:
            _afterwards(machine, options)
        return status


def _configure(machine: QmpClient, options: argparse.Namespace) -> None:
    wanted = {
        "auto-converge": options.auto_converge,
        "x-ignore-shared": options.ignore_shared,
        "allow-weaker-persistence": options.allow_weaker_persistence,
    }
    values: dict[str, int] = {}
    if options.max_bandwidth is not None:
        values["max-bandwidth"] = parse_size(options.max_bandwidth, what="--max-bandwidth")
    if options.downtime_limit is not None:
        values["downtime-limit"] = options.downtime_limit
    configure(machine, wanted, values)


def _watch(machine: QmpClient, options: argparse.Namespace) -> dict[str, Any]:
    """Poll until the migration is over; Ctrl-C cancels it."""
    line = None if options.json else ProgressLine.wanted(sys.stderr)
    show = partial(_show, line) if line else None
    try:
        answer = _poll(machine, show)
    except KeyboardInterrupt:
        machine.execute("migrate_cancel")
        answer = _poll(machine, show)
        if answer.get("status") != "completed":
            raise
    finally:
        if line is not None:
            line.keep()
    return answer


def _poll(machine: QmpClient, show: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    while True:
        answer: dict[str, Any] = machine.execute("query-migrate")
        if show is not None:
            show(answer)
        if not answer or answer.get("status") not in UNDER_WAY:
            return answer
        time.sleep(_POLL_S)


def _show(line: ProgressLine, answer: dict[str, Any]) -> None:
    share, words = _how_far(answer)
    line.show(share, words, at_once=answer.get("status") not in UNDER_WAY)


def _how_far(answer: dict[str, Any]) -> tuple[float, str]:
    """The share of the round that is done, and words for it."""
    ram = answer.get("ram", {})
    total = ram.get("total") or 1
    share = 1.0 if answer.get("status") == "completed" else max(0.0, 1 - ram.get("remaining", total) / total)
    speed = ram.get("mbps", 0) / 8 / 1.048576
    words = (
        f"{share:4.0%} of {human_size(total)}"
        f"  {speed:.0f} MiB/s  round {ram.get('dirty-sync-count', 0)}  {answer.get('status', '')}{_left(answer)}"
    )
    return share, words


def _left(answer: dict[str, Any]) -> str:
    """When the round is over at the speed it has now, and what keeps the guest from being stopped then: the pages that
    it stores to meanwhile take longer than it may stand still."""
    ram = answer.get("ram", {})
    bits, speed = ram.get("remaining", 0) * 8, ram.get("mbps", 0) * 1e6
    if answer.get("status") != "active" or not speed:
        return ""
    words = f"  {bits / speed:.0f} s left"
    if answer.get("expected-downtime"):
        words += f"  {answer['expected-downtime']} ms of downtime expected"
    if answer.get("cpu-throttle-percentage"):
        words += f"  guest held back {answer['cpu-throttle-percentage']}%"
    return words


def _report(answer: dict[str, Any], options: argparse.Namespace, *, wait: bool) -> int:
    """Print what became of the migration; the exit status."""
    state = answer.get("status", "none")
    ram = answer.get("ram", {})
    if options.json:
        print(json.dumps(document(answer), indent=2))
    elif state == "completed":
        moved = human_size(ram.get("normal", 0) * PAGE)
        print(
            f"completed in {answer.get('total-time', 0) / 1000:.2f} s, guest stopped for {answer.get('downtime', 0)} ms"
        )
        rounds, zeros = ram.get("dirty-sync-count", 0), ram.get("duplicate", 0)
        print(f"{moved} of pages in {counted(rounds, 'round')}, {counted(zeros, 'zero page')}")
        for item in answer.get("x-emu-persistence", []):
            print(printable(f"{item['block']}: {human_size(item['bytes'])} made durable by {item['means']}"))
    else:
        print(f"migration: {_how_far(answer)[1].strip() if state in _KNOWN_SHARE else state}")
    if not wait or state == "completed":
        return Status.OK
    if not options.json:
        for line in answer.get("error-desc", "").split("; "):
            print(f"emu: {printable(line)}", file=sys.stderr)
    return Status.HOST


def _afterwards(machine: QmpClient, options: argparse.Namespace) -> None:
    then = options.then or ("cont" if options.uri.startswith("file:") else "quit")
    if then != "stay":
        machine.execute(then)
