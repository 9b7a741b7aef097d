"""The timeline as text: one row for each cache line, one column for each event.

Every sign is ASCII and means the same without colour, which only repeats it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from emu.persistence.lab.investigation import Answer
from emu.persistence.model.events import Event, Fence, Flush, FlushKind, LabelWrite, Told, WriteBack
from emu.persistence.report.colours import paint
from emu.persistence.report.lanes import Lane, LineState, Picture, draw
from emu.persistence.report.markup import visible
from emu.units import counted

LEGEND = (
    "  s store   n non-temporal store   x locked store   w CLWB or CLFLUSHOPT   f CLFLUSH   | fence",
    "  L store lost or not yet made   P store that persisted",
    "  ! power fails before this event and a crash state fails   . power fails here and all states recover",
    "  = dirty   ~ flush pending, waits for a fence   - durable",
)
_LEGEND_OF_RARE = "  W WBINVD or WBNOINVD, across all lines   l label write   o told somebody, across all lines"
_STATES = {LineState.DIRTY: "=", LineState.WAITING: "~", LineState.DURABLE: "-", LineState.UNTOUCHED: " "}
_COLOURS = {"=": "33", "~": "36", "-": "32", "L": "1;31", "P": "1;35", "!": "1;31", "|": "2", ".": "2"}
_LEAST_COLUMNS, _MOST_COLUMNS = 20, 200


def timeline_lines(answer: Answer, *, width: int = 80, colour: bool = False) -> list[str]:
    """The trace of an investigation, cut to what lies around the failures where it is long; ``width`` is in columns."""
    roles = _roles(answer)
    signs = _crash_signs(answer)
    events = answer.workload.events
    picture = draw(events, answer.question.rules, [*roles, *(failure.event for failure in answer.failures)])
    names = {lane.line: _name(answer, lane.line) for lane in picture.lanes}
    margin = max((len(name) for name in names.values()), default=0) + 3
    columns = max(_LEAST_COLUMNS, min(width - margin - 1, _MOST_COLUMNS))
    lines = ["timeline: a row for each cache line, a column for each event", *LEGEND]
    if any(isinstance(event, WriteBack | LabelWrite | Told) for event in events):
        lines.append(_LEGEND_OF_RARE)
    for window in picture.windows:
        for start in range(window.start, window.stop, columns):
            part = range(start, min(start + columns, window.stop))
            lines += ["", *_panel(answer, picture, part, roles, signs, names, margin, colour)]
    if picture.events_left_out:
        lines.append(f"not shown: {counted(picture.events_left_out, 'event')} away from the failures")
    if picture.lines_left_out:
        lines.append(f"not shown: {counted(picture.lines_left_out, 'more cache line')}")
    if picture.clean_left_out:
        lines.append(f"not shown: {counted(picture.clean_left_out, 'cache line')} flushed but never stored to")
    return lines


def _roles(answer: Answer) -> dict[int, str]:
    roles = {failure.persisted: "P" for failure in answer.failures if failure.persisted is not None}
    return roles | {number: "L" for failure in answer.failures for number in failure.lost}


def _name(answer: Answer, line: int) -> str:
    """A line by its offset; by its NVDIMM too where there are several."""
    for dimm in answer.workload.dimms:
        if dimm.gpa <= line < dimm.gpa + dimm.size:
            several = len(answer.workload.dimms) > 1
            return f"{visible(dimm.id[:12])}+{line - dimm.gpa:#x}" if several else f"{line - dimm.gpa:#x}"
    label = answer.workload.label(line)
    return f"{line:#x}" if label is None else f"{visible(label[0].id[:12])} label+{label[1]:#x}"


def _panel(
    answer: Answer,
    picture: Picture,
    part: range,
    roles: dict[int, str],
    signs: dict[int, str],
    names: dict[int, str],
    margin: int,
    colour: bool,
) -> Iterator[str]:
    events = answer.workload.events
    yield " " * margin + _axis(part)
    crashes = "".join(signs.get(number, " ") for number in part)
    crashes += signs.get(part.stop, "") if part.stop == len(events) else ""
    yield _paint("crash".rjust(margin - 1) + " " + crashes, margin, colour)
    for lane in picture.lanes:
        if lane.is_busy(part):
            cells = "".join(_cell(lane, number, events[number], roles) for number in part)
            yield _paint(names[lane.line].rjust(margin - 1) + " " + cells, margin, colour)


def _axis(part: range) -> str:
    text = ""
    for number in part:
        at = number - part.start
        if number % 10 == 0 and at >= len(text):
            text = text.ljust(at) + str(number) + " "
    return text.rstrip()


def _crash_signs(answer: Answer) -> dict[int, str]:
    """For each crash point's event: whether any state found there fails."""
    failing = {
        point
        for found in answer.exploration.results
        if found.leaf.verdict is not None and not found.leaf.verdict.ok
        for point in found.points
    }
    return {point.event: "!" if point.number in failing else "." for point in answer.timeline.points}


def _cell(lane: Lane, number: int, event: Event, roles: dict[int, str]) -> str:
    if isinstance(event, Fence):
        return "|"
    if isinstance(event, WriteBack):
        return "W"
    if isinstance(event, Told):
        return "o"
    if number in lane.marks:
        if isinstance(event, Flush):
            return "f" if event.kind is FlushKind.CLFLUSH else "w"
        if isinstance(event, LabelWrite):
            return "l"
        return roles.get(number) or ("n" if event.nt else "x" if event.locked else "s")
    return _STATES[lane.after(number)]


def _paint(line: str, margin: int, colour: bool) -> str:
    """Runs of one sign right of the margin in its colour."""
    if not colour:
        return line.rstrip()
    return line[:margin] + "".join(
        paint(run, _COLOURS[sign]) if sign in _COLOURS else run for sign, run in _runs(line[margin:])
    )


def _runs(text: str) -> Iterable[tuple[str, str]]:
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or text[at] != text[start]:
            yield text[start], text[start:at]
            start = at
