"""The report for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emu.persistence.lab.findings import Failure
from emu.persistence.lab.promised import NOT_DURABLE
from emu.persistence.lab.workload import Workload
from emu.persistence.report import words
from emu.persistence.report.colours import BOLD, GREEN, RED, YELLOW, paint
from emu.persistence.report.numbers import readable
from emu.persistence.report.symbols import Symbols
from emu.units import counted

_SHOWN = 10
# "1. ", or what a line is about and the blanks behind it.
_LABEL = re.compile(r" *(?:\d+\. |\w+(?: \w+)? {2,})?")
_COLOURS = {"ok": GREEN, "failed": RED, "workload failed": RED}


def report_lines(result: Mapping[str, Any], *, colour: bool = False, width: int | None = None) -> Iterator[str]:
    """The report for a terminal, from the document: the verdict and its causes first, the numbers after. Prose is
    wrapped at words to ``width`` columns; None leaves each line whole, for other programs.
    """

    def shown(line: str, style: str = "") -> Iterator[str]:
        return (paint(part, style) if colour and style else part for part in wrapped(line, width))

    headline, *why = _verdict(result)
    yield from shown(headline, _COLOURS.get(result["verdict"], YELLOW))
    for line in why:
        yield from shown(line)
    for number, failure in enumerate(result["failures"], 1):
        title, *lines = failure_lines(number, failure)
        yield ""
        yield from shown(title, BOLD)
        for line in lines:
            yield from shown(line)
    if result["failures"]:
        yield ""
    for line in _numbers(result):
        yield from shown(line)
    if any(outcome["observed"] for outcome in result["outcomes"]):
        yield ""
        yield f"{words.OBSERVED[:1].lower()}{words.OBSERVED[1:]}:"
        for outcome in result["outcomes"]:
            points = outcome["crash_points"]
            verdict = outcome["verdict"] or words.NOT_TRIED
            yield f"  {' '.join(outcome['observed'])}  {verdict}, crash points {words.some(points, _SHOWN)}"
    if result["matrix"] is not None:
        yield from _matrix(result["matrix"])
    if result["ignored"] is not None:
        for line in _ignored(result["ignored"]):
            yield from shown(line)
    for warning in result["warnings"]:
        if warning["kind"] == "note":
            yield ""
            yield from shown(f"note: {warning['text']}")
        else:
            yield from shown(f"warning: {warning['kind']} at {words.place(warning)}, {words.times(warning['count'])}")
            for line in _stack(warning):
                yield from shown(line)


def wrapped(line: str, width: int | None) -> list[str]:
    """``line`` in parts of at most ``width`` columns, cut at blanks only; what follows stands under the text, not under
    its label.
    """
    if width is None or len(line) <= width:
        return [line]
    import textwrap

    label = _LABEL.match(line)
    assert label is not None, "the pattern fits every line"
    hanging = label.end() if label.end() <= width // 2 else 2
    return textwrap.wrap(line, width, subsequent_indent=" " * hanging, drop_whitespace=True, break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def _matrix(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head = ("medium", "platform", "order", "verdict", "causes", "executed", "complete")
    said = [(*words.matrix_row(row), str(row["executed"]), "yes" if row["complete"] else "no") for row in rows]
    table = [head, *said]
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    yield ""
    yield "the same recording under other rules (* as above):"
    for number, line in enumerate(table):
        mark = "*" if number and rows[number - 1]["asked"] else " "
        yield f"{mark} " + "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()


def _ignored(ignored: Mapping[str, Any]) -> Iterator[str]:
    """What suppressions and the baseline took away, and which rules are of no use."""
    yield ""
    count = counted(len(ignored["failures"]), "cause")
    yield f"ignored: {count}, {counted(ignored['warnings'], 'warning')}"
    for item in ignored["failures"]:
        yield f"  {words.ignored_cause(item)}"
    for rule in ignored["rules"]:
        if not rule["matched"]:
            yield f"  line {rule['line']} of the suppressions matched nothing: {rule['rule']}"


def _numbers(result: Mapping[str, Any]) -> Iterator[str]:
    model = result["model"]
    eager, distinct = (readable(result[name], result[f"{name}_log10"]) for name in ("eager", "distinct"))
    complete = "yes" if result["complete"] else f"no ({'; '.join(result['incomplete_because'])})"
    yield f"model: {model['domain']}, order by {model['order']}, {model['media']}, depth {model['depth']}"
    yield f"trace: {words.trace(result)}"
    yield f"eager {eager} / distinct {distinct} / executed {result['executed']} / complete {complete}"
    if result["covered"] is not None:
        yield f"covered: {words.covered(result['covered'])}"


def _verdict(result: Mapping[str, Any]) -> Iterator[str]:
    headline = result["headline"][:1].lower() + result["headline"][1:]
    match result["verdict"]:
        case "ok":
            headline = f"ok: {headline}"
        case "failed" | "workload failed":
            headline = f"FAILED: {headline}"
    if result["verdict"] == "failed":
        headline += f" ({words.causes_found(len(result['failures']), result['unexplained'])})"
    yield headline
    for why in result["why"]:
        yield f"  {why}"


def failure_lines(number: int, failure: Mapping[str, Any]) -> Iterator[str]:
    """One cause, in lines."""
    yield f"{number}. {failure['kind']}: {failure['explanation']}"
    for store in failure["lost"]:
        missing = store["event"] >= failure["crash_point"]
        yield f"   {'not made' if missing else 'lost    '}   {_event(store)}"
        yield from _stack(store)
    for page in failure["lost_pages"]:
        yield f"   lost page  at offset {page['offset']:#x}"
    for store in failure.get("also_lost", [])[:_SHOWN]:
        yield f"   also lost  {_event(store)}"
    if failure["persisted"]:
        yield f"   persisted  {_event(failure['persisted'])}"
        yield from _stack(failure["persisted"])
    verdict = failure["verdict"]
    yield f"   power fails {words.before(failure['crash_points'], failure['crash_point'], _SHOWN)}"
    if failure.get("operations") and verdict["reason"] != NOT_DURABLE:
        yield f"   in flight  {words.in_flight(failure['operations'], _SHOWN)}"
    last = (verdict["output"].strip().splitlines()[-1:] or [verdict["detail"]])[0]
    if verdict["reason"] != NOT_DURABLE:
        yield f"   recovery   ends with {verdict['reason']}, status {verdict['status']}{': ' if last else ''}{last}"
    if failure.get("state"):
        yield f"   state      between {' and '.join(words.quoted(name) for name in failure['state']['between'])}"
        yield from (f"   {name.ljust(10)} {text}" for name, text in words.state(failure["state"]))
    if failure.get("promise") is not None:
        yield f"   promised   operation {failure['promise']} was done, yet what it stored can be lost"
    if failure.get("in_recovery"):
        yield f"   again      before event {failure['in_recovery']['crash_point']} of recovery"
        for store in failure["in_recovery"]["lost"]:
            yield f"   lost there {_event(store)}"
        if failure["in_recovery"]["persisted"]:
            yield f"   persisted  {_event(failure['in_recovery']['persisted'])}"
    if failure.get("spin"):
        yield f"   spins at   {words.spin(failure['spin'])}"
    if failure["kind"] in words.FIXES:
        yield f"   to do      {words.FIXES[failure['kind']]}"
    if failure["reproduce"]:
        yield f"   boot it    {failure['reproduce']['command']}"


def found_line(failure: Failure, workload: Workload, symbols: Symbols) -> str:
    """A cause that was found just now, in one line."""
    number = next(iter((*failure.lost, *((failure.persisted,) if failure.persisted is not None else ()))), None)
    where = ""
    if number is not None:
        pc = workload.events[number].pc
        place = symbols.find(pc)
        what = {"pc": pc, "symbol": place.symbol, "source": place.source}
        where = f": event {number}, {words.place({**what, 'instruction': workload.instructions.get(pc, '')})}"
    return f"found: {failure.kind}{where} (power fails before event {failure.event})"


def _stack(event: Mapping[str, Any]) -> Iterator[str]:
    if stack := words.stack(event):
        yield f"      in      {stack}"


def _event(event: Mapping[str, Any]) -> str:
    if event["kind"] in words.TOLD:
        return words.event(event)
    if "size" in event:
        text = f" = {words.value(event)}" if event.get("text") else ""
        return f"event {event['event']}: {words.size(event)} at {words.where(event)}{text}, {words.place(event)}"
    return f"event {event['event']}: {event['kind']}, {words.place(event)}"
