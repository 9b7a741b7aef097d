"""The document as a JUnit XML file, the kind that pytest writes and continuous-integration services read."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from emu.persistence.report import words
from emu.persistence.report.markup import visible
from emu.persistence.report.terminal import failure_lines

WHOLE = "every crash state recovers"
"""Name of the test case that is always there; each cause is one of its own beside it."""


def junit(result: Mapping[str, Any]) -> bytes:
    """One test suite: whether every crash state recovers, and a failed case for each cause, skipped where it is
    ignored. A verdict that is neither is an error.
    """
    name = PurePath(result["image"] or "guest").name
    ignored = result["ignored"] or {"failures": []}
    cases = [_whole(result, name)]
    for number, failure in enumerate(result["failures"], 1):
        case = _case(name, number, failure)
        detail = _child(case, "failure", message=failure["explanation"], type=failure["kind"])
        detail.text = visible("\n".join(failure_lines(number, failure)))
        cases.append(case)
    for number, item in enumerate(ignored["failures"], len(result["failures"]) + 1):
        case = _case(name, number, item["failure"])
        _child(
            case, "skipped", message="in the baseline" if item["by"] == "baseline" else f"suppressed: {item['rule']}"
        )
        cases.append(case)
    counts = {kind: str(sum(case.find(tag) is not None for case in cases))
              for kind, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))}  # fmt: skip
    suites = ET.Element("testsuites", name="emu crash")
    suite = _child(suites, "testsuite", name=f"emu crash {name}", tests=str(len(cases)), time="0", **counts)
    if result["about"] is not None:
        suite.set("timestamp", result["about"]["date"].removesuffix("Z"))
    suite.extend(cases)
    _child(suite, "system-out").text = visible(result["workload"]["output"])
    ET.indent(suites)
    written: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return written


def _child(parent: ET.Element, tag: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, tag, {name: visible(value) for name, value in attributes.items()})


def _whole(result: Mapping[str, Any], name: str) -> ET.Element:
    case = ET.Element("testcase", classname=visible(f"emu.crash.{name}"), name=WHOLE, time="0")
    text = "\n".join([*result["why"], *result["incomplete_because"]])
    if result["verdict"] == "failed":
        message = f"{result['headline']} ({words.causes_found(len(result['failures']), result['unexplained'])})"
        _child(case, "failure", message=message, type="failed").text = visible(text)
    elif result["verdict"] != "ok":
        _child(case, "error", message=result["headline"], type=result["verdict"]).text = visible(text)
    return case


def _case(name: str, number: int, failure: Mapping[str, Any]) -> ET.Element:
    """A cause. ``file`` and ``line`` are as pytest's; the line of the first lost store."""
    store = (failure["lost"] or [failure["persisted"]])[0]
    store = store and words.author_place(store)
    source = store["source"] if store else ""
    title = f"{number}. {failure['kind']}" + (f" at {source}" if source else "")
    case = ET.Element("testcase", classname=visible(f"emu.crash.{name}"), name=visible(title), time="0")
    file, _, line = source.rpartition(":")
    if store and file:
        case.set("file", visible(store["source_path"] or file))
        case.set("line", line)
    return case
