"""The report page: one HTML file that needs no network, no script and no other file; the verdict comes first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from emu.persistence import report_text as text
from emu.persistence.crashstate import Initial
from emu.persistence.document import Describer
from emu.persistence.events import UNIT, Store, line_of, split
from emu.persistence.findings import Failure
from emu.persistence.image import Image
from emu.persistence.laboratory import Answer
from emu.persistence.lanes import MOST_LINES, Picture, draw, lines_of
from emu.persistence.markup import Html, embedded_json, join, tag
from emu.persistence.report_source import Sources
from emu.persistence.report_states import hex_bytes, said, some, states
from emu.persistence.report_style import STYLE
from emu.persistence.report_timeline import (
    FORCED,
    LOST,
    NOT_MADE,
    PANEL,
    PERSISTED,
    Scene,
    event_line,
    legend,
    panel,
    patterns,
    place_of,
    timeline,
)
from emu.persistence.symbols import Symbols
from emu.persistence.workload import Contents

_MOST_CAUSES = 24
_MOST_PLACES = 12
_MOST_LANES = 10
_MOST_OUTPUT = 2000
_MOST_OUTCOMES = 300
_AROUND = 4
_GAP = 14

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True)
class _Page:
    result: Mapping[str, Any]
    answer: Answer
    describer: Describer
    picture: Picture
    sources: Sources
    initial: Initial

    @property
    def count(self) -> int:
        return len(self.answer.workload.events)

    def name(self, address: int) -> str:
        """A place in an NVDIMM, as people write it; the NVDIMM's name only where there are several."""
        for dimm in self.answer.workload.dimms:
            if dimm.gpa <= address < dimm.gpa + dimm.size:
                offset = f"{address - dimm.gpa:#x}"
                return offset if len(self.answer.workload.dimms) == 1 else f"{dimm.id[:16]}+{offset}"
        return f"{address:#x}"

    def describe(self, number: int) -> str:
        return event_line(self.describer.event(number))

    def when(self, event: int) -> str:
        """A crash point in words."""
        if event >= self.count:
            return "after the last event"
        return f"just before event {event} ({event_line(self.describer.event(event)).partition(': ')[2]})"


def report_html(result: Mapping[str, Any], answer: Answer, symbols: Symbols) -> str:
    """The page for an investigation. ``result`` is its document (``document.document``), which the page carries along
    for machines. Source lines are quoted where the files are at hand.
    """
    roles = _roles(answer)
    picture = draw(answer.workload.events, answer.question.rules, [*roles, *(f.event for f in answer.failures)])
    with closing(Contents(answer.question.workload, answer.workload.dimms)) as initial:
        sources = Sources.of(answer.question.workload.image)
        page = _Page(result, answer, Describer(answer, symbols), picture, sources, initial)
        scene = _scene(page, roles)
        body = [
            patterns(),
            tag("main", _header(page), _causes(page, scene), _timeline(page, scene), _states(page), _observed(page),
                _warnings(page), _colophon(page)),
        ]  # fmt: skip
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("meta", name="generator", content="emu crash"),
            tag("link", rel="icon", href="data:,"),
            tag("title", f"{_verdict(page)[1]} - {_image_name(page)} - emu crash"),
            tag("style", Html(STYLE)),
        )
        return f"<!DOCTYPE html>\n{tag('html', head, tag('body', body, embedded_json(result)), lang='en')}\n"


def _scene(page: _Page, roles: Mapping[int, str]) -> Scene:
    answer = page.answer
    failing = {point for found in answer.exploration.results if _fails(found.leaf.verdict) for point in found.points}
    points = answer.timeline.points
    return Scene(
        answer.workload.events,
        frozenset(point.event for point in points),
        frozenset(points[point].event for point in failing),
        page.describe,
        page.name,
        roles,
    )


def _fails(verdict: Any) -> bool:
    return verdict is not None and not verdict.ok


def _roles(answer: Answer) -> dict[int, str]:
    """What the findings say about events; the first finding decides."""
    roles: dict[int, str] = {}
    for failure in answer.failures:
        for number, role in _roles_of(failure).items():
            roles.setdefault(number, role)
    return roles


def _roles_of(failure: Failure) -> dict[int, str]:
    roles = dict.fromkeys(failure.forced, FORCED)
    roles |= {number: LOST if number < failure.event else NOT_MADE for number in failure.lost}
    return roles | ({failure.persisted: PERSISTED} if failure.persisted is not None else {})


def _image_name(page: _Page) -> str:
    return str(page.result["image"] or "guest").rpartition("/")[2]


# ---- the verdict


