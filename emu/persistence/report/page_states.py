"""The crash states that recovery can tell apart, each with the bytes that differ from the fully persisted memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from emu.persistence.lab.explore import Result, Verdict
from emu.persistence.lab.investigation import Answer
from emu.persistence.model.crashstate import FULL, CrashState, Initial
from emu.persistence.model.image import Image
from emu.persistence.report import words
from emu.persistence.report.markup import Html, tag

_MOST_STATES = 300
_MOST_OPEN = 12
_MOST_UNITS = 24
_MOST_COMPARED = 1 << 14
SHOWN = 12
"""Crash points that are named; of more the number is said."""

Difference = tuple[int, int, int]
"""``(unit, value if everything had persisted, value in this state)``."""


def states(answer: Answer, initial: Initial, name: Callable[[int], str]) -> Iterator[Html]:
    """The table of states, failing ones first; a long list is folded, a very long one cut with a note."""
    results = sorted(answer.exploration.results, key=_rank)
    full: dict[int, dict[int, int]] = {}
    rows = [
        _row(answer, result, _differences(answer, initial, result, full), name) for result in results[:_MOST_STATES]
    ]
    yield _table(rows[:_MOST_OPEN])
    if len(rows) > _MOST_OPEN:
        yield tag("details", tag("summary", f"{len(rows) - _MOST_OPEN} more"), _table(rows[_MOST_OPEN:]))
    if len(results) > _MOST_STATES:
        yield tag("p", f"{len(results) - _MOST_STATES} more states are not shown.", class_="muted")


def _rank(result: Result) -> int:
    verdict = result.leaf.verdict
    return 1 if verdict is None else 2 if verdict.ok else 0


def _table(rows: Sequence[Html]) -> Html:
    words = ("verdict", "recovery", "power fails before event", "what this memory lacks")
    head = tag("thead", tag("tr", [tag("th", word, scope="col") for word in words]))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="wide", tabindex=0)


def _row(answer: Answer, result: Result, differences: Sequence[Difference], name: Callable[[int], str]) -> Html:
    events = [answer.timeline.points[point].event for point in sorted(result.points)]
    verdict = result.leaf.verdict
    observed = [f"{value:#x}" for value in result.observed]
    more = len(result.shortest.crashes) - 1
    return tag(
        "tr",
        tag("td", chip(verdict)),
        tag("td", tag("pre", said(verdict) if verdict else words.NOT_TRIED),
            tag("small", "observed ", ", ".join(observed[:8])) if observed else None),
        tag("td", words.some(events, SHOWN), tag("small", f" and {more} more in recovery") if more else None),
        tag("td", byte_rows(differences[:_MOST_UNITS], name) if differences else "nothing: all stores persisted",
            tag("small", f"and {len(differences) - _MOST_UNITS} more places") if len(differences) > _MOST_UNITS else
            None),
    )  # fmt: skip


def chip(verdict: Verdict | None) -> Html:
    """The verdict in one coloured word."""
    if verdict is None:
        return tag("span", words.NOT_TRIED, class_="chip open")
    return tag("span", "recovers", class_="chip ok") if verdict.ok else tag("span", "fails", class_="chip failed")


def said(verdict: Verdict | Any) -> str:
    """Recovery's own last words, or how it ended when it said nothing."""
    return verdict.output.strip() or verdict.detail or f"ended with {verdict.reason}, status {verdict.status}"


def byte_rows(differences: Iterable[Difference], name: Callable[[int], str]) -> Html:
    """One line for each place: what it should hold, an arrow, what it holds; differing bytes are marked."""
    rows = []
    for unit, want, got in differences:
        rows.append(
            tag("div", tag("span", name(unit), class_="mono"), ": ", hex_bytes(want, got, "want"), " \u2192 ",
                hex_bytes(got, want, "gone"), class_="bytes mono")
        )  # fmt: skip
    return tag("div", rows)


def hex_bytes(value: int, other: int, mark: str) -> Html:
    """The 8 bytes of a unit in memory order; those that differ from ``other`` are marked."""
    pairs = zip(value.to_bytes(8, "little"), other.to_bytes(8, "little"), strict=True)
    return tag("span", [tag("i", f"{a:02x}") if a == b else tag("b", f"{a:02x}", class_=mark) for a, b in pairs],
               class_="hex")  # fmt: skip


def _differences(answer: Answer, initial: Initial, result: Result, full: dict[int, dict[int, int]]) -> list[Difference]:
    """Against the memory in which every store before the crash point persisted.

    What recovery did not read is taken as persisted, as far as the model allows it.
    """
    walker = result.shortest
    if walker.point not in full:
        full.clear()  # results come grouped by verdict, not by point: one is kept, which bounds the memory
        full[walker.point] = Image(answer.timeline, initial, walker.point).contents()
    whole = full[walker.point]
    units = walker.state.units()
    if len(units) > _MOST_COMPARED:
        units = sorted({unit for unit, _, _ in result.leaf.path()})
    return [
        (unit, whole.get(unit, initial(unit)), value)
        for unit, value in newest(walker.state, units)
        if value != whole.get(unit, initial(unit))
    ]


def newest(state: CrashState, units: Iterable[int]) -> Iterator[tuple[int, int]]:
    """A memory of ``state`` that keeps as much as it can."""
    for unit in units:
        value, state = state.read(unit, FULL)[-1]
        yield unit, value
