"""The timeline as SVG: one row for each cache line, one column for each event, the crash points between the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from emu.persistence.model.events import Event, Fence, Flush, FlushKind, LabelWrite, Store, Told, WriteBack
from emu.persistence.report.lanes import Lane, LineState, Picture, lines_of
from emu.persistence.report.markup import Html, join, tag
from emu.units import counted

_ACROSS = Fence | WriteBack | Told
LOST, FORCED, PERSISTED, NOT_MADE = "lost", "lost with it", "persisted", "not made yet"
PAGE_LOST = "page lost"

PANEL = 60
_OPEN_PANELS = 6
_TOP, _ROW, _FOOT = 44, 34, 12
_WIDE, _WIDEST, _NARROWEST = 1080, 38, 16
_LETTER = 7.3
_BAND = 20

_STATE_CLASS = {LineState.DIRTY: "dirty", LineState.WAITING: "pending", LineState.DURABLE: "durable"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What every panel draws from. ``describe`` says an event in one line, ``name`` names a line; ``roles`` are the
    events that a finding is about.
    """

    events: Sequence[Event]
    crash_points: frozenset[int]
    failing: frozenset[int]
    describe: Callable[[int], str]
    name: Callable[[int], str]
    roles: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where things are in one panel: the ``window`` of events, the width of the names and of a column, the height."""

    window: range
    left: float
    column: float
    height: int

    def x(self, number: int) -> float:
        """The left edge of an event's column, which is the crash point before it."""
        return round(self.left + self.column * (number - self.window.start), 1)

    def middle(self, number: int) -> float:
        return self.x(number) + self.column / 2


def legend() -> Html:
    """Every sign of the timeline, with its meaning."""
    entries = [
        (_mark("store", 9, 9), "store"),
        (_mark("nt", 9, 9), "non-temporal store"),
        (_mark("locked", 9, 9), "locked store"),
        (_mark("weak", 9, 9), "CLWB, CLFLUSHOPT: waits for a fence"),
        (_mark("strong", 9, 9), "CLFLUSH"),
        (_mark("label", 9, 9), "label write: durable when the device answers"),
        (tag("line", x1=9, x2=9, y1=1, y2=17, class_="fence"), "fence, WBINVD or WBNOINVD, across all lines"),
        (
            tag("line", x1=9, x2=9, y1=1, y2=17, class_="fence told"),
            "the program told somebody what counts",
        ),
        (_band("dirty", 0, 4, 18, 10), "dirty: only in the CPU cache"),
        (_band("pending", 0, 4, 18, 10), "flush pending: waits for a fence"),
        (_band("durable", 0, 4, 18, 10), "durable"),
        (tag("line", x1=9, x2=9, y1=1, y2=17, class_="point"), "crash point"),
        (join([tag("line", x1=9, x2=9, y1=1, y2=17, class_="cut"), _bolt(9, 9)]), "crash point with a failing state"),
    ]
    return tag(
        "ul",
        [
            tag("li", tag("svg", sign, width=18, height=18, viewBox="0 0 18 18", aria_hidden="true"), " ", text)
            for sign, text in entries
        ],
        class_="legend",
    )


def patterns() -> Html:
    """The hatchings, once for the whole page: states must be told apart without colour."""
    hatch = tag(
        "pattern",
        tag("path", d="M0 6 L6 0 M-1 1 L1 -1 M5 7 L7 5", class_="hatching"),
        id="hatch", width=6, height=6, patternUnits="userSpaceOnUse",
    )  # fmt: skip
    dots = tag("pattern", tag("circle", cx=2, cy=2, r=0.9, class_="dotting"), id="dots", width=5, height=5,
               patternUnits="userSpaceOnUse")  # fmt: skip
    return tag("svg", tag("defs", hatch, dots), width=0, height=0, class_="defs", aria_hidden="true")


def timeline(picture: Picture, scene: Scene) -> Iterator[Html]:
    """All panels in order; beyond the first few, those without a failure are folded."""
    for number, (name, part) in enumerate(panels(picture), 1):
        words = f"Events {part.start} to {part.stop - 1}"
        chart = figure(picture.lanes, part, scene, words, name)
        table = tag("details", tag("summary", f"{words} as a table"), _table(part, scene))
        shown = number <= _OPEN_PANELS or any(event in scene.failing or event in scene.roles for event in part)
        yield join([chart, table]) if shown else tag("details", tag("summary", words), chart, table)


def panels(picture: Picture) -> Iterator[tuple[str, range]]:
    """The name and the events of each panel."""
    parts = [
        range(start, min(start + PANEL, window.stop))
        for window in picture.windows
        for start in range(window.start, window.stop, PANEL)
    ]
    for number, part in enumerate(parts, 1):
        yield f"panel-{number}", part