def _verdict(page: _Page) -> tuple[str, str, str]:
    """(class, headline, sentence)."""
    results = page.answer.exploration.results
    bad = sum(_fails(found.leaf.verdict) for found in results)
    total = f"{len(results)} crash state{'' if len(results) == 1 else 's'} that recovery can tell apart"
    if bad:
        causes = len(page.answer.failures)
        found = f"{causes} cause{'' if causes == 1 else 's'} found" if causes else "the cause was not found"
        return "failed", "Some crash states do not recover", f"{bad} of the {total} fail; {found}."
    if not page.answer.complete:
        return "open", "No failure found, but not everything was tried", f"{total} were seen."
    return "ok", "Every crash state recovers", f"All {total} end well."


_ICONS = {"failed": "M10 10 L30 30 M30 10 L10 30", "ok": "M8 21 L17 30 L33 11", "open": "M20 8 L20 23 M20 31 L20 31.5"}


def _header(page: _Page) -> Html:
    kind, headline, sentence = _verdict(page)
    result, counts = page.result, page.result["events"]
    icon = tag("svg", tag("circle", cx=20, cy=20, r=18, class_="icon"), tag("path", d=_ICONS[kind], class_="icon",
               transform="translate(5 5) scale(.75)"), width=56, height=56, viewBox="0 0 40 40",
               aria_hidden="true")  # fmt: skip
    complete = "yes" if result["complete"] else "no"
    tiles = [
        ("Eager", _number(result["eager"]), text.EAGER),
        ("Distinct", "not counted" if result["distinct"] is None else _number(result["distinct"]), text.DISTINCT),
        ("Executed", _number(result["executed"]), text.EXECUTED),
        ("Complete", complete, "; ".join(result["incomplete_because"]) or "nothing that the model allows was left out"),
    ]
    recover = result["recover"]
    trace = (
        f"{counts['stores']} stores, {counts['nt_stores']} non-temporal stores, {counts['flushes']} flushes, "
        f"{counts['fences']} fences; {result['crash_points']} crash points."
    )
    return tag(
        "header",
        tag("h1", "emu crash ", tag("b", _image_name(page)),
            f", recovered by {str(recover).rpartition('/')[2]}" if recover != result["image"] else None),
        tag("div", icon, tag("div", tag("strong", headline), tag("p", sentence)), class_=f"verdict {kind}"),
        tag("dl", [tag("div", tag("dt", name), tag("dd", tag("b", value), tag("small", words)))
                   for name, value, words in tiles], class_="tiles"),
        tag("p", tag("b", "Trace: "), trace),
        tag("p", tag("b", "Model: "), text.model(page.answer.question.rules), " ", text.CRASH,
            f" Up to {result['model']['depth']} power failures in a row." if result["model"]["depth"] > 1 else None),
        tag("p", text.COMPLETE, class_="muted"),
    )  # fmt: skip


def _number(value: int) -> str:
    """Readable at any size: the eager number can have thousands of digits."""
    if value < 10**15:
        return f"{value:,}"
    return f"about 10^{(value.bit_length() - 1) * 30103 // 100000}"


# ---- the causes


def _causes(page: _Page, scene: Scene) -> Html | None:
    failures = page.answer.failures
    if not failures:
        return None
    cards = [_cause(page, scene, number, failure) for number, failure in enumerate(failures[:_MOST_CAUSES])]
    more = len(failures) - len(cards)
    note = tag("p", f"{more} more causes are in the document at the end of this page.") if more else None
    return tag("section", tag("h2", "Why it fails"), cards, note)


def _cause(page: _Page, scene: Scene, number: int, failure: Failure) -> Html:
    item = page.result["failures"][number]
    fix = text.FIXES.get(failure.kind)
    others = [name for name in failure.names if name != failure.kind]
    stores = [_store(page, entry, _roles_of(failure)[entry["event"]]) for entry in item["lost"][:4]]
    if item["persisted"]:
        stores.append(_store(page, item["persisted"], PERSISTED))
    pages = [tag("li", f"the page at offset {entry['offset']:#x} came back as it was") for entry in
             item["lost_pages"][:_MOST_PLACES] if entry["offset"] is not None]  # fmt: skip
    return tag(
        "article",
        tag("h3", f"{number + 1}. {failure.kind} ", [tag("span", name, class_="chip plain") for name in others]),
        tag("p", _sentence(failure.explanation), class_="story"),
        tag("p", f"Power fails {page.when(failure.event)}. Then recovery says:"),
        tag("pre", said(failure.verdict)[-_MOST_OUTPUT:], class_="said"),
        tag("p", tag("b", "What to do: "), fix, class_="fix") if fix else None,
        tag("ul", pages) if pages else None,
        tag("div", stores, class_="pair") if stores else None,
        [tag("h4", "What happened"), _closeup(page, scene, number, failure)] if failure.lost else None,
        _memory(page, failure),
        tag("h4", "Where"),
        tag("p", f"Found with power failing before event {some(sorted(failure.events), 40)}."),
        tag("h4", "See it yourself"),
        _reproduce(item["reproduce"]),
        class_="card cause",
    )  # fmt: skip


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


