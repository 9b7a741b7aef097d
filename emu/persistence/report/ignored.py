"""Causes and warnings that somebody knows and does not want to hear of: suppressions, and the baseline of an old run.

All of it works on the document, so that what was ignored is counted and stays in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from emu.errors import HostError, Status, UsageError
from emu.host.inputs import read_whole
from emu.persistence.report.terminal import failure_lines
from emu.units import counted

SCHEMA = "emu.crash/1"
_MOST_RULES = 1 << 20
_LARGEST = 256 << 20
_KEYS = ("kind", "function", "source")


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of a suppression file: what has this kind, and was made in such a function or on such a source line, or
    called from there. The values are patterns of ``fnmatch``; None is anything.
    """

    line: int
    text: str
    kind: str | None = None
    function: str | None = None
    source: str | None = None

    def fits(self, kind: str, places: Sequence[Mapping[str, Any]]) -> bool:
        if self.kind is not None and not fnmatchcase(kind, self.kind):
            return False
        if self.function is None and self.source is None:
            return True
        return any(self._is_at(frame) for place in places for frame in frames(place))

    def _is_at(self, frame: Mapping[str, Any]) -> bool:
        function = frame["symbol"].partition("+")[0]
        sources = [frame["source"]]
        if frame["source_path"]:
            sources.append(f"{frame['source_path']}:{frame['source'].rpartition(':')[2]}")
        return (self.function is None or fnmatchcase(function, self.function)) and (
            self.source is None or any(fnmatchcase(source, self.source) for source in sources)
        )


