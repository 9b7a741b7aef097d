"""What the page and the terminal say in words: the model, the events, and what to do about each kind of finding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emu.config import PersistenceDomain
from emu.persistence.lab import findings
from emu.persistence.model import waste
from emu.persistence.model.rules import FailedCas, Media, Order, Rules
from emu.units import counted

_LONGEST_TEXT = 96
_DOMAIN = {
    PersistenceDomain.ADR: "On this platform (ADR) whatever reached the memory controller survives, and CPU caches do "
    "not: a store is safe once its line was flushed and a fence has waited for the flush",
    PersistenceDomain.EADR: "On this platform (eADR) CPU caches survive: stores persist in program order and need no "
    "flush; only store buffers are lost",
}
_ORDER = {
    Order.LINE: "stores to one cache line persist in program order",
    Order.LOCATION: "only stores to the same 8 bytes persist in program order",
}
_MEDIA = {
    Media.DAX_SYNC: "the NVDIMM is a DAX file mapped with MAP_SYNC, so the file system never loses a page",
    Media.DAX: "the NVDIMM is a DAX file mapped without MAP_SYNC, so a page that was stored to may come back whole "
    "as it was before",
    Media.PAGE_CACHE: "the NVDIMM is a file in the host's page cache, so flushes and fences mean nothing and each "
    "4 KiB page holds some prefix of its stores",
}

FIXES = {
    findings.MISSING_FLUSH: "flush the line after this store (CLWB or CLFLUSHOPT), and fence (SFENCE) before the "
    "store that relies on it.",
    findings.MISSING_FENCE: "put an SFENCE between the flush, or the non-temporal store, and the store that relies "
    "on it.",
    findings.ORDERING: "let this store be durable (flush, then fence; in a page cache msync) before the other store is "
    "made.",
    findings.ATOMICITY: "keep a log of what is under way, or prepare the new state aside and switch to it with one "
    "aligned 8-byte store.",
    findings.TORN: "write the record beside the old one, make it durable, and switch to it with one aligned 8-byte "
    "store.",
    findings.PERSISTED_LOCK: "keep locks in memory that a power failure clears, or set them free when the persistent "
    "memory is opened, before anybody waits for them.",
    findings.RECOVERY_LOGIC: "look at recovery: it meets a memory that the program itself can leave.",
    findings.ROBUSTNESS: "make the lost store durable (flush, then fence) before the other one is made, or see to it "
    "that recovery does not depend on which of them is there.",
    findings.MISSING_MAP_SYNC: "map the file with MAP_SYNC (sync=on), or keep on one page what must appear together.",
    findings.MISSING_FSYNC: "call fsync or fdatasync on the file (and on its directory, if it is new) before anything "
    "relies on what was written.",
}  # fmt: skip

TOLD = ("print", "operation")
"""Kinds of events that are no access to memory."""

_FRAMES = 6

WASTE_FIXES = {
    waste.NOT_FLUSHED: "flush the line after the store, then fence; a power failure after the run can lose it.",
    waste.NOT_FENCED: "put an SFENCE behind it; a power failure after the run can lose it.",
    waste.NOT_WRITTEN_BACK: "in a page cache only msync, or the host in its own time, makes it durable.",
    waste.OVERWRITTEN: "make the first value durable before it is replaced, or do not store it.",
    waste.REDUNDANT_FLUSH: "leave the second flush out: nothing was stored to the line between the two.",
    waste.CLEAN_FLUSH: "leave the flush out, or look which line was meant: nothing was stored to this one.",
    waste.REDUNDANT_FENCE: "leave the fence out: no flush and no non-temporal store waits for it.",
}


def model(rules: Rules) -> str:
    """The model in force, in one sentence."""
    if rules.media is Media.PAGE_CACHE:
        text = f"{_MEDIA[rules.media]}"
    elif rules.domain is PersistenceDomain.EADR:
        text = f"{_DOMAIN[rules.domain]}; {_MEDIA[rules.media]}"
    else:
        text = f"{_DOMAIN[rules.domain]}; {_ORDER[rules.order]}; {_MEDIA[rules.media]}"
    if rules.failed_cas is FailedCas.LOAD:
        text += "; a compare-and-swap that fails is a plain load"
    return text[0].upper() + text[1:] + "."


CRASH = (
    "A crash means: power fails just before some event, and the machine wakes up with any one of the memories that "
    "these rules allow."
)
COMPLETE = (
    "Complete means that every memory which the rules allow after a crash of this one run was covered. It says nothing "
    "about other inputs, other runs, or hardware that breaks the rules."
)
EAGER = "memories to try one by one: the sets of persisted stores, summed over the crash points"
DISTINCT = "different memories among them"
EXECUTED = "recoveries run: all other memories look the same to recovery as one of these"


def bands(rules: Rules) -> str:
    """What must be said about the bands of the timeline under these rules; often nothing."""
    if rules.media is Media.PAGE_CACHE:
        return "In a page cache nothing that the program does makes a line durable: it stays dirty."
    if rules.domain is PersistenceDomain.EADR:
        return "Under eADR no flush is needed: flush pending means that the store may still be in a store buffer."
    if rules.media is Media.DAX:
        return "Without MAP_SYNC, durable means the bytes only: their page may still come back whole as it was."
    return ""


def place(item: Mapping[str, Any]) -> str:
    """Symbol, source line and instruction of an event's description, as far as they are known."""
    if item.get("kind") in TOLD:
        return "what the program told"
    names = [item["symbol"] or f"{item['pc']:#x}", item["source"], item["instruction"]]
    return ", ".join(name for name in names if name)


