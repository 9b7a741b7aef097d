"""The same command gives the same document on every host, however busy: work is counted, not timed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

import emu
from emu.persistence.lab import investigation
from emu.persistence.model import distinct
from emu.persistence.report.terminal import report_lines

# A host that is so many times as busy: a millisecond of work takes seconds there.
TIMES_AS_BUSY = 5000
CLOCKS = "monotonic", "monotonic_ns", "perf_counter", "process_time", "thread_time", "time"
NEVER_S = 1e6


def document() -> dict[str, Any]:
    with emu.crash(
        "undo-broken",
        nvdimms=[emu.Nvdimm("none.img", size="2M")],
        time_limit=NEVER_S,
        timeout=NEVER_S,
        warnings=True,
    ) as answer:
        return answer.document


def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all clocks that Python code can ask run as those of a busy host do, seen from the work that it does."""

    def faster(clock: Callable[[], float]) -> Callable[[], float]:
        begun = clock()
        return lambda: begun + TIMES_AS_BUSY * (clock() - begun)

    for name in CLOCKS:
        monkeypatch.setattr(time, name, faster(getattr(time, name)))


def text(found: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in found.items() if key != "about"}, indent=2)


def test_a_busy_host_gives_the_same_document(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = document()
    assert idle["failures"]
    assert idle["unexplained"] is None
    assert idle["distinct"]
    busy(monkeypatch)
    assert text(document()) == text(idle)


def test_the_search_for_causes_gives_up_at_the_same_place_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(investigation, "MOST_STEPS", 500)
    idle = document()
    assert "given up after 500 steps, 3 of the 4 failing states have none yet" in idle["unexplained"]
    headline = next(report_lines(idle))
    assert headline.endswith("(1 cause found, there may be more)")
    busy(monkeypatch)
    assert text(document()) == text(idle)


def test_counting_memories_gives_up_by_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    options = distinct.count_distinct.__kwdefaults__
    assert options is not None
    monkeypatch.setitem(options, "steps", 100)
    assert document()["distinct"] is None
