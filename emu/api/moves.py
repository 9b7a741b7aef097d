"""``emu.migrate``: a machine of this script, or one behind a QMP socket, to another emu or to a file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

from emu.api.description import Size
from emu.api.machine import Machine
from emu.devices.contract import ExitRequest
from emu.errors import HostError, Status
from emu.units import parse_size

if TYPE_CHECKING:
    from emu.monitor.client import QmpClient

_POLL_S = 0.02
UNDER_WAY = ("none", "setup", "active", "pre-switchover", "device", "cancelling")
"""Statuses of ``query-migrate`` after which another one comes."""


def migrate(
    source: Machine | str,
    uri: str,
    *,
    max_bandwidth: Size | None = None,
    downtime_limit: int | None = None,
    auto_converge: bool = False,
    ignore_shared: bool = False,
    allow_weaker_persistence: bool = False,
    then: Literal["quit", "cont", "stay"] | None = None,
) -> dict[str, Any]:
    """Move ``source`` to the address ``uri`` (unix:PATH, tcp:[HOST]:PORT, fd:N) or write it to file:PATH; returns once
    that is over, with what ``emu migrate --json`` prints (schema emu.migrate/1).

    ``source`` is a Machine, running in another thread or standing still, or the address of a QMP socket as for
    ``emu migrate --qmp``. ``max_bandwidth`` is bytes per second, ``downtime_limit`` milliseconds; the other arguments
    are the options of ``emu migrate``. ``then``: what the source does; by default it quits after a move (a Machine ends
    with the reason "migrated") and goes on after a snapshot.

    UsageError for a wrong address or argument, an EmuError of status 4 when it was refused, failed or cancelled: the
    guest is still at the source, unless the error says that the outcome is unknown. Ctrl-C cancels it.

    Durable when: it returns; the destination has every NVDIMM byte, labels included, by the strongest means of its
    mapping, and ``persistence`` says which.
    """
    states = {
        "auto-converge": auto_converge,
        "x-ignore-shared": ignore_shared,
        "allow-weaker-persistence": allow_weaker_persistence,
    }
    values: dict[str, int] = {}
    if max_bandwidth is not None:
        values["max-bandwidth"] = parse_size(str(max_bandwidth), what="--max-bandwidth")
    if downtime_limit is not None:
        values["downtime-limit"] = downtime_limit
    then = then or ("cont" if uri.startswith("file:") else "quit")
    if isinstance(source, Machine):
        return _move(_Own(source), uri, states, values, then)
    from emu.monitor.client import QmpClient

    with QmpClient(source) as client:
        return _move(_Other(client), uri, states, values, then)


def document(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The document emu.migrate/1 for an answer to ``query-migrate``."""
    ram = answer.get("ram", {})
    return {
        "schema": "emu.migrate/1",
        "status": answer.get("status", "none"),
        "total_ms": answer.get("total-time"),
        "downtime_ms": answer.get("downtime"),
        "expected_downtime_ms": answer.get("expected-downtime"),
        "rounds": ram.get("dirty-sync-count", 0),
        "total": ram.get("total", 0),
        "remaining": ram.get("remaining", 0),
        "transferred": ram.get("transferred", 0),
        "bytes_per_second": round(ram.get("mbps", 0) * 1e6 / 8),
        "throttle_percent": answer.get("cpu-throttle-percentage", 0),
        "normal_pages": ram.get("normal", 0),
        "zero_pages": ram.get("duplicate", 0),
        "persistence": answer.get("x-emu-persistence", []),
        "refused": answer.get("x-emu-refused", []),
        "error": answer.get("error-desc"),
    }


def configure(client: QmpClient, states: Mapping[str, bool], values: Mapping[str, int]) -> None:
    """Set capabilities and parameters of the next migration through QMP."""
    listed = [{"capability": name, "state": state} for name, state in states.items()]
    client.execute("migrate-set-capabilities", {"capabilities": listed})
    if values:
        client.execute("migrate-set-parameters", dict(values))


class _Source(Protocol):
    """A machine that can be moved."""

    def start(self, uri: str, states: Mapping[str, bool], values: Mapping[str, int]) -> None: ...

    def query(self) -> dict[str, Any]: ...

    def cancel(self) -> None: ...

    def fail(self, status: str, words: str) -> NoReturn: ...

    def afterwards(self, then: str) -> None: ...


def _move(
    source: _Source, uri: str, states: Mapping[str, bool], values: Mapping[str, int], then: str
) -> dict[str, Any]:
    source.start(uri, states, values)
    try:
        answer = _wait(source)
    except KeyboardInterrupt:
        source.cancel()
        _wait(source)
        raise
    if answer.get("status") != "completed":
        source.fail(str(answer.get("status")), str(answer.get("error-desc", "")))
    if then != "stay":
        source.afterwards(then)
    return document(answer)


def _wait(source: _Source) -> dict[str, Any]:
    while (answer := source.query()) and answer.get("status") in UNDER_WAY:
        time.sleep(_POLL_S)
    return answer


class _Own:
    """A Machine of this process."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._control = machine.migration_control()

    def start(self, uri: str, states: Mapping[str, bool], values: Mapping[str, int]) -> None:
        self._control.set_capabilities(states)
        self._control.set_parameters(values)
        self._control.start(uri)

    def query(self) -> dict[str, Any]:
        return self._control.query()

    def cancel(self) -> None:
        self._control.cancel()

    def fail(self, status: str, words: str) -> NoReturn:
        raise self._control.error or HostError(f"migration {status}: {words}")

    def afterwards(self, then: str) -> None:
        engine = self._machine.engine
        if then == "quit":
            engine.end(ExitRequest("migrated", Status.OK))
        else:
            self._control.take_back(force=False)
            engine.resume()


class _Other:
    """A machine behind a QMP socket."""

    def __init__(self, client: QmpClient) -> None:
        self._client = client

    def start(self, uri: str, states: Mapping[str, bool], values: Mapping[str, int]) -> None:
        configure(self._client, states, values)
        self._client.execute("migrate", {"uri": uri})

    def query(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.execute("query-migrate")
        return answer

    def cancel(self) -> None:
        self._client.execute("migrate_cancel")

    def fail(self, status: str, words: str) -> NoReturn:
        raise HostError(f"migration {status}{': ' if words else ''}{words}", "the guest is still at the source")

    def afterwards(self, then: str) -> None:
        self._client.execute(then)