def _store(page: _Page, item: Mapping[str, Any], role: str) -> Html:
    """One store of a finding: what it wrote, where in the program, and the source around it."""
    facts = [
        ("event", str(item["event"])),
        ("address", f"{item['address']:#x}" + ("" if item["offset"] is None else f" (offset {item['offset']:#x})")),
        ("line", page.name(line_of(item["address"]))),
        ("bytes", f"{item['data']}{'...' if item['size'] > 64 else ''} ({item['size']})"),
        ("symbol", item["symbol"] or f"{item['pc']:#x}"),
        ("source", item["source"] or "not known"),
        ("instruction", item["instruction"] or "not known"),
    ]
    excerpt = page.sources.excerpt(item["source"])
    source = excerpt and tag(
        "div",
        tag("ol", [tag("li", tag("span", at), line, class_="here" if at == excerpt.marked else None)
                   for at, line in excerpt.lines]),
        class_="source mono", tabindex=0, role="region", aria_label=f"{excerpt.file} around line {excerpt.marked}",
    )  # fmt: skip
    return tag(
        "div",
        tag(
            "div", tag("b", _sentence(role)[:-1], class_="kept" if role == PERSISTED else "lost"), f": {place_of(item)}"
        ),
        tag("dl", [[tag("dt", name), tag("dd", value, class_="mono")] for name, value in facts], class_="facts"),
        source,
        class_="store",
    )


def _closeup(page: _Page, scene: Scene, number: int, failure: Failure) -> Html:
    """The part of the timeline that the finding is about: its lines only, its events and a few around them."""
    roles = _roles_of(failure)
    events = sorted(
        {event for event in (*failure.lost[:4], *failure.forced[:4], failure.persisted, failure.event)
         if event is not None}
    )  # fmt: skip
    lines = {line for event in (*roles, failure.event) if event < page.count for line in lines_of(_event(page, event))}
    lanes = [lane for lane in page.picture.lanes if lane.line in lines][:_MOST_LANES]
    windows: list[range] = []
    for event in events:
        start, stop = max(0, event - _AROUND), min(page.count, event + _AROUND + 1)
        if windows and start - windows[-1].stop <= _GAP and stop - windows[-1].start <= PANEL:
            windows[-1] = range(windows[-1].start, max(stop, windows[-1].stop))
        elif start < stop:
            windows.append(range(start, stop))
    own = Scene(scene.events, scene.crash_points, frozenset({failure.event}), scene.describe, scene.name, roles)
    return join(
        tag("figure", panel(lanes, window, own, f"Cause {number + 1}: events {window.start} to {window.stop - 1}",
            f"cause-{number + 1}-{window.start}"), class_="panel", tabindex=0, role="region",
            aria_label=f"Events {window.start} to {window.stop - 1}")
        for window in windows[:4]
    )  # fmt: skip


def _event(page: _Page, number: int) -> Any:
    return page.answer.workload.events[number]


def _memory(page: _Page, failure: Failure) -> Html | None:
    """The bytes in question: what they hold when nothing is lost, and what this crash left."""
    point = next((point.number for point in page.answer.timeline.points if point.event == failure.event), None)
    if point is None or not failure.contents:
        return None
    whole = Image(page.answer.timeline, page.initial, point).contents()
    concerned = [
        unit
        for number in _roles_of(failure)
        if isinstance(store := _event(page, number), Store)
        for unit, _, _ in split(store.address, store.data[: UNIT * _MOST_PLACES])
    ]
    changed = [unit for unit in sorted(whole) if failure.contents.get(unit) != whole[unit]]
    units = list(dict.fromkeys([*concerned, *changed]))[:_MOST_PLACES]
    rows = []
    for unit in sorted(units):
        want = whole.get(unit, page.initial(unit))
        got = failure.contents.get(unit, want)
        rows.append(tag("tr", tag("td", page.name(unit), class_="mono"),
                        tag("td", hex_bytes(want, got, "want"), tag("small", f" = {want:,}"), class_="bytes mono"),
                        tag("td", hex_bytes(got, want, "gone"), tag("small", f" = {got:,}"), class_="bytes mono"),
                        tag("td", "" if want == got else "differs")))  # fmt: skip
    words = ("place", "if every store so far had persisted", "what this crash left", "")
    head = tag("thead", tag("tr", [tag("th", word, scope="col") for word in words]))
    table = tag("div", tag("table", head, tag("tbody", rows)), class_="wide", tabindex=0)
    return join([tag("h4", "The memory it wakes up with"), table])