def stack(item: Mapping[str, Any]) -> str:
    """Who made an event, from the program's own innermost frame outwards; empty where the event's own place says it."""
    own = own_frames(item)
    if len(item.get("stack") or ()) < 2 or not own:
        return ""
    shown = [f"{frame['function']} ({frame['source']})" if frame["source"] else frame["function"] for frame in own]
    return " < ".join(shown[:_FRAMES]) + (" < ..." if len(shown) > _FRAMES else "")


def own_frames(item: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The frames of an event from the first that is not of a library to the last that is not."""
    frames = item.get("stack") or []
    own = [number for number, frame in enumerate(frames) if not frame["library"]]
    return list(frames[own[0] : own[-1] + 1]) if own else []


def author_place(item: Mapping[str, Any]) -> dict[str, Any]:
    """``item`` with the place that its author wrote: that of the innermost frame outside of libraries."""
    own = own_frames(item)
    if not own or not own[0]["source"] or own[0]["source"] == item["source"]:
        return dict(item)
    frame = own[0]
    place = {"symbol": frame["function"], "source": frame["source"], "source_path": frame["source_path"]}
    return {**item, **place, "source_text": None}


def where(item: Mapping[str, Any]) -> str:
    """The first byte that an event stored or flushed."""
    if "label_offset" in item:
        return f"offset {item['label_offset']:#x} of the label area"
    named = f" ({item['field']})" if item.get("field") else ""
    return f"{item['address']:#x}" if item["offset"] is None else f"offset {item['offset']:#x}{named}"


def size(item: Mapping[str, Any]) -> str:
    """How much an event stored."""
    return f"{item['size']} byte{'s' if item['size'] != 1 else ''}"


def quoted(text: str) -> str:
    """``text`` in quotation marks; the middle of a long one is left out."""
    return json.dumps(text if len(text) <= _LONGEST_TEXT else f"{text[:48]}...{text[-24:]}")


def value(item: Mapping[str, Any]) -> str:
    """What an event stored: as text where it is text, else the first bytes in memory order."""
    if item.get("text"):
        return quoted(item["text"])
    data: str = item["data"]
    return data if item["size"] <= 16 else data[:32] + "..."


def event(item: Mapping[str, Any]) -> str:
    """An event's description (``document.Describer.event``) in one line."""
    if item["kind"] == "print":
        return f"event {item['event']}: printed {quoted(item['text'])}"
    if item["kind"] == "operation":
        return f"event {item['event']}: {item['text'].strip()}"
    what = str(item["kind"]).upper() if "size" not in item else str(item["kind"])
    if "size" in item:
        what += f" of {size(item)} at {where(item)} = {value(item)}"
    elif "offset" in item:
        what += f" of the line at {where(item)}"
    if item.get("failed"):
        what += " (failed)"
    if "size" not in item:
        item = {**item, "instruction": ""}  # it would say the same again
    return f"event {item['event']}: {what}, {place(item)}"


def some(numbers: Sequence[int], most: int) -> str:
    """The first ``most`` of ``numbers``, and how many more there are."""
    shown = ", ".join(str(number) for number in numbers[:most])
    return shown + (f" and {len(numbers) - most} more" if len(numbers) > most else "")


def before(points: Sequence[int], shown_one: int, most: int) -> str:
    """The events before which power fails with one cause, in order, and the one that the report shows."""
    shown = "" if points[0] == shown_one else f"; shown is that before event {shown_one}"
    if len(points) == 1:
        return f"before event {points[0]}"
    if len(points) > most:
        return f"before event {some(points, most)}{shown}"
    return f"before event {', '.join(map(str, points[:-1]))} or {points[-1]}{shown}"


def spin(item: Mapping[str, Any]) -> str:
    """Where a loop that never ends is, and the word that it reads there."""
    reads = [f"reading {data['data']} ({size(data)}) at {where(data)}" for data in item["reads"][:1]]
    return ", ".join((place(item), *reads))


def state(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How what a recovery shows differs from each of the two states that it may show: the first line that does."""
    shown, found = item["shown"].splitlines(), []
    for name in ("before", "after"):
        if item[name] is not None:
            other = item[name].splitlines()
            at = _same(shown, other)
            has, wants = (json.dumps(text[at]) if at < len(text) else "nothing more" for text in (shown, other))
            found.append((name, f"would show {wants}, this shows {has}"))
    return found


def _same(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are the same at the beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def covered(item: Mapping[str, Any]) -> str:
    """What an exploration tried for certain that did not try everything."""
    where = f"at all {item['crash_points']} crash points"
    if item["lost"] < 0:
        return f"no kind of memory was tried {where}"
    if item["lost"] == 0:
        return f"all memories in which no store is lost, {where}"
    return f"all memories in which stores to at most {counted(item['lost'], item['unit'])} are lost, {where}"


def in_flight(numbers: Sequence[int], most: int) -> str:
    """The operations that were under way."""
    return f"operation{'' if len(numbers) == 1 else 's'} {some(numbers, most)}"


PLATFORMS = {"adr": "ADR", "eadr": "eADR", None: "any"}
MEDIA = {"dax-sync": "DAX with MAP_SYNC", "dax": "DAX without MAP_SYNC", "page-cache": "page cache"}


def matrix_row(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Medium, platform, order, verdict and causes of a row of the document's ``matrix``."""
    causes = ", ".join(item["kind"] + (f" ({item['count']})" if item["count"] > 1 else "") for item in row["causes"])
    return MEDIA[row["media"]], PLATFORMS[row["domain"]], row["order"] or "-", row["verdict"], causes or "-"


def ignored_cause(item: Mapping[str, Any]) -> str:
    """An entry of ``ignored.failures`` in one line."""
    failure = item["failure"]
    store = (failure["lost"] or [failure["persisted"]])[0]
    by = "in the baseline" if item["by"] == "baseline" else f"suppressed by: {item['rule']}"
    return f"{failure['kind']}{f' at {place(store)}' if store else ''} ({by})"


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def causes_found(count: int, unexplained: str | None = None) -> str:
    """``unexplained`` says why there may be more; empty where there are none."""
    return f"{counted(count, 'cause')} found{', there may be more' if unexplained else ''}"


def trace(result: Mapping[str, Any]) -> str:
    """What the document says of the recorded run's events."""
    counts = result["events"]
    said = [
        counted(counts["stores"], "store"),
        counted(counts["nt_stores"], "non-temporal store"),
        counted(counts["flushes"], "flush", "flushes"),
        counted(counts["fences"], "fence"),
        *([counted(counts["label_writes"], "label write")] if "label_writes" in counts else []),
        counted(result["crash_points"], "crash point"),
    ]
    return ", ".join(said)


CAUSES = "Why it fails"
NUMBERS = "In numbers"
TIMELINE = "What the program did"
STATES = "The crash states"
OBSERVED = "What the observed bytes can hold"
MATRIX = "Under other rules"
WARNINGS = "Warnings"
IGNORED = "Known, and ignored"
ABOUT = "About this run"
"""The parts of the page."""

NOT_TRIED = "not tried"
