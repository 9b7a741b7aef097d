"""Suppressions, baselines and the identity of a cause, on documents."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from emu.errors import HostError, UsageError
from emu.persistence.report.ignored import Rule, apply, compare, fingerprint, load_rules


def place(symbol: str = "put+0x10", source: str = "log.c:42", text: str | None = "log->size = n;") -> dict[str, Any]:
    return {"event": 1, "kind": "store", "pc": 16, "instruction": "mov", "symbol": symbol, "source": source,
            "source_path": "src/log.c", "source_text": text}  # fmt: skip


def cause(kind: str = "missing flush", **changed: Any) -> dict[str, Any]:
    failure = {"kind": kind, "lost": [place(**changed)], "persisted": None, "lost_pages": []}
    return {**failure, "fingerprint": fingerprint(failure)}


def document(*failures: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "verdict": "failed" if failures else "ok", "status": 3 if failures else 0, "headline": "", "why": [],
        "image": None, "recover": None, "model": {}, "crash_points": 1, "executed": 1, "about": None,
        "complete": True, "unexplained": None, "failures": list(failures), "warnings": [], "ignored": None, **changed,
    }  # fmt: skip


def test_a_cause_is_the_same_when_lines_move() -> None:
    assert cause()["fingerprint"] == cause(symbol="put+0x99", source="log.c:57")["fingerprint"]
    different = [
        cause("missing fence"),
        cause(symbol="get"),
        cause(text="log->tail = n;"),
        cause(source="other.c:42"),
        cause(text=None),
    ]
    assert len({item["fingerprint"] for item in [cause(), *different]}) == 6
    assert cause(text=None)["fingerprint"] != cause(text=None, source="log.c:57")["fingerprint"]


def test_one_known_cause_excuses_one() -> None:
    result = apply(document(cause(), cause()), None, document(cause()))
    assert (result["verdict"], result["status"], len(result["failures"])) == ("failed", 3, 1)
    assert apply(document(cause(), cause()), None, document(cause(), cause()))["verdict"] == "ok"
    assert [len(compare(document(cause()), document(cause(), cause()))[name]) for name in ("added", "same")] == [1, 1]


def test_failing_states_without_a_cause_still_fail() -> None:
    result = apply(document(cause(), unexplained="the search was given up"), (Rule(1, "all", kind="*"),), None)
    assert (result["verdict"], result["status"], result["failures"]) == ("failed", 3, [])


@pytest.mark.parametrize("verdict", ["interrupted", "workload failed"])
def test_other_verdicts_stay(verdict: str) -> None:
    result = apply(document(cause(), verdict=verdict, status=14), (Rule(1, "all", kind="*"),), None)
    assert (result["verdict"], result["status"]) == (verdict, 14)
    assert result["why"] == ["1 cause is ignored: 1 by a suppression"]


def test_the_document_that_was_given_stays_as_it_was() -> None:
    given = document(cause())
    before = copy.deepcopy(given)
    apply(given, (Rule(1, "all", kind="*"),), document(cause()))
    compare(given, given)
    assert given == before
    assert apply(given, None, None) == given


def test_a_rule_fits_when_all_that_it_says_is_so() -> None:
    assert Rule(1, "", kind="missing*", function="put", source="log.c:42").fits("missing flush", [place()])
    assert Rule(1, "", source="src/*.c:42").fits("missing flush", [place(symbol="x"), place()])
    assert not Rule(1, "", function="put", source="log.c:42").fits("", [place(symbol="x"), place(source="log.c:43")])
    assert not Rule(1, "", function="pu").fits("missing flush", [place()])
    assert not Rule(1, "", function="put").fits("recovery logic bug", [])


def test_a_rule_fits_every_frame_of_the_stack() -> None:
    frames = [("memcpy", "string.c:7"), ("put", "log.c:42"), ("append", "log.c:80"), ("main", "prog.c:9")]
    stack = [{"function": name, "source": at, "source_path": f"src/{at.partition(':')[0]}"} for name, at in frames]
    store = {**place(symbol="memcpy+0x4", source="string.c:7"), "stack": stack}
    assert all(Rule(1, "", function=name, source=at).fits("missing flush", [store]) for name, at in frames)
    assert Rule(1, "", source="src/prog.c:*").fits("missing flush", [store])
    assert not Rule(1, "", function="append", source="log.c:42").fits("missing flush", [store]), "two frames"
    assert not Rule(1, "", function="other").fits("missing flush", [store])


def test_suppressions_without_end_are_refused(tmp_path: Path) -> None:
    endless = tmp_path / "rules"
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="too long"):
        load_rules(str(endless))
    with pytest.raises(HostError, match="Is not a regular file"):
        load_rules("/dev/zero")