def frames(place: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The place itself, and those that it was called from, as far as its stack is known."""
    yield place
    for frame in place.get("stack") or ():
        yield {"symbol": frame["function"], "source": frame["source"], "source_path": frame["source_path"]}


def load_rules(path: str) -> tuple[Rule, ...]:
    """The rules of a suppression file. UsageError names the line that is wrong; HostError when it cannot be read."""
    try:
        content = read_whole(path, _MOST_RULES)
        if len(content) > _MOST_RULES:
            raise UsageError(f"{path} is too long for suppressions", f"give at most {_MOST_RULES >> 10} KiB of rules")
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the suppressions are not a text in UTF-8", "give a text file") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "is not a file name"
        raise HostError(f"{path}: cannot read the suppressions: {why}", "give a text file") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        said = line.strip()
        if said and not said.startswith("#"):
            found.append(_rule(path, number, said))
    return tuple(found)


# Kinds have blanks in them, so a comma that was forgotten makes a pattern that fits nothing.
_SECOND = re.compile(rf"\s({'|'.join(_KEYS)})\s*=")


def _rule(path: str, number: int, said: str) -> Rule:
    values: dict[str, str] = {}
    for entry in said.split(","):
        key, separator, value = (part.strip() for part in entry.partition("="))
        if not separator or not value or key not in _KEYS or key in values:
            raise UsageError(
                f"{path}:{number}: '{entry.strip()[:64]}' is no condition of a suppression",
                "write lines like: kind=missing flush,function=log_*,source=log.c:42",
            )
        if _SECOND.search(value):
            raise UsageError(
                f"{path}:{number}: '{entry.strip()[:64]}' looks like two conditions of a suppression",
                "put a comma between them: kind=missing flush,function=log_*,source=log.c:42",
            )
        values[key] = value
    return Rule(number, said, **values)


def load_document(path: str) -> dict[str, Any]:
    """A document that ``emu crash --json`` has written. UsageError when it is something else, HostError when it cannot
    be read.
    """
    try:
        read = json.loads(read_whole(path, _LARGEST))
        document: dict[str, Any] = read
        if document["schema"] == SCHEMA:
            _try_to_show(document)
            return document
        what = f"{path} is a document of the kind {document['schema']}"
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}", "give a document that 'emu crash --json' wrote") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        what = f"{path} is no document of emu crash"
    raise UsageError(what, "give one that 'emu crash --json' of this version wrote")


def _try_to_show(document: Mapping[str, Any]) -> None:
    """Meet now what would stop whoever reads the document later: KeyError and its like."""
    _side(document)
    for cause in causes(document):
        hash(cause["fingerprint"])
        for _ in failure_lines(1, cause):
            pass


def causes(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All causes that a document knows, those that were ignored too."""
    ignored = document["ignored"]
    return [*document["failures"], *(item["failure"] for item in (ignored["failures"] if ignored else ()))]


def fingerprint(failure: Mapping[str, Any]) -> str:
    """Equal for the same cause in two versions of a program, as far as that can be told: it has the same kind, and its
    stores are made by the same source text in the same functions. Line numbers count only where there is no text.
    """
    persisted = [failure["persisted"]] if failure["persisted"] else []
    parts = [failure["kind"], len(failure["lost_pages"]) > 0]
    parts += [[_mark(store) for store in group] for group in (failure["lost"], persisted)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _mark(event: Mapping[str, Any]) -> list[str]:
    function = event["symbol"].partition("+")[0]
    what = event["source_text"] or event["source"] or event["instruction"] or hex(event["pc"])
    return [function, event["source"].rpartition(":")[0], what]


def apply(
    document: Mapping[str, Any],
    rules: Sequence[Rule] | None,
    baseline: Mapping[str, Any] | None,
    *,
    baseline_name: str | None = None,
) -> dict[str, Any]:
    """The document without what ``rules`` and ``baseline`` know, which is in its entry ``ignored``. Where nothing else
    fails, that is the verdict. Neither given: the document as it is.
    """
    if rules is None and baseline is None:
        return dict(document)
    known = Counter(cause["fingerprint"] for cause in causes(baseline)) if baseline is not None else Counter[str]()
    used: Counter[int] = Counter()
    left, gone = [], []
    for failure in document["failures"]:
        rule = _first(rules, failure["kind"], failure["lost"] or [failure["persisted"]])
        if rule is not None:
            used[rule.line] += 1
            gone.append({"by": "suppression", "rule": rule.text, "failure": failure})
        elif known[failure["fingerprint"]]:
            known[failure["fingerprint"]] -= 1
            gone.append({"by": "baseline", "rule": None, "failure": failure})
        else:
            left.append(failure)
    warnings = []
    for warning in document["warnings"]:
        rule = None if warning["kind"] == "note" else _first(rules, warning["kind"], [warning])
        if rule is None:
            warnings.append(warning)
        else:
            used[rule.line] += 1
    ignored = {
        "failures": gone,
        "warnings": len(document["warnings"]) - len(warnings),
        "rules": [{"line": rule.line, "rule": rule.text, "matched": used[rule.line]} for rule in rules or ()],
        "baseline": baseline_name if baseline is not None else None,
    }
    changed = {**document, "failures": left, "warnings": warnings, "ignored": ignored}
    if gone:
        changed["why"] = [*document["why"], said(ignored)]
    if document["verdict"] == "failed" and gone and not left and document["unexplained"] is None:
        done = document["complete"]
        changed["verdict"] = "ok" if done else "incomplete"
        changed["status"] = int(Status.OK if done else Status.CRASH_STATES_UNTRIED)
        changed["headline"] = "No new failure" + ("" if done else ", but not every crash state was tried")
    return changed


def _first(rules: Sequence[Rule] | None, kind: str, places: Sequence[Mapping[str, Any] | None]) -> Rule | None:
    known = [place for place in places if place is not None]
    return next((rule for rule in rules or () if rule.fits(kind, known)), None)


def said(ignored: Mapping[str, Any]) -> str:
    """How many causes are ignored, and by what."""
    by = Counter(item["by"] for item in ignored["failures"])
    names = (("suppression", "a suppression"), ("baseline", "the baseline"))
    parts = [f"{by[name]} by {words}" for name, words in names if by[name]]
    count = len(ignored["failures"])
    return f"{counted(count, 'cause')} {'is' if count == 1 else 'are'} ignored: {', '.join(parts)}"


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The document emu.crash-diff/1: the causes that only ``new`` has, only ``old`` has, and both have."""
    counts = Counter(cause["fingerprint"] for cause in causes(old))
    added: list[Mapping[str, Any]] = []
    same: list[Mapping[str, Any]] = []
    for cause in causes(new):
        known = counts[cause["fingerprint"]] > 0
        counts[cause["fingerprint"]] -= known
        (same if known else added).append(cause)
    gone: list[Mapping[str, Any]] = []
    for cause in reversed(causes(old)):
        if counts[cause["fingerprint"]] > 0:
            counts[cause["fingerprint"]] -= 1
            gone.insert(0, cause)
    return {
        "schema": "emu.crash-diff/1",
        "status": int(Status.CRASH_STATES_FAIL if added else Status.OK),
        "old": _side(old),
        "new": _side(new),
        "added": added,
        "removed": gone,
        "same": same,
    }


def _side(document: Mapping[str, Any]) -> dict[str, Any]:
    names = ("verdict", "headline", "image", "recover", "model", "crash_points", "executed", "complete", "about")
    return {name: document[name] for name in names}
