"""The report page and the terminal view: lanes agree with the model, hostile text stays text, long traces are cut."""

from __future__ import annotations

import copy
import html.parser
import json
import re
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig, PersistenceDomain
from emu.persistence.lab.investigation import Answer, Question, investigate
from emu.persistence.model.events import UNIT, Event, Fence, FenceKind, Flush, FlushKind, Store
from emu.persistence.model.rules import FailedCas, Media, Order, Rules
from emu.persistence.model.timeline import PersistState
from emu.persistence.report import words
from emu.persistence.report.about import about
from emu.persistence.report.colours import wants_colour
from emu.persistence.report.document import document, text_of
from emu.persistence.report.excerpts import Sources
from emu.persistence.report.lanes import MOST_EVENTS, MOST_LINES, LineState, draw
from emu.persistence.report.markup import Html, embedded_json, tag, visible
from emu.persistence.report.page import report_html
from emu.persistence.report.symbols import load_symbols
from emu.persistence.report.terminal import report_lines, wrapped
from emu.persistence.report.terminal_timeline import timeline_lines
from emu.units import CACHE_LINE, MIB
from tests import documents

IMAGES = Path(__file__).parents[3] / "guest" / "images"
BASE = 1 << 32
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\x1b[31m\u202e\udcff"


@cache
def investigated(guest: str, rules: Rules = Rules()) -> Answer:  # noqa: B008 - frozen
    dimm = NvdimmConfig(backend=BackendConfig(kind=BackendKind.RAM, id="mem0", size=2 * MIB))
    image = str(IMAGES / f"{guest}.elf")
    machine = MachineConfig(image=image, slots=1, nvdimms=(dimm,))
    return investigate(Question(machine, machine, rules))


def page_of(answer: Answer, *, warnings: bool = True) -> str:
    symbols = load_symbols(answer.question.workload.image)
    return report_html(documents.check(document(answer, symbols, warnings=warnings)), answer, symbols)


class Reader(html.parser.HTMLParser):
    """Elements, attributes, text and the embedded document of a page; notes elements that are not closed."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.embedded = ""
        self.open: list[str] = []
        self.badly_nested: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.badly_nested.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.embedded += data
        elif not self.open or self.open[-1] != "style":
            self.text += data


def check_safe(reader: Reader) -> None:
    """Nothing on the page runs, loads, or escapes its element."""
    assert reader.open == []
    assert reader.badly_nested == []
    for name, attributes in reader.elements:
        assert name not in {"img", "iframe", "object", "embed", "form", "base", "audio", "video"}
        assert not any(key.startswith("on") for key in attributes)
        assert "src" not in attributes
        if name == "a":
            target = attributes["href"] or ""
            assert target.startswith("#")
            assert sum(other.get("id") == target[1:] for _, other in reader.elements) == 1, "it leads to one place"
        else:
            assert attributes.get("href", "data:,") == "data:,"
        if name == "script":
            assert attributes["type"] == "application/json"


def test_failing_guest_says_what_is_wrong_first() -> None:
    answer = investigated("commit-noflush")
    reader = Reader(page_of(answer))
    check_safe(reader)
    text = reader.text
    order = ["Some crash states do not recover", "Why it fails", "missing flush", "Eager", "What the program did",
             "The crash states", "About this run"]  # fmt: skip
    contents = text.index("About this run") + 1
    places = [text.index(order[0]), *(text.index(words, contents) for words in order[1:])]
    assert places == sorted(places)
    assert "violated: value 0 is committed but reads 0" in text
    assert "*value = expected(number);" in text, "the source line that was lost"
    assert "pool->committed = number + 1;" in text, "the source line that persisted"
    assert f"{sum(not r.leaf.verdict.ok for r in answer.exploration.results if r.leaf.verdict)} of the" in text
    assert json.loads(reader.embedded)["schema"] == "emu.crash/1"


def test_the_memory_it_wakes_up_with_holds_what_the_crash_left(tmp_path: Path) -> None:
    """A flag at 64 says that the value at 0 is there. The file held other things before, and one of them comes back."""
    image, recovery, pool = tmp_path / "guest.bin", tmp_path / "recovery.bin", tmp_path / "pool.img"
    rdi = b"\x48\xbf" + struct.pack("<Q", BASE)
    store_value, store_flag = b"\xc7\x07\x34\x12\0\0", b"\x48\xc7\x47\x40\x01\0\0\0"
    image.write_bytes(rdi + store_value + store_flag + b"\xf4")
    # cmp qword [rdi + 64], 1; jne good; cmp dword [rdi], 1234h; je good; mov al, 7; out 0xf4, al; good: hlt
    recovery.write_bytes(rdi + b"\x48\x83\x7f\x40\x01\x75\x0c\x81\x3f\x34\x12\0\0\x74\x04\xb0\x07\xe6\xf4\xf4")
    pool.write_bytes((b"\xab" * 8).ljust(64, b"\x11") + (b"\xcd" * 8).ljust(2 * MIB - 64, b"\x22"))
    dimm = NvdimmConfig(backend=BackendConfig(id="m", path=str(pool), size=2 * MIB, share=True))
    machine = MachineConfig(image=str(image), slots=1, nvdimms=(dimm,), ram_size=16 * MIB)
    with investigate(Question(machine, replace(machine, image=str(recovery)))) as answer:
        page = page_of(answer)
    table = page.partition("The memory it wakes up with</h4>")[2].partition("<tbody>")[2].partition("</tbody>")[0]
    rows = [re.sub("<[^>]+>", " ", row).split() for row in table.split("</tr>") if row]
    value, old, flag = ["34", "12", "00", "00"] + ["ab"] * 4, ["ab"] * 8, ["01"] + ["00"] * 7
    assert rows == [
        ["0x0", *value, "=", f"{0xABABABAB00001234:,}", *old, "=", f"{0xABABABABABABABAB:,}", "differs"],
        ["0x40", *flag, "=", "1", *flag, "=", "1"],
    ]


def failing_points(chart: str) -> set[int]:
    """The events before which a chart says that power fails with a failing state."""
    return {int(found) for found in re.findall(r"Power fails before event (\d+): some crash states fail", chart)}


def test_charts_of_a_cause_and_of_the_whole_agree() -> None:
    page = page_of(investigated("torn-broken"))
    small, large = page.index('id="chart-1-'), page.index('id="panel-1-t"')
    cause, whole = (page[at : page.index("</svg>", at)] for at in (small, large))
    drawn = {int(found) for found in re.findall(r"Power fails before event (\d+)", cause)}
    assert failing_points(cause) == failing_points(whole) & drawn
    assert len(failing_points(cause)) > 1, "not only the point that the cause is told by"


def test_names_of_rows_stay_when_a_chart_is_scrolled() -> None:
    page = page_of(investigated("commit-noflush"))
    (chart,) = re.findall(r'<figure [^>]*id="panel-1-figure".*?</figure>', page, re.S)
    drawn, labels = chart.split('class="labels"')
    names = re.findall(r'class="name">([^<]+)<', drawn)
    assert names == re.findall(r'class="name">([^<]+)<', labels) == ["0x0", "0x40", "0x80", "0xc0", "0x100", "0x140"]
    assert "svg.labels {position: sticky" in page


def test_contents_of_a_long_trace_lead_to_the_failing_points() -> None:
    answer = investigated("commit-noflush")
    short = page_of(answer)
    assert 'href="#cause-1"' in short
    assert '-figure">power fails' not in short, "a short trace is seen at once"
    filler = [Store(BASE + 4096 + 64 * (number % 5000), b"\x01" * 8) for number in range(1000)]
    long = replace(answer, workload=replace(answer.workload, events=[*answer.workload.events, *filler]))
    reader = Reader(page_of(long))
    check_safe(reader)
    assert (
        "power fails before event 10"
        in reader.text.partition("What the program did")[2].partition("The crash states")[0]
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"hello\0\0\0", "hello"), (b"key 0007", "key 0007"), (b"abc\0\0\0\0\0", None), (b"a\0bcdefg", None),
     (b"caf\xc3\xa9s", None), (b"tab\tbed", None), (bytes(8), None), (b"\"quoted\"", '"quoted"')],
)  # fmt: skip
def test_values_that_are_text_are_shown_as_text(data: bytes, text: str | None) -> None:
    assert text_of(data) == text
    item = {"event": 1, "kind": "store", "size": len(data), "offset": 0, "address": 0, "data": data.hex(), "text": text,
            "symbol": "", "source": "", "instruction": "", "pc": 0}  # fmt: skip
    said = words.event(item)
    assert (f" = {json.dumps(text)}" in said) == (text is not None)
    assert (f" = {data.hex()}" in said) == (text is None)


def test_page_says_how_it_came_about() -> None:
    answer = investigated("commit-fixed")
    symbols = load_symbols(answer.question.workload.image)
    made = about(["crash", "commit-fixed", "--nvdimm", "file=a b,size=2M"])
    text = Reader(report_html(documents.check(document(answer, symbols, about=made)), answer, symbols)).text
    assert "emu crash commit-fixed --nvdimm 'file=a b,size=2M'" in text
    assert f"emu {made['version']}, {made['date'][:10]} " in text


def test_passing_guest_has_no_causes() -> None:
    text = Reader(page_of(investigated("commit-fixed"))).text
    assert "Every crash state recovers" in text
    assert "Why it fails" not in text
    assert "lost" not in text.partition("The crash states")[0]


def test_incomplete_says_why() -> None:
    answer = replace(investigated("commit-fixed"), incomplete_because=("the time limit of 1 s was reached",))
    text = Reader(page_of(answer)).text
    assert "not every crash state was tried" in text
    assert "the time limit of 1 s was reached" in text


@pytest.mark.parametrize("guest", ["torn-broken", "undo-broken", "level-broken", "alloc-broken", "mapsync-broken"])
def test_every_kind_of_finding_has_a_page(guest: str) -> None:
    answer = investigated(guest, Rules(media=Media.DAX))
    reader = Reader(page_of(answer))
    check_safe(reader)
    for failure in answer.failures:
        assert failure.kind in reader.text
    assert "What to do:" in reader.text
    assert "Without MAP_SYNC" in reader.text


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Rules(), "stores to one cache line persist in program order"),
        (Rules(order=Order.LOCATION), "only stores to the same 8 bytes"),
        (Rules(PersistenceDomain.EADR), "Under eADR no flush is needed"),
        (Rules(media=Media.PAGE_CACHE), "it stays dirty"),
        (Rules(media=Media.DAX), "came back as it was"),
        (Rules(failed_cas=FailedCas.LOAD), "is a plain load"),
    ],
)
def test_page_says_which_rules_it_used(rules: Rules, words: str) -> None:
    reader = Reader(page_of(investigated("mapsync-broken", rules)))
    check_safe(reader)
    assert words in reader.text


def test_hostile_text_stays_text() -> None:
    answer = investigated("commit-noflush")
    (failure,) = answer.failures
    nasty = replace(failure.verdict, output=NASTY, detail=NASTY)
    dimm = replace(answer.workload.dimms[0], id=NASTY, file=NASTY)
    workload = replace(
        answer.workload,
        output=NASTY,
        dimms=(dimm,),
        instructions=dict.fromkeys(answer.workload.instructions, NASTY),
    )
    for result in answer.exploration.results:
        assert result.leaf.verdict
    hostile = replace(answer, workload=workload, failures=(replace(failure, verdict=nasty, explanation=NASTY),))
    symbols = load_symbols(answer.question.workload.image)
    said = document(hostile, symbols, warnings=True)
    said["recover"] = said["image"] = NASTY
    page = report_html(said, hostile, symbols)
    page.encode("utf-8")
    reader = Reader(page)
    check_safe(reader)
    assert "alert(1)" in reader.text, "the text is shown"
    assert not re.search("[\x00-\x08\x1b\u202e]", page), "nothing that hides or steers a terminal"
    assert json.loads(reader.embedded) == said
    assert len([name for name, _ in reader.elements if name == "script"]) == 1


@given(st.text(st.characters()))
def test_text_and_attributes_are_escaped(text: str) -> None:
    reader = Reader(tag("p", text, title=text))
    ((name, attributes),) = reader.elements
    assert name == "p"
    assert list(attributes) == ["title"]
    assert reader.text == visible(text)


def test_markup_is_not_escaped_twice() -> None:
    assert tag("b", Html("<i>x</i>"), None, [1, "<"]) == "<b><i>x</i>1&lt;</b>"


@settings(max_examples=40)
@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_embedded_document_is_the_document(value: object) -> None:
    element = embedded_json(value)
    assert element.count("<") == 2
    assert json.loads(Reader(element).embedded) == value


UNITS = [BASE, BASE + 8, BASE + 16, BASE + 64, BASE + 72, BASE + 128, BASE + 4096]
STORES = st.builds(
    Store, st.sampled_from(UNITS), st.sampled_from([b"\x01", b"\x02" * 8, b"\x03" * 16, b"\x04" * 60]), nt=st.booleans()
)
FLUSHES = st.builds(Flush, st.sampled_from(UNITS), st.sampled_from(FlushKind))
FENCES = st.builds(Fence, st.sampled_from([FenceKind.SFENCE, FenceKind.MFENCE]))
TRACES = st.lists(STORES | STORES | FLUSHES | FENCES, max_size=24)
RULES = st.sampled_from(
    [
        Rules(),
        Rules(order=Order.LOCATION),
        Rules(PersistenceDomain.EADR),
        Rules(media=Media.PAGE_CACHE),
        Rules(media=Media.DAX),
    ]
)


def pending(state: PersistState, line: int) -> tuple[int, int]:
    """Units of the line with (any, non-temporal) stores that are not durable."""
    found = nt = 0
    for unit in range(line, line + CACHE_LINE, UNIT):
        component = state.components.get(state.rules.component(unit))
        if component and unit in component.units and component.units[unit].parts:
            found += 1
            nt += any(part.nt for part in component.units[unit].parts)
    return found, nt


@settings(max_examples=300)
@given(TRACES, RULES)
def test_lanes_agree_with_the_model(events: list[Event], rules: Rules) -> None:
    """Durable: nothing pending. Flush pending: a fence would make it so. Dirty: it would not."""
    picture = draw(events, rules, [])
    state = PersistState(rules)
    for number, event in enumerate(events):
        state.apply(event)
        fenced = copy.deepcopy(state)
        fenced.apply(Fence(FenceKind.SFENCE))
        for lane in picture.lanes:
            seen, (count, nt) = lane.after(number), pending(state, lane.line)
            assert (count > 0) == (seen in (LineState.DIRTY, LineState.WAITING))
            if seen is LineState.WAITING:
                assert pending(fenced, lane.line) == (0, 0)
            if seen is LineState.DIRTY and not nt:
                assert pending(fenced, lane.line)[0] > 0


def test_marks_are_the_stores_and_flushes_of_a_line() -> None:
    events: list[Event] = [Store(BASE + 60, b"12345678"), Flush(BASE, FlushKind.CLWB), Fence(FenceKind.SFENCE)]
    picture = draw(events, Rules(), [])
    assert [(lane.line, lane.marks) for lane in picture.lanes] == [(BASE, [0, 1]), (BASE + 64, [0])]
    assert [picture.lanes[0].after(number) for number in (-1, 0, 1, 2)] == [
        LineState.UNTOUCHED, LineState.DIRTY, LineState.WAITING, LineState.DURABLE,
    ]  # fmt: skip
    assert picture.lanes[1].after(2) is LineState.DIRTY


@given(st.integers(0, 3 * MOST_EVENTS), st.lists(st.integers(-5, 3 * MOST_EVENTS + 5), max_size=60))
@settings(max_examples=25, deadline=None)
def test_long_traces_are_cut_around_what_matters(count: int, interesting: list[int]) -> None:
    events = [Store(BASE + 64 * (number % 300), b"\x01" * 8) for number in range(count)]
    picture = draw(events, Rules(), interesting)
    shown = [number for window in picture.windows for number in window]
    assert shown == sorted(set(shown))
    assert len(shown) == min(count, len(shown)) <= MOST_EVENTS
    assert len(shown) + picture.events_left_out == count
    assert len(picture.lanes) <= MOST_LINES
    real = sorted({number for number in interesting if 0 <= number < count})
    assert set(real[:10]) <= set(shown) or count <= MOST_EVENTS
    assert all(number in shown for lane in picture.lanes for number in lane.marks)


def test_lines_that_are_only_flushed_do_not_hide_the_others() -> None:
    store = Store(BASE, b"\x01" * 8)
    few = draw([store, *(Flush(BASE + 64 * line, FlushKind.CLWB) for line in range(9))], Rules(), [])
    assert (len(few.lanes), few.clean_left_out) == (9, 0)
    many = draw([store, *(Flush(BASE + 64 * line, FlushKind.CLWB) for line in range(10))], Rules(), [])
    assert ([lane.line for lane in many.lanes], many.clean_left_out) == ([BASE], 9)


def test_page_of_a_long_trace_is_bounded() -> None:
    answer = investigated("commit-noflush")
    filler = [Store(BASE + 4096 + 64 * (number % 5000), b"\x01" * 8) for number in range(30_000)]
    answer = replace(answer, workload=replace(answer.workload, events=[*answer.workload.events, *filler]))
    page = page_of(answer)
    text = Reader(page).text
    assert "The trace is long" in text
    assert len(page) < 4_000_000


def test_source_is_quoted_only_from_around_the_image(tmp_path: Path) -> None:
    known = Sources.of(str(IMAGES / "commit-noflush.elf")).excerpt("commit.c:36")
    assert known is not None
    assert known.marked in dict(known.lines)
    assert "expected(number)" in dict(known.lines)[36]
    elsewhere = tmp_path / "deep" / "down" / "here" / "guest.elf"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes((IMAGES / "commit-noflush.elf").read_bytes())
    for source in ("commit.c:0", "commit.c:999999", "commit.c:x", "nothing.c:1", "", "commit.c:٣"):
        assert Sources.of(str(IMAGES / "commit-noflush.elf")).excerpt(source) is None
    secret = tmp_path / "secret.c"
    secret.write_text("secret\n")
    folder = tmp_path / "project" / "images"
    folder.mkdir(parents=True)
    sources = Sources((folder,), {"secret.c": [Path("../../secret.c"), secret]})  # type: ignore[list-item]
    assert sources.excerpt("secret.c:1") is None
    assert Sources.of(str(tmp_path / "none.elf")).excerpt("a.c:1") is None


def test_terminal_view_of_a_missing_flush() -> None:
    lines = timeline_lines(investigated("commit-noflush"), width=80)
    rows = {line.split()[0]: line for line in lines if line.lstrip().startswith(("0x", "crash"))}
    assert "L|==|" in rows["0x80"]
    assert "Pw|" in rows["0x40"]
    assert rows["crash"].count("!") == 5
    first = next(line for line in lines if line.lstrip().startswith("0x"))
    assert all(line.isascii() and len(line) <= 120 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert first.split()[0] == "0x0"


def test_terminal_view_wraps_and_colours() -> None:
    answer = investigated("level-broken")
    narrow = timeline_lines(answer, width=40)
    assert sum(line.lstrip().startswith("crash") for line in narrow) > 1
    coloured = timeline_lines(answer, width=80, colour=True)
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured]
    assert plain == timeline_lines(answer, width=80)
    assert any("\x1b[1;31mL\x1b[0m" in line for line in coloured)


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def __init__(self, isatty: bool) -> None:
            self.isatty = lambda: isatty

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal(True))  # type: ignore[arg-type]
    assert not wants_colour(Terminal(False))  # type: ignore[arg-type]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert wants_colour(Terminal(False))  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal(True))  # type: ignore[arg-type]


def said(guest: str, *, colour: bool = False, width: int | None = None) -> list[str]:
    answer = investigated(guest)
    described = document(answer, load_symbols(answer.question.workload.image))
    return list(report_lines(described, colour=colour, width=width))


def test_terminal_says_verdict_cause_and_remedy_before_the_numbers() -> None:
    lines = said("commit-noflush")
    (start, title, todo, model) = (
        next(at for at, line in enumerate(lines) if line.startswith(words))
        for words in ("FAILED", "1. missing flush", "   to do      flush the line after this store", "model: ")
    )
    assert 0 == start < title < todo < model
    assert lines[model + 2].startswith("eager 80 / ")


@pytest.mark.parametrize(("guest", "colour"), [("commit-noflush", "1;31"), ("commit-fixed", "1;32")])
def test_the_verdict_is_coloured_and_says_the_same_without(guest: str, colour: str) -> None:
    coloured, plain = said(guest, colour=True), said(guest)
    assert coloured[0] == f"\x1b[{colour}m{plain[0]}\x1b[0m"
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured] == plain
    assert "\x1b" not in "".join(plain)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_terminal_gets_whole_words_and_text_stays_beside_its_label(width: int) -> None:
    labelled = "   persisted  event 5: 8 bytes at offset 0x40, main+0xf7, prog.c:19, mov qword ptr [rdi + 0x40], rbx"
    numbered = "1. missing fence: the line was flushed, but no fence waits for the flush before a later store"
    for line, hanging in (
        (labelled, 14 if width > 20 else 2),
        (numbered, 3),
        ("ok: every crash state recovers " * 4, 0),
    ):
        parts = wrapped(line, width)
        assert " ".join(parts).split() == line.split()
        assert all(len(part) <= width for part in parts)
        assert all(len(part) - len(part.lstrip()) == hanging for part in parts[1:])
    assert wrapped(labelled, None) == [labelled], "other programs get lines whole"


def test_every_part_of_a_painted_line_is_painted() -> None:
    painted, plain = (said("commit-noflush", colour=colour, width=40) for colour in (True, False))
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in painted] == plain
    assert [line.count("\x1b[") for line in painted[:2]] == [2, 2], "the verdict takes two lines"