def figure(lanes: Sequence[Lane], window: range, scene: Scene, title: str, name: str) -> Html:
    """A panel that scrolls sideways where the window is narrow, under names that stay."""
    rows = [lane for lane in lanes if lane.is_busy(window)]
    left = _left(rows, scene)
    height = _height(rows)
    width = left - 4
    labels = tag(
        "svg", tag("rect", width=width, height=height, class_="paper"), _labels(rows, left, scene),
        width=width, height=height, viewBox=f"0 0 {width} {height}", class_="labels", aria_hidden="true",
    )  # fmt: skip
    return tag(
        "figure", panel(lanes, window, scene, title, name), labels,
        class_="panel", tabindex=0, role="region", aria_label=title, id=f"{name}-figure",
    )  # fmt: skip


def _left(rows: Sequence[Lane], scene: Scene) -> float:
    """The width that the names of ``rows`` need."""
    return round(26 + _LETTER * max((len(scene.name(lane.line)) for lane in rows), default=0), 1)


def _height(rows: Sequence[Lane]) -> int:
    return _TOP + _ROW * max(1, len(rows)) + _FOOT


def _labels(rows: Sequence[Lane], left: float, scene: Scene) -> Html:
    return join(
        tag("text", scene.name(lane.line), x=left - 12, y=_y(row) + 4, class_="name") for row, lane in enumerate(rows)
    )


