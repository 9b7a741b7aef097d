"""``--check robust``: crash states that recovery can tell from every strictly persistent one.

Under strict persistency stores persist one by one in program order, so a crash leaves the memory of some prefix of the
stores. A crash state in which recovery reads what it reads in no such memory is a robustness violation, whatever
recovery makes of it (Gorjiara, Luo, Lee, Xu and Demsky, PLDI 2022). Two reads tell it: the one saw a store that the
other one shows to be missing, though the program made that one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from emu.persistence.lab.explore import Exploration, Result
from emu.persistence.lab.findings import ROBUSTNESS, Failure
from emu.persistence.model.crashstate import Initial, Read
from emu.persistence.model.events import Event, Written, split
from emu.persistence.model.image import example
from emu.persistence.model.timeline import Timeline

_Spans = list[tuple[int, int]]
"""Numbers of stores, from and up to: the prefixes of the trace, by their lengths, of which something is true."""


def violations(
    found: Exploration,
    timeline: Timeline,
    events: Sequence[Event],
    initial: Initial,
    failures: Sequence[Failure],
    *,
    is_late: Callable[[], bool] = lambda: False,
) -> list[Failure]:
    """One failure for each pair of instructions that made such stores; none for lost stores that ``failures`` name.
    Only those that are found before it ``is_late``.
    """

    def place(number: int) -> int:
        return events[number].pc or -1 - number

    prefixes = Prefixes(events, initial)
    known = {place(number) for failure in failures for number in (*failure.lost, *failure.also)}
    named: dict[tuple[int, int], Failure] = {}
    for result in found.results:
        if is_late():
            break
        verdict = result.leaf.verdict
        pair = prefixes.contradiction(result.leaf.path()) if verdict is not None and result.direct else None
        if verdict is None or pair is None or place(pair[0]) in known:
            continue
        failure = named.get((place(pair[0]), place(pair[1])))
        if failure is None:
            failure = named[place(pair[0]), place(pair[1])] = _failure(result, pair, timeline, initial)
        failure.events.update(timeline.points[point].event for point in result.direct)
    return sorted(named.values(), key=lambda failure: (failure.event, failure.lost))


def _failure(result: Result, pair: tuple[int, int], timeline: Timeline, initial: Initial) -> Failure:
    lost, persisted = pair
    walker = result.latest if result.latest.point in result.direct else result.shortest
    contents = example(walker.state, timeline, initial, walker.point).contents()
    assert result.leaf.verdict is not None
    why = (
        "recovery sees a store and lacks an earlier one, which no crash leaves behind where stores persist one by one "
        "in program order"
        if lost != persisted
        else "recovery sees a part of a store and lacks another one"
    )
    event = timeline.points[walker.point].event
    kept = persisted if lost != persisted else None
    return Failure(ROBUSTNESS, why, event, result.leaf.verdict, (lost,), persisted=kept, contents=contents)


class Prefixes:
    """The memories that each prefix of a trace leaves, by what each unit holds in them."""

    def __init__(self, events: Sequence[Event], initial: Initial) -> None:
        self._initial = initial
        self._end = len(events)
        self._contents: dict[int, list[tuple[int, int]]] = {}
        self._spans: dict[Read, _Spans] = {}
        for number, event in enumerate(events):
            if isinstance(event, Written):
                for unit, mask, value in split(event.address, event.data):
                    history = self._contents.setdefault(unit, [(0, initial(unit))])
                    history.append((number + 1, history[-1][1] & ~mask | value))

    def contradiction(self, path: Iterable[Read]) -> tuple[int, int] | None:
        """The numbers of a store that these reads lack and of a later one that they see; None where some prefix leaves
        a memory that reads so.
        """
        seen: list[_Spans] = []
        common: _Spans = [(0, self._end)]
        for read in path:
            spans = self._of(read)
            if spans == [(0, self._end)] or spans in seen:
                continue
            common = _both(common, spans)
            if not common:
                # Two reads that contradict each other by themselves, if there are such; else the nearest two.
                apart = [other for other in seen if not _both(other, spans)]
                return _nearest(apart or seen, spans)
            seen.append(spans)
        return None

    def _of(self, read: Read) -> _Spans:
        spans = self._spans.get(read)
        if spans is None:
            unit, mask, value = read
            history = self._contents.get(unit, [(0, self._initial(unit))])
            ends = [since - 1 for since, _ in history[1:]] + [self._end]
            spans = self._spans[read] = [
                (since, end) for (since, content), end in zip(history, ends, strict=True) if content & mask == value
            ]
        return spans


def _both(one: _Spans, other: _Spans) -> _Spans:
    found = []
    left = right = 0
    while left < len(one) and right < len(other):
        first, last = max(one[left][0], other[right][0]), min(one[left][1], other[right][1])
        if first <= last:
            found.append((first, last))
        if one[left][1] < other[right][1]:
            left += 1
        else:
            right += 1
    return found


def _nearest(before: Iterable[_Spans], spans: _Spans) -> tuple[int, int]:
    """The store whose loss ends a span of the one read, and the one with which a later span of the other begins."""
    pairs = [
        (begin - end, end, begin - 1)
        for other in before
        for early, late in ((other, spans), (spans, other))
        for _, end in early
        for begin, _ in late
        if begin > end
    ]
    _, lost, persisted = min(pairs)
    return lost, persisted
