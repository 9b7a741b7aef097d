"""The report page: one HTML file that needs no network, no script and no other file; the verdict comes first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from emu.persistence.lab.investigation import Answer
from emu.persistence.report import numbers, words
from emu.persistence.report.document import Describer
from emu.persistence.report.excerpts import Sources
from emu.persistence.report.lanes import MOST_LINES, draw
from emu.persistence.report.markup import Html, embedded_json, join, tag
from emu.persistence.report.page_causes import causes
from emu.persistence.report.page_contents import contents, heading
from emu.persistence.report.page_context import Page, fails, roles, scene_of
from emu.persistence.report.page_states import SHOWN, states
from emu.persistence.report.page_style import STYLE
from emu.persistence.report.page_timeline import (
    Scene,
    legend,
    patterns,
    timeline,
)
from emu.persistence.report.symbols import Symbols
from emu.units import counted

_MOST_OUTPUT = 2000
_MOST_OUTCOMES = 300

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def report_html(result: Mapping[str, Any], answer: Answer, symbols: Symbols) -> str:
    """The page for an investigation. ``result`` is its document (``document.document``), which the page carries along
    for machines. Source lines are quoted where the files are at hand.
    """
    seen = roles(answer)
    picture = draw(answer.workload.events, answer.question.rules, [*seen, *(f.event for f in answer.failures)])
    sources = Sources.of(answer.question.program, answer.question.limits.deadline)
    page = Page(result, answer, Describer(answer, symbols), picture, sources, answer.initial)
    scene = scene_of(page, seen)
    parts: dict[str, Html | None] = {
        words.CAUSES: causes(page, scene),
        words.NUMBERS: _numbers(page),
        words.TIMELINE: _timeline(page, scene),
        words.STATES: _states(page),
        words.OBSERVED: _observed(page),
        words.MATRIX: _matrix(page),
        words.WARNINGS: _warnings(page),
        words.IGNORED: _ignored(page),
        words.ABOUT: _colophon(page),
    }
    sections = {title: part for title, part in parts.items() if part is not None}
    body = [
        patterns(),
        tag("main", _header(page), contents(page, scene, sections), *sections.values()),
    ]
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


def _image_name(page: Page) -> str:
    return str(page.result["image"] or "guest").rpartition("/")[2]


def _verdict(page: Page) -> tuple[str, str, str]:
    """(class, headline, sentence)."""
    results = page.answer.exploration.results
    bad = sum(fails(found.leaf.verdict) for found in results)
    total = f"{len(results)} crash state{'' if len(results) == 1 else 's'} that recovery can tell apart"
    sentence = f"All {total} end well."
    if bad:
        count = len(page.result["failures"])
        known = page.result["ignored"] is not None and len(page.result["ignored"]["failures"])
        found = "all causes are known" if known else "the cause was not found"
        if count:
            found = words.causes_found(count, page.result["unexplained"])
        sentence = f"{bad} of the {total} fail; {found}."
    elif not page.answer.complete:
        sentence = f"{total} were seen."
    result = page.result
    reasons = [f"{why[:1].upper()}{why[1:]}." for why in result["why"]]
    kind = {"ok": "ok", "failed": "failed", "workload failed": "failed"}.get(result["verdict"], "open")
    return "failed" if bad and kind != "ok" else kind, result["headline"], " ".join([*reasons, sentence])


_ICONS = {"failed": "M10 10 L30 30 M30 10 L10 30", "ok": "M8 21 L17 30 L33 11", "open": "M20 8 L20 23 M20 31 L20 31.5"}


def _header(page: Page) -> Html:
    kind, headline, sentence = _verdict(page)
    result = page.result
    icon = tag("svg", tag("circle", cx=20, cy=20, r=18, class_="icon"), tag("path", d=_ICONS[kind], class_="icon",
               transform="translate(5 5) scale(.75)"), width=56, height=56, viewBox="0 0 40 40",
               aria_hidden="true")  # fmt: skip
    recover = result["recover"]
    return tag(
        "header",
        tag("h1", "emu crash ", tag("b", _image_name(page)),
            f", recovered by {str(recover).rpartition('/')[2]}" if recover != result["image"] else None),
        tag("div", icon, tag("div", tag("strong", headline), tag("p", sentence)), class_=f"verdict {kind}"),
    )  # fmt: skip


def _numbers(page: Page) -> Html:
    """How much was covered, and under which rules."""
    result = page.result
    complete = "yes" if result["complete"] else "no"
    tiles = [
        ("Eager", _number(result["eager"], result["eager_log10"]), words.EAGER),
        ("Distinct", _number(result["distinct"], result["distinct_log10"]), words.DISTINCT),
        ("Executed", f"{result['executed']:,}", words.EXECUTED),
        ("Complete", complete, "; ".join(result["incomplete_because"]) or "nothing that the model allows was left out"),
    ]
    return tag(
        "section",
        heading(words.NUMBERS),
        tag("dl", [tag("div", tag("dt", name), tag("dd", tag("b", value), tag("small", meaning)))
                   for name, value, meaning in tiles], class_="tiles"),
        tag("p", tag("b", "Trace: "), words.trace(result), "."),
        tag("p", tag("b", "Model: "), words.model(page.answer.question.rules), " ", words.CRASH,
            f" Up to {result['model']['depth']} power failures in a row." if result["model"]["depth"] > 1 else None),
        tag("p", words.COMPLETE, class_="muted"),
    )  # fmt: skip


def _number(value: int | None, logarithm: float | None) -> str:
    return numbers.readable(value, logarithm, separator=",")


def _timeline(page: Page, scene: Scene) -> Html:
    picture = page.picture
    notes = [bands] if (bands := words.bands(page.answer.question.rules)) else []
    if picture.events_left_out:
        notes.append(f"The trace is long: {picture.events_left_out:,} events away from the failures are not drawn.")
    if picture.lines_left_out:
        notes.append(f"{picture.lines_left_out:,} cache lines beyond the first {MOST_LINES} are not drawn.")
    if picture.clean_left_out:
        notes.append(f"{picture.clean_left_out:,} cache lines that were flushed but never stored to are not drawn.")
    return tag(
        "section",
        heading(words.TIMELINE),
        tag("p", "One row for each cache line that was stored to or flushed, one column for each event. "
            "Hover over a sign to see the instruction and its source line."),
        legend(),
        [tag("p", note, class_="muted") for note in notes],
        list(timeline(picture, scene)) or tag("p", "The program did nothing to persistent memory."),
    )  # fmt: skip


def _states(page: Page) -> Html:
    return tag(
        "section",
        heading(words.STATES),
        tag("p", "Each row stands for all memories that look the same to recovery. Bytes are in memory order; the left "
            "side of an arrow is what the place holds if every store before the crash persisted. Places that recovery "
            "does not read are taken as persisted where the rules allow it. Where there are several crash points, the "
            "bytes are those of the first."),
        list(states(page.answer, page.initial, page.name)),
    )  # fmt: skip


def _observed(page: Page) -> Html | None:
    """What --observe asked for."""
    question, outcomes = page.answer.question, page.result["outcomes"]
    if not question.observe:
        return None
    titles = [f"{offset:#x}, {counted(length, 'byte')}" for offset, length in question.observe]
    rows = [
        tag("tr", [tag("td", data, class_="mono") for data in outcome["observed"]],
            tag("td", _word(outcome["verdict"])), tag("td", words.some(outcome["crash_points"], SHOWN)))
        for outcome in outcomes[:_MOST_OUTCOMES]
    ]  # fmt: skip
    head = tag(
        "thead", tag("tr", [tag("th", word, scope="col") for word in (*titles, "verdict", "power fails before")])
    )
    return tag(
        "section",
        heading(words.OBSERVED),
        tag("div", tag("table", head, tag("tbody", rows)), class_="wide", tabindex=0),
        tag("p", f"{len(outcomes) - _MOST_OUTCOMES} more are not shown.") if len(outcomes) > _MOST_OUTCOMES else None,
    )


def _word(verdict: str | None) -> Html:
    known = {"ok": ("recovers", "ok"), "failed": ("fails", "failed")}
    said, kind = known.get(verdict or "", (words.NOT_TRIED, "open"))
    return tag("span", said, class_=f"chip {kind}")


def _warnings(page: Page) -> Html | None:
    warnings = page.result["warnings"]
    if not warnings:
        return None
    return tag("section", heading(words.WARNINGS), tag("ul", list(_warning_items(warnings))))


def _matrix(page: Page) -> Html | None:
    rows = page.result["matrix"]
    if rows is None:
        return None
    titles = ("medium", "platform", "order", "verdict", "causes", "crash points", "recoveries", "complete")
    body = []
    for row in rows:
        medium, platform, order, verdict, causes = words.matrix_row(row)
        kind = {"ok": "ok", "failed": "failed", "workload failed": "failed"}.get(verdict, "open")
        numbers = (f"{row['crash_points']:,}", f"{row['executed']:,}", "yes" if row["complete"] else "no")
        cells = [medium, platform, order, tag("span", verdict, class_=f"chip {kind}"), causes, *numbers]
        body.append(tag("tr", [tag("td", cell) for cell in cells], class_="asked" if row["asked"] else None))
    head = tag("thead", tag("tr", [tag("th", title, scope="col") for title in titles]))
    return tag(
        "section",
        heading(words.MATRIX),
        tag("p", "The same recording, judged under every platform and medium; the marked row is this report's. Under "
            "eADR all stores persist in order, in a page cache flushes mean nothing."),
        tag("div", tag("table", head, tag("tbody", body)), class_="wide matrix", tabindex=0),
    )  # fmt: skip


def _ignored(page: Page) -> Html | None:
    ignored = page.result["ignored"]
    if ignored is None:
        return None
    unused = [[tag("code", rule["rule"]), " "] for rule in ignored["rules"] if not rule["matched"]]
    causes_known = [tag("li", words.ignored_cause(item)) for item in ignored["failures"]]
    count = counted(len(causes_known), "cause")
    return tag(
        "section",
        heading(words.IGNORED),
        tag("p", f"{count} and {counted(ignored['warnings'], 'warning')}, by the suppressions or the baseline."),
        tag("ul", causes_known) if causes_known else None,
        tag("p", "Rules that fitted nothing: ", unused) if unused else None,
    )


def _warning_items(warnings: list[Mapping[str, Any]]) -> Iterator[Html]:
    for item in warnings[:_MOST_OUTCOMES]:
        if item["kind"] == "note":
            yield tag("li", item["text"])
        else:
            fix = words.WASTE_FIXES[item["kind"]]
            where = f": {words.place(item)}, {words.times(item['count'])}, first as event {item['first_event']}. "
            yield tag("li", tag("b", item["kind"]), where, tag("small", fix[:1].upper(), fix[1:]))


def _about(page: Page) -> Html | None:
    about = page.result["about"]
    if about is None:
        return None
    command = about["command"] and [tag("pre", tag("code", about["command"]), class_="card")]
    return join([command, tag("p", f"emu {about['version']}, {about['date'].replace('T', ' ').replace('Z', ' UTC')}.")])


def _colophon(page: Page) -> Html:
    workload = page.result["workload"]
    dimms = [f"{dimm['id']}: {dimm['size']} bytes at {dimm['gpa']:#x}" for dimm in page.result["nvdimms"]]
    printed = workload["output"].strip()[-_MOST_OUTPUT:] or "(nothing)"
    return tag(
        "footer",
        heading(words.ABOUT),
        _about(page),
        tag("p", f"The recorded run ended with {workload['reason']}, status {workload['status']}. {'; '.join(dimms)}."),
        tag("details", tag("summary", "What the program printed"), tag("pre", printed, class_="card")),
        tag("p", "For machines, this page carries the document ", tag("code", page.result["schema"]),
            " in the script element ", tag("code", "emu-crash"), ".", class_="muted"),
    )  # fmt: skip