def panel(lanes: Sequence[Lane], window: range, scene: Scene, title: str, name: str) -> Html:
    """The events of ``window``; only lines on which there is something to see. ``name`` is unique on the page."""
    rows = [lane for lane in lanes if lane.is_busy(window)]
    left = _left(rows, scene)
    column = min(_WIDEST, max(_NARROWEST, (_WIDE - left) // max(1, len(window))))
    frame = _Frame(window, left, column, _height(rows))
    width, height = round(frame.x(window.stop) + 14), frame.height
    hidden = len(lanes) - len(rows)
    desc = f"{len(rows)} cache lines. Bands show whether their newest stores are dirty, flush pending or durable. " + (
        f"{counted(hidden, 'line')} without anything that happens here {'is' if hidden == 1 else 'are'} left out."
        if hidden
        else ""
    )
    return tag(
        "svg",
        tag("title", title, id=f"{name}-t"),
        tag("desc", desc, id=f"{name}-d"),
        [_stripe(row, width) for row in range(0, len(rows), 2)],
        [_bands(lane, row, frame, scene) for row, lane in enumerate(rows)],
        _axis(frame),
        [_fence(number, frame, scene) for number in window if isinstance(scene.events[number], _ACROSS)],
        _points(frame, scene),
        [_marks(lane, row, frame, scene) for row, lane in enumerate(rows)],
        _labels(rows, left, scene),
        width=width, height=height, viewBox=f"0 0 {width} {height}", role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )  # fmt: skip


def _y(row: int) -> int:
    return _TOP + _ROW * row + _ROW // 2


def _stripe(row: int, width: int) -> Html:
    return tag("rect", x=0, y=_TOP + _ROW * row, width=width, height=_ROW, class_="stripe")


def _axis(frame: _Frame) -> Html:
    step = 5 if frame.column < 24 else 1
    numbers = [number for number in frame.window if number % step == 0 or number == frame.window.start]

    if step > 1 and len(numbers) > 1 and numbers[1] - numbers[0] < 3:
        numbers.pop(1)
    return join(tag("text", number, x=frame.middle(number), y=_TOP - 8, class_="axis") for number in numbers)


def _bands(lane: Lane, row: int, frame: _Frame, scene: Scene) -> Html:
    """The states as bands from event to event, each with what it means when hovered."""
    window = frame.window
    changes = [(since, state) for since, state in zip(lane.since, lane.states, strict=True) if since in window]
    start = frame.left
    state, since = lane.after(window.start - 1), window.start
    parts = []
    for number, after in [*changes, (window.stop, LineState.UNTOUCHED)]:
        end = frame.middle(number) if number < window.stop else frame.x(window.stop)
        if state in _STATE_CLASS and end > start:
            words = f"line {scene.name(lane.line)}: {state} from event {since}"
            words += f" to {number}" if number < window.stop else ""
            parts.append(_band(_STATE_CLASS[state], start, _y(row) - _BAND / 2, end - start, _BAND, words))
        start, state, since = end, after, number
    return join(parts)


def _band(state: str, x: float, y: float, width: float, height: float, words: str = "") -> Html:
    place: dict[str, object] = {"x": x, "y": y, "width": width, "height": height}
    return tag(
        "g",
        tag("title", words) if words else None,
        tag("rect", **place, class_=f"band {state}"),
        tag("rect", **place, class_=f"over {state}") if state != "durable" else None,
    )


def _fence(number: int, frame: _Frame, scene: Scene) -> Html:
    event = scene.events[number]
    assert isinstance(event, _ACROSS)
    kind = " told" if isinstance(event, Told) else " failed" if isinstance(event, Fence) and event.failed else ""
    x = frame.middle(number)
    return tag(
        "g",
        tag("title", scene.describe(number)),
        tag(
            "line",
            x1=x,
            x2=x,
            y1=_TOP - 2,
            y2=frame.height - _FOOT + 2,
            class_=f"fence{kind}",
        ),
        tag("rect", x=x - 5, y=_TOP - 2, width=10, height=frame.height - _FOOT - _TOP + 4, class_="hover"),
    )  # fmt: skip


def _points(frame: _Frame, scene: Scene) -> Html:
    """Crash points: power fails just before the event. The end of the trace is one, too."""
    parts = []
    window = frame.window
    for number in (*window, window.stop):
        if number not in scene.crash_points or (number == window.stop and number != len(scene.events)):
            continue
        x, fails = frame.x(number), number in scene.failing
        when = f"before event {number}" if number < len(scene.events) else "after the last event"
        what = "some crash states fail" if fails else "every crash state recovers"
        parts.append(
            tag(
                "g",
                tag("title", f"Power fails {when}: {what}"),
                tag("line", x1=x, x2=x, y1=22, y2=frame.height - _FOOT + 4, class_="cut" if fails else "point"),
                _bolt(x, 13) if fails else tag("circle", cx=x, cy=19, r=2.5, class_="dot"),
                tag("rect", x=x - 4, y=4, width=8, height=_TOP - 8, class_="hover"),
            )
        )
    return join(parts)


def _bolt(x: float, y: float) -> Html:
    points = [(1, -9), (-5, 1), (-1, 1), (-2, 9), (5, -2), (1, -2)]
    return tag("polygon", points=" ".join(f"{x + dx},{y + dy}" for dx, dy in points), class_="bolt")


def _marks(lane: Lane, row: int, frame: _Frame, scene: Scene) -> Html:
    parts = []
    for number in lane.marks:
        if number not in frame.window:
            continue
        x, y = frame.middle(number), _y(row)
        role = scene.roles.get(number) if isinstance(scene.events[number], Store) else None
        words = scene.describe(number) + (f" ({role})" if role else "")
        parts.append(
            tag(
                "g",
                tag("title", words),
                tag("circle", cx=x, cy=y, r=8.5, class_=f"ring {_ROLE_CLASS[role]}") if role else None,
                _mark(_kind(scene.events[number]), x, y),
                tag("text", role, x=x, y=y + 17, class_=f"role {_ROLE_CLASS[role]}") if role else None,
            )
        )
    return join(parts)


_ROLE_CLASS = {LOST: "lost", FORCED: "lost", NOT_MADE: "lost", PAGE_LOST: "lost", PERSISTED: "kept"}


def _kind(event: Event) -> str:
    if isinstance(event, Store):
        return "nt" if event.nt else "locked" if event.locked else "store"
    if isinstance(event, LabelWrite):
        return "label"
    assert isinstance(event, Flush)
    return "strong" if event.kind is FlushKind.CLFLUSH else "weak"


def _mark(kind: str, x: float, y: float) -> Html:
    match kind:
        case "store":
            return tag("circle", cx=x, cy=y, r=5, class_="mark")
        case "nt":
            return tag("polygon", points=f"{x},{y - 6} {x + 6},{y} {x},{y + 6} {x - 6},{y}", class_="mark")
        case "locked":
            return tag("rect", x=x - 5, y=y - 5, width=10, height=10, class_="mark")
        case "label":
            return tag("polygon", points=f"{x - 6},{y + 5} {x + 6},{y + 5} {x},{y - 6}", class_="mark")
        case _:
            points = f"{x - 6},{y - 5} {x + 6},{y - 5} {x},{y + 6}"
            return tag("polygon", points=points, class_="mark" if kind == "strong" else "mark hollow")


def _table(part: range, scene: Scene) -> Html:
    rows = [
        tag(
            "tr",
            tag("td", number, class_="number"),
            tag("td", scene.describe(number).partition(": ")[2]),
            tag("td", ", ".join(_names(scene, number))),
            tag("td", "crash point, fails" if number in scene.failing else
                "crash point" if number in scene.crash_points else ""),
            class_="fails" if number in scene.failing else None,
        )
        for number in part
    ]  # fmt: skip
    head = tag(
        "tr", [tag("th", words, scope="col") for words in ("event", "what", "cache line", "power fails before it")]
    )
    return tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="wide", tabindex=0)


def _names(scene: Scene, number: int) -> list[str]:
    lines = lines_of(scene.events[number])
    names = [scene.name(line) for line in lines[:4]]
    return names + ([f"and {len(lines) - 4} more"] if len(lines) > 4 else [])
