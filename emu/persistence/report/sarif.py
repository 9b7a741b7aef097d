"""The document as SARIF 2.1.0 (OASIS standard, errata 01), which code-scanning services show at the source line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from emu import __version__
from emu.persistence.model import waste
from emu.persistence.report import words
from emu.persistence.report.markup import visible

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
_CAN_LOSE = frozenset({waste.NOT_FLUSHED, waste.NOT_FENCED, waste.NOT_WRITTEN_BACK, waste.OVERWRITTEN})
_LEVELS = {"incomplete": "warning", "nothing to judge": "error", "workload failed": "error", "interrupted": "error"}


def sarif(result: Mapping[str, Any]) -> dict[str, Any]:
    """One log with one run: a result for each cause, and for each warning that the document lists. What is ignored is
    there too, as suppressed. Paths are relative to the working directory of ``emu crash`` where they can be.
    """
    ignored = result["ignored"] or {"failures": []}
    results = [_cause(result, failure) for failure in result["failures"]]
    for item in ignored["failures"]:
        known = item["by"] == "baseline"
        because = "in the baseline" if known else f"suppressed by: {item['rule']}"
        suppression = {"kind": "external", "justification": visible(because)}
        results.append(_cause(result, item["failure"], known=known) | {"suppressions": [suppression]})
    results += [_warning(result, item) for item in result["warnings"] if item["kind"] != "note"]
    rules = {item["ruleId"]: item["level"] for item in results}
    names = {_rule_id(kind): kind for kind in (*waste.KINDS, *words.FIXES, *_kinds(result))}
    driver = {
        "name": "emu crash",
        "semanticVersion": __version__,
        "rules": [_rule(rule, names[rule], level) for rule, level in rules.items()],
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "invocations": [_invocation(result)],
        "results": results,
        "columnKind": "unicodeCodePoints",
    }
    if ignored.get("baseline"):
        run["properties"] = {"baseline": visible(ignored["baseline"])}
        for item in results:
            item.setdefault("baselineState", "new")
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _kinds(result: Mapping[str, Any]) -> Iterator[str]:
    yield from (failure["kind"] for failure in result["failures"])
    yield from (item["failure"]["kind"] for item in (result["ignored"] or {"failures": []})["failures"])


def _rule_id(kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")


def _rule(rule: str, kind: str, level: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": rule,
        "name": "".join(word.capitalize() for word in rule.split("-")),
        "shortDescription": {"text": f"{kind[:1].upper()}{kind[1:]}"},
        "defaultConfiguration": {"level": level},
    }
    fix = words.FIXES.get(kind) or words.WASTE_FIXES.get(kind)
    return described | ({"help": {"text": f"{fix[:1].upper()}{fix[1:]}"}} if fix else {})


def _invocation(result: Mapping[str, Any]) -> dict[str, Any]:
    about = result["about"]
    said: dict[str, Any] = {
        "executionSuccessful": result["verdict"] in ("ok", "failed"),
        "exitCode": result["status"],
        "exitCodeDescription": result["headline"],
    }
    if about is not None:
        said |= {"endTimeUtc": about["date"]} | ({"commandLine": visible(about["command"])} if about["command"] else {})
    level = _LEVELS.get(result["verdict"])
    if level is not None:
        text = "; ".join([result["headline"], *result["why"], *result["incomplete_because"]])
        said["toolExecutionNotifications"] = [{"level": level, "message": {"text": visible(text)}}]
    return said


def _cause(result: Mapping[str, Any], failure: Mapping[str, Any], *, known: bool = False) -> dict[str, Any]:
    stores = [*failure["lost"], *([failure["persisted"]] if failure["persisted"] else [])]
    last = failure["verdict"]["output"].strip().splitlines()[-1:]
    ends = f"says: {last[0]}" if last else f"ends with {failure['verdict']['reason']}"
    text = f"{failure['kind']}: {failure['explanation']}. "
    text += f"Power fails before event {failure['crash_point']}; then recovery {ends}"
    if failure.get("state"):
        text += ". " + "; ".join(f"{name}: {line}" for name, line in words.state(failure["state"]))
    found: dict[str, Any] = {
        "ruleId": _rule_id(failure["kind"]),
        "level": "error",
        "message": {"text": visible(text)},
        "locations": [_location(result, words.author_place(stores[0]) if stores else None)],
        "partialFingerprints": {"emuCause/v1": failure["fingerprint"]},
    }
    if known:
        found["baselineState"] = "unchanged"
    stacks = [_stack(result, store) for store in stores if store.get("stack")]
    if stacks:
        found["stacks"] = stacks
    if len(stores) > 1:
        said = [f"{'lost' if store in failure['lost'] else 'persisted'}: {words.event(store)}" for store in stores]
        steps = [_location(result, words.author_place(store), text) for store, text in zip(stores, said, strict=True)]
        found["relatedLocations"] = [step | {"id": number} for number, step in enumerate(steps[1:], 1)]
        found["codeFlows"] = [{"threadFlows": [{"locations": [{"location": step} for step in steps]}]}]
    return found


def _stack(result: Mapping[str, Any], store: Mapping[str, Any]) -> dict[str, Any]:
    """The calls that lead to a store, the innermost first (SARIF 2.1.0, section 3.44)."""
    frames = [
        {"location": _location(result, {**store, "symbol": frame["function"], "source": frame["source"],
                                        "source_path": frame["source_path"], "source_text": None})}
        for frame in store["stack"]
    ]  # fmt: skip
    return {"message": {"text": visible(words.event(store))}, "frames": frames}


def _warning(result: Mapping[str, Any], item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ruleId": _rule_id(item["kind"]),
        "level": "warning" if item["kind"] in _CAN_LOSE else "note",
        "message": {
            "text": visible(f"{item['kind']}, {words.times(item['count'])}, first as event {item['first_event']}")
        },
        "locations": [_location(result, words.author_place(item))],
        "occurrenceCount": item["count"],
    }


def _location(result: Mapping[str, Any], item: Mapping[str, Any] | None, text: str | None = None) -> dict[str, Any]:
    """The source line of an event; without one the instruction in the image; without an event the image."""
    found: dict[str, Any] = {"message": {"text": visible(text)}} if text is not None else {}
    if item is None:
        return found | {"physicalLocation": {"artifactLocation": _artifact(result["image"] or "guest")}}
    name, _, line = item["source"].rpartition(":")
    if item["symbol"]:
        found["logicalLocations"] = [{"name": visible(item["symbol"].partition("+")[0]), "kind": "function"}]
    if line.isascii() and line.isdigit() and int(line) > 0:
        region: dict[str, Any] = {"startLine": int(line)}
        if item["source_text"]:
            region["snippet"] = {"text": visible(item["source_text"])}
        physical = {"artifactLocation": _artifact(item["source_path"] or name), "region": region}
    else:
        physical = {
            "artifactLocation": _artifact(result["image"] or "guest"),
            "address": {"absoluteAddress": item["pc"], "kind": "instruction"},
        }
    return found | {"physicalLocation": physical}


def _artifact(path: str) -> dict[str, Any]:
    uri = quote(path.encode(errors="surrogateescape"), safe="/")
    return {"uri": f"file://{uri}"} if PurePath(path).is_absolute() else {"uri": uri, "uriBaseId": _ROOT}
