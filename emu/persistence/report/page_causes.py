"""The causes of failing crash states, each with its stores, its part of the timeline, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from emu.persistence.lab.findings import Failure
from emu.persistence.model.events import UNIT, Event, Store, line_of, split
from emu.persistence.model.image import Image
from emu.persistence.report import words
from emu.persistence.report.lanes import lines_of
from emu.persistence.report.markup import Html, join, tag
from emu.persistence.report.page_contents import heading
from emu.persistence.report.page_context import Page, roles_of
from emu.persistence.report.page_states import hex_bytes, said
from emu.persistence.report.page_timeline import PANEL, PERSISTED, Scene, figure

_MOST_CAUSES = 24
_MOST_PLACES = 12
_MOST_LANES = 10
_MOST_OUTPUT = 2000
_MOST_MARKED = 8
_AROUND = 4
_GAP = 14


def causes(page: Page, scene: Scene) -> Html | None:
    """The section, or nothing when no cause was found."""
    failures = page.result["failures"]
    if not failures:
        return None
    cards = [_cause(page, scene, number, item) for number, item in enumerate(failures[:_MOST_CAUSES])]
    more = len(failures) - len(cards)
    note = tag("p", f"{more} more causes are in the document at the end of this page.") if more else None
    return tag("section", heading(words.CAUSES), cards, note)


def _cause(page: Page, scene: Scene, number: int, item: Mapping[str, Any]) -> Html:
    failure = page.answer.failures[item["number"] - 1]
    fix = words.FIXES.get(failure.kind)
    others = [name for name in failure.names if name != failure.kind]
    seen = roles_of(failure, page.answer.workload.events)
    stores = [_store(page, entry, seen[entry["event"]]) for entry in item["lost"][:4]]
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
        _state(item["state"]) if item["state"] else None,
        _circumstances(item),
        tag("p", tag("b", "What to do: "), fix, class_="fix") if fix else None,
        tag("ul", pages) if pages else None,
        tag("div", stores, class_="pair") if stores else None,
        [tag("h4", "What happened"), _closeup(page, scene, number, failure)] if seen else None,
        _memory(page, failure),
        tag("h4", "Where"),
        tag("p", f"Found with power failing {words.before(sorted(failure.events), failure.event, 40)}."),
        tag("h4", "See it yourself"),
        _reproduce(item["reproduce"]),
        class_="card cause",
        id=f"cause-{number + 1}",
    )  # fmt: skip


def _circumstances(item: Mapping[str, Any]) -> Html | None:
    """What else was so: the operations under way, the loop that never ends, the second power failure."""
    rows: list[Html | str] = []
    if item["operations"] and item["promise"] is None:
        rows.append(f"In flight: {words.in_flight(item['operations'], _MOST_PLACES)}")
    if item["promise"] is not None:
        rows.append(f"Promised: operation {item['promise']} was done, yet what it stored can be lost")
    if item["spin"]:
        rows.append(f"Recovery spins for ever at {words.spin(item['spin'])}")
    again = item["in_recovery"]
    if again:
        rows.append(f"Power fails again before event {again['crash_point']} of recovery")
        rows += [f"Lost there: {words.event(store)}" for store in again["lost"]]
        rows += [f"Persisted there: {words.event(again['persisted'])}"] if again["persisted"] else []
    return tag("ul", [tag("li", row) for row in rows], class_="circumstances") if rows else None


def _state(item: Mapping[str, Any]) -> Html:
    """What recovery shows and may not show."""
    begin, end = (words.quoted(name) for name in item["between"])
    lines = [tag("li", f"{name}: {text}") for name, text in words.state(item)]
    return tag("div", tag("p", f"Between {begin} and {end} it may show the state before or the one after:"),
               tag("ul", lines), class_="state")  # fmt: skip


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _store(page: Page, item: Mapping[str, Any], role: str) -> Html:
    """One store of a finding: what it wrote, where in the program, and the source around it."""
    if item["kind"] in words.TOLD:
        return tag("div", tag("b", _sentence(role)[:-1], class_="kept"), f": {words.event(item)}", class_="store")
    facts = [
        ("event", str(item["event"])),
        ("address", f"{item['address']:#x}" + ("" if item["offset"] is None else f" (offset {item['offset']:#x})")),
        ("field", item["field"] or ""),
        ("line", page.name(line_of(item["address"]))),
        ("bytes", f"{item['data']}{'...' if item['size'] > 64 else ''} ({item['size']})"),
        ("text", words.quoted(item["text"]) if item.get("text") else ""),
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
            "div",
            tag("b", _sentence(role)[:-1], class_="kept" if role == PERSISTED else "lost"),
            f": {words.place(item)}",
        ),
        tag("div", "in ", words.stack(item), class_="mono") if words.stack(item) else None,
        tag(
            "dl", [[tag("dt", name), tag("dd", value, class_="mono")] for name, value in facts if value], class_="facts"
        ),
        source,
        class_="store",
    )


def _closeup(page: Page, scene: Scene, number: int, failure: Failure) -> Html:
    """The part of the timeline that the finding is about: its lines only, its events and a few around them."""
    roles = roles_of(failure, scene.events)
    events = sorted({failure.event, *list(roles)[:_MOST_MARKED], *failure.lost[:_MOST_MARKED]})
    lines = {line for event in (*roles, failure.event) if event < page.count for line in lines_of(_event(page, event))}
    lanes = [lane for lane in page.picture.lanes if lane.line in lines][:_MOST_LANES]
    windows: list[range] = []
    for event in events:
        start, stop = max(0, event - _AROUND), min(page.count, event + _AROUND + 1)
        if windows and start - windows[-1].stop <= _GAP and stop - windows[-1].start <= PANEL:
            windows[-1] = range(windows[-1].start, max(stop, windows[-1].stop))
        elif start < stop:
            windows.append(range(start, stop))
    own = replace(scene, roles=roles)
    return join(
        figure(lanes, window, own, f"Cause {number + 1}: events {window.start} to {window.stop - 1}",
               f"chart-{number + 1}-{window.start}")
        for window in windows[:4]
    )  # fmt: skip


def _event(page: Page, number: int) -> Event:
    return page.answer.workload.events[number]


def _memory(page: Page, failure: Failure) -> Html | None:
    """The bytes in question: what they hold when nothing is lost, and what this crash left."""
    point = next((point.number for point in page.answer.timeline.points if point.event == failure.event), None)
    if point is None or not failure.contents:
        return None
    whole = Image(page.answer.timeline, page.initial, point).contents()
    concerned = [
        unit
        for number in roles_of(failure, page.answer.workload.events)
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
    titles = ("place", "if every store before the first crash had persisted", "what recovery found", "")
    head = tag("thead", tag("tr", [tag("th", word, scope="col") for word in titles]))
    table = tag("div", tag("table", head, tag("tbody", rows)), class_="wide", tabindex=0)
    return join([tag("h4", "The memory it wakes up with"), table])


def _reproduce(exported: Mapping[str, Any] | None) -> Html:
    if exported is None:
        return tag("p", "Run the same command with ", tag("code", "--export DIR"),
                   ": it writes this memory to a file and says how to boot it.")  # fmt: skip
    return tag("p", "This memory was written; this boots it: ", tag("pre", tag("code", exported["command"])))
