"""Move a running machine to another emu, or to a file, by asking its QMP socket."""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from emu.errors import HostError, Status, UsageError
from emu.units import PAGE, human_size, parse_size
from emu.words import printable

EPILOG = """\
examples:
  emu run count --nvdimm file=a.img,size=64M -qmp unix:q.sock,server=on,wait=off
  emu migrate --qmp q.sock file:machine.emu                                    a snapshot; the guest goes on
  emu migrate --qmp q.sock --status
  emu migrate --qmp q.sock --cancel                                            what is under way
  emu run --nvdimm file=b.img,size=64M --incoming unix:m.sock                  the destination of a move
  emu migrate --qmp q.sock unix:m.sock                                         moves it there

exit status: 0 completed; 2 usage; 4 refused, failed, cancelled or of unknown outcome (stderr says which, and what to
do); 130 interrupted (the migration is cancelled).
"""

_POLL_S = 0.1
_LONGEST_REPLY = 16 << 20
_UNDER_WAY = ("none", "setup", "active", "pre-switchover", "device", "cancelling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("uri", nargs="?", metavar="URI", help="where to: unix:PATH, tcp:[HOST]:PORT, fd:N or file:PATH")
    parser.add_argument("--qmp", required=True, metavar="SOCKET", help="QMP socket of the machine: a path or HOST:PORT")
    parser.add_argument("--status", action="store_true", help="only say how far a migration is")
    parser.add_argument("--cancel", action="store_true", help="cancel a migration; the guest goes on at the source")
    parser.add_argument("--max-bandwidth", metavar="SIZE", help="bytes per second; default: as fast as it goes")
    parser.add_argument("--downtime-limit", metavar="MS", type=int, help="milliseconds the guest may stand still (300)")
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
    states = [{"capability": name, "state": state} for name, state in wanted.items()]
    machine.execute("migrate-set-capabilities", {"capabilities": states})
    values: dict[str, int] = {}
    if options.max_bandwidth is not None:
        values["max-bandwidth"] = parse_size(options.max_bandwidth, what="--max-bandwidth")
    if options.downtime_limit is not None:
        values["downtime-limit"] = options.downtime_limit
    if values:
        machine.execute("migrate-set-parameters", values)


def _watch(machine: QmpClient, options: argparse.Namespace) -> dict[str, Any]:
    """Poll until the migration is over; Ctrl-C cancels it."""
    show = _bar if sys.stderr.isatty() and not options.json else None
    try:
        answer = _poll(machine, show)
    except KeyboardInterrupt:
        machine.execute("migrate_cancel")
        answer = _poll(machine, show)
        if answer.get("status") != "completed":
            raise
    finally:
        if show is not None:
            print(file=sys.stderr)
    return answer


def _poll(machine: QmpClient, show: Callable[[dict[str, Any]], None] | None) -> dict[str, Any]:
    while True:
        answer: dict[str, Any] = machine.execute("query-migrate")
        if show is not None:
            show(answer)
        if not answer or answer.get("status") not in _UNDER_WAY:
            return answer
        time.sleep(_POLL_S)


def _bar(answer: dict[str, Any]) -> None:
    ram = answer.get("ram", {})
    total = ram.get("total") or 1
    share = 1.0 if answer.get("status") == "completed" else max(0.0, 1 - ram.get("remaining", total) / total)
    filled = round(share * 30)
    speed = ram.get("mbps", 0) / 8 / 1.048576
    line = (
        f"\r[{'#' * filled}{' ' * (30 - filled)}] {share:4.0%} of {human_size(total)}"
        f"  {speed:.0f} MiB/s  round {ram.get('dirty-sync-count', 0)}  {answer.get('status', '')}"
    )
    print(f"{line:<110}", end="", file=sys.stderr, flush=True)


def _report(answer: dict[str, Any], options: argparse.Namespace, *, wait: bool) -> int:
    """Print what became of the migration; the exit status."""
    state = answer.get("status", "none")
    ram = answer.get("ram", {})
    if options.json:
        document = {
            "schema": "emu.migrate/1",
            "status": state,
            "total_ms": answer.get("total-time"),
            "downtime_ms": answer.get("downtime"),
            "rounds": ram.get("dirty-sync-count", 0),
            "transferred": ram.get("transferred", 0),
            "normal_pages": ram.get("normal", 0),
            "zero_pages": ram.get("duplicate", 0),
            "persistence": answer.get("x-emu-persistence", []),
            "refused": answer.get("x-emu-refused", []),
            "error": answer.get("error-desc"),
        }
        print(json.dumps(document, indent=2))
    elif state == "completed":
        moved = human_size(ram.get("normal", 0) * PAGE)
        print(
            f"completed in {answer.get('total-time', 0) / 1000:.2f} s, guest stopped for {answer.get('downtime', 0)} ms"
        )
        print(f"{moved} of pages in {ram.get('dirty-sync-count', 0)} rounds, {ram.get('duplicate', 0)} zero pages")
        for item in answer.get("x-emu-persistence", []):
            print(printable(f"{item['block']}: {human_size(item['bytes'])} made durable by {item['means']}"))
    else:
        print(f"migration: {state}")
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


class QmpClient:
    """A QMP client that does one thing after the other. HostError when the machine is not there or says no."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._received = b""
        self._socket = _connect(address)
        try:
            if "QMP" not in self._read():
                raise HostError(f"{address} does not greet as QMP", "name the socket given to emu run -qmp")
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> QmpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """What ``command`` returns; HostError with its description when it fails. Events are skipped."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._gone(error.strerror or "") from None
        while True:
            reply = self._read()
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise HostError(f"{command}: {printable(str(reply['error'].get('desc', reply['error'])))}")

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise self._gone(error.strerror or "") from None
            if not data or len(self._received) > _LONGEST_REPLY:
                raise self._gone("it closed the connection")
            self._received += data
        line, self._received = self._received.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except ValueError:
            raise self._gone("it does not speak QMP") from None
        return reply if isinstance(reply, dict) else {}

    def _gone(self, why: str) -> HostError:
        return HostError(f"the machine at {self._address} does not answer: {why}", "see whether its emu still runs")


def _connect(address: str) -> socket.socket:
    host, colon, port = address.removeprefix("tcp:").rpartition(":")
    try:
        if colon and port.isdigit() and "/" not in host and not address.startswith("unix:"):
            return socket.create_connection((host or "127.0.0.1", int(port)), timeout=30)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(30)
            sock.connect(address.removeprefix("unix:"))
        except BaseException:
            sock.close()
            raise
        return sock
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise HostError(
            f"no QMP at {address}: {why}", "start the machine with -qmp unix:PATH,server=on,wait=off"
        ) from None
