"""What `emu migrate` says while it waits."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from emu.cli import migrate


class Machine:
    """A QMP client that has one answer."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def __call__(self, address: str) -> Machine:
        return self

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, command: str) -> dict[str, Any]:
        assert command == "query-migrate"
        return self.answer


class Line:
    def __init__(self) -> None:
        self.words = ""

    def show(self, share: float, words: str, *, at_once: bool = False) -> None:
        self.words = words


def shown(status: str, **ram: Any) -> str:
    line = Line()
    migrate._show(line, {"status": status, "ram": {"total": 1 << 30, **ram}})  # type: ignore[arg-type]
    return line.words


@pytest.mark.parametrize(
    ("remaining", "mbps", "left"), [(1 << 30, 800.0, "11 s left"), (1 << 29, 800.0, "5 s left"), (0, 800.0, "0 s left")]
)
def test_the_time_left_is_what_remains_at_the_speed_of_now(remaining: int, mbps: float, left: str) -> None:
    assert shown("active", remaining=remaining, mbps=mbps).endswith(left)


@pytest.mark.parametrize(
    ("status", "mbps"), [("active", 0), ("setup", 800.0), ("device", 800.0), ("completed", 800.0), ("failed", 800.0)]
)
def test_nothing_is_promised_where_nothing_is_known(status: str, mbps: float) -> None:
    assert "left" not in shown(status, remaining=1 << 30, mbps=mbps)


BUSY = {
    "status": "active",
    "total-time": 4222,
    "expected-downtime": 326,
    "cpu-throttle-percentage": 70,
    "ram": {"total": 1 << 30, "remaining": 1 << 28, "mbps": 800.0, "dirty-sync-count": 3},
}


def status(
    answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str
) -> str:
    monkeypatch.setattr(migrate, "QmpClient", Machine(answer))
    parser = argparse.ArgumentParser()
    migrate.add_arguments(parser)
    assert migrate.run(parser.parse_args(["--qmp", "q", "--status", *more])) == 0
    return capsys.readouterr().out


def test_the_status_says_how_far_it_is_and_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(BUSY, monkeypatch, capsys) == (
        "migration: 75% of 1 GiB  95 MiB/s  round 3  active  3 s left"
        "  326 ms of downtime expected  guest held back 70%\n"
    )
    assert status({}, monkeypatch, capsys) == "migration: none\n"
    assert status({"status": "failed"}, monkeypatch, capsys) == "migration: failed\n"


def test_the_status_as_a_document_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(status(BUSY, monkeypatch, capsys, "--json"))
    assert (found["total"], found["remaining"], found["bytes_per_second"]) == (1 << 30, 1 << 28, 100_000_000)
    assert (found["expected_downtime_ms"], found["throttle_percent"]) == (326, 70)