def _reproduce(exported: Mapping[str, Any] | None) -> Html:
    if exported is None:
        return tag("p", "Run the same command with ", tag("code", "--export DIR"),
                   ": it writes this memory to a file and says how to boot it.")  # fmt: skip
    return tag("p", "This memory was written; this boots it: ", tag("pre", tag("code", exported["command"])))


# ---- timeline, states, the rest


def _timeline(page: _Page, scene: Scene) -> Html:
    picture = page.picture
    notes = [words] if (words := text.BANDS[page.answer.question.rules.media]) else []
    if picture.events_left_out:
        notes.append(f"The trace is long: {picture.events_left_out:,} events away from the failures are not drawn.")
    if picture.lines_left_out:
        notes.append(f"{picture.lines_left_out:,} cache lines beyond the first {MOST_LINES} are not drawn.")
    if picture.clean_left_out:
        notes.append(f"{picture.clean_left_out:,} cache lines that were flushed but never stored to are not drawn.")
    return tag(
        "section",
        tag("h2", "What the program did"),
        tag("p", "One row for each cache line that was stored to or flushed, one column for each event. "
            "Hover over a sign to see the instruction and its source line."),
        legend(),
        [tag("p", note, class_="muted") for note in notes],
        list(timeline(picture, scene)) or tag("p", "The program did nothing to persistent memory."),
    )  # fmt: skip


def _states(page: _Page) -> Html:
    return tag(
        "section",
        tag("h2", "The crash states"),
        tag("p", "Each row stands for all memories that look the same to recovery. Bytes are in memory order; the left "
            "side of an arrow is what the place holds if every store before the crash persisted. Places that recovery "
            "does not read are taken as persisted where the rules allow it. Where there are several crash points, the "
            "bytes are those of the first."),
        list(states(page.answer, page.initial, page.name)),
    )  # fmt: skip


def _observed(page: _Page) -> Html | None:
    """What --observe asked for."""
    question, outcomes = page.answer.question, page.result["outcomes"]
    if not question.observe:
        return None
    words = [f"{offset:#x}, {length} bytes" for offset, length in question.observe]
    rows = [
        tag("tr", [tag("td", data, class_="mono") for data in outcome["observed"]],
            tag("td", _word(outcome["verdict"])), tag("td", some(outcome["crash_points"])))
        for outcome in outcomes[:_MOST_OUTCOMES]
    ]  # fmt: skip
    head = tag("thead", tag("tr", [tag("th", word, scope="col") for word in (*words, "verdict", "power fails before")]))
    return tag(
        "section",
        tag("h2", "What the observed bytes can hold"),
        tag("div", tag("table", head, tag("tbody", rows)), class_="wide", tabindex=0),
        tag("p", f"{len(outcomes) - _MOST_OUTCOMES} more are not shown.") if len(outcomes) > _MOST_OUTCOMES else None,
    )


def _word(verdict: str | None) -> Html:
    known = {"ok": ("recovers", "ok"), "failed": ("fails", "failed")}
    words, kind = known.get(verdict or "", ("not tried", "open"))
    return tag("span", words, class_=f"chip {kind}")


def _warnings(page: _Page) -> Html | None:
    warnings = page.result["warnings"]
    if not warnings:
        return None
    return tag("section", tag("h2", "Warnings"), tag("ul", list(_warning_items(warnings))))


def _warning_items(warnings: list[Mapping[str, Any]]) -> Iterator[Html]:
    for item in warnings[:_MOST_OUTCOMES]:
        if item["kind"] == "note":
            yield tag("li", item["text"])
        else:
            times = "once" if item["count"] == 1 else f"{item['count']} times"
            yield tag(
                "li", tag("b", item["kind"]), f": {place_of(item)}, {times}, first as event {item['first_event']}"
            )


def _colophon(page: _Page) -> Html:
    workload = page.result["workload"]
    dimms = [f"{dimm['id']}: {dimm['size']} bytes at {dimm['gpa']:#x}" for dimm in page.result["nvdimms"]]
    printed = workload["output"].strip()[-_MOST_OUTPUT:] or "(nothing)"
    return tag(
        "footer",
        tag("h2", "About this run"),
        tag("p", f"The recorded run ended with {workload['reason']}, status {workload['status']}. {'; '.join(dimms)}."),
        tag("details", tag("summary", "What the program printed"), tag("pre", printed, class_="card")),
        tag("p", "For machines, this page carries the document ", tag("code", page.result["schema"]),
            " in the script element ", tag("code", "emu-crash"), ".", class_="muted"),
    )  # fmt: skip
