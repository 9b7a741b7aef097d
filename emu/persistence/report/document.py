"""An ``Answer`` as the JSON document emu.crash/1, which also holds all that a report page shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from emu.persistence.lab.explore import Spin, Verdict
from emu.persistence.lab.findings import Failure
from emu.persistence.lab.investigation import Answer, Question
from emu.persistence.lab.nested import InRecovery
from emu.persistence.lab.states import ILLEGAL_STATE
from emu.persistence.model.events import Event, Fence, Flush, LabelWrite, Store, Told, WriteBack, line_of
from emu.persistence.model.operations import in_flight, never_done
from emu.persistence.report import numbers, words
from emu.persistence.report.conclusion import conclude, place_of_end
from emu.persistence.report.excerpts import Sources
from emu.persistence.report.ignored import fingerprint
from emu.persistence.report.stacks import Frame, unwind
from emu.persistence.report.symbols import Symbols, load_symbols
from emu.persistence.report.types import Types, load_types
from emu.units import CACHE_LINE

SCHEMA = "emu.crash/1"
_MOST_EVENTS = 5000
_SHORTEST_TEXT = 4
_MOST_NAMED = 8


class Describer:
    """Turns numbers into what a person looks for: instruction, symbol, source line, offset in the NVDIMM."""

    def __init__(self, answer: Answer, symbols: Symbols) -> None:
        self._answer = answer
        self.symbols = symbols
        self._deadline = answer.question.limits.deadline

    @cached_property
    def _sources(self) -> Sources:
        return Sources.of(self._answer.question.program, self._deadline)

    def event(self, number: int) -> dict[str, Any]:
        """One event of the workload's trace."""
        event = self._answer.workload.events[number]
        return {"event": number, **self._what(event), **self.place(event.pc)}

    @cached_property
    def _stacks(self) -> dict[int, list[Frame]]:
        return unwind(self._answer.question.workload.image, self._answer.captures, self.symbols, self._deadline)

    def named(self, number: int) -> dict[str, Any]:
        """An event that a failure names, with the stack that it was made on, the innermost frame first."""
        return {**self.event(number), "stack": self._stack(number)}

    def _stack(self, number: int) -> list[dict[str, Any]]:
        return [
            {**frame._asdict(), "source_path": self._sources.line(frame.source)[0] if frame.source else None}
            for frame in self._stacks.get(number, ())
        ]

    def place(self, pc: int) -> dict[str, Any]:
        found = self.symbols.find(pc)
        text = self._answer.workload.instructions.get(pc, "")
        path, line = self._sources.line(found.source) if found.source else (None, None)
        return {
            "pc": pc,
            "instruction": text,
            "symbol": found.symbol,
            "source": found.source,
            "source_path": path,
            "source_text": line,
        }

    def _what(self, event: Event) -> dict[str, Any]:
        match event:
            case Store():
                lines = range(line_of(event.address), event.address + len(event.data), CACHE_LINE)
                return {
                    "kind": "nt-store" if event.nt else "locked-store" if event.locked else "store",
                    "address": event.address,
                    "offset": self.offset(event.address),
                    "field": self.field(event.address),
                    "size": len(event.data),
                    "data": event.data[:CACHE_LINE].hex(),
                    "text": text_of(event.data[:CACHE_LINE]),
                    "lines": list(lines[:_MOST_EVENTS]),
                }
            case Flush():
                return {
                    "kind": str(event.kind),
                    "address": event.line,
                    "offset": self.offset(event.line),
                    "field": self.field(event.line),
                }
            case Fence():
                return {"kind": str(event.kind), "failed": event.failed}
            case WriteBack():
                return {"kind": str(event.kind)}
            case Told():
                kind = "print" if event.printed else "operation"
                return {"kind": kind, "text": event.text.decode("utf-8", "replace")}
            case LabelWrite():
                label = self._answer.workload.label(event.address)
                assert label is not None, "the recorder logs no other label write"
                return {
                    "kind": "label-write",
                    "nvdimm": label[0].id,
                    "label_offset": label[1],
                    "size": len(event.data),
                    "data": event.data[:CACHE_LINE].hex(),
                }

    def offset(self, address: int) -> int | None:
        """Bytes from the start of the NVDIMM that holds ``address``."""
        for dimm in self._answer.workload.dimms:
            if dimm.gpa <= address < dimm.gpa + dimm.size:
                return address - dimm.gpa
        return None

    def field(self, address: int) -> str | None:
        """The field that ``--type`` names there."""
        first = self._answer.workload.dimms[0]
        inside = first.gpa <= address < first.gpa + first.size
        return (self._types.field_at(address - first.gpa) if inside else "") or None

    @cached_property
    def _types(self) -> Types:
        return load_types(self._answer.question.program, self._answer.question.types, self._deadline)

    def spin(self, spin: Spin | None) -> dict[str, Any] | None:
        """The loop of recovery that never ends."""
        if spin is None:
            return None
        found = self._of_recovery.find(spin.pc)
        reads = [
            {"address": address, "offset": self.offset(address), "size": len(data), "data": data.hex()}
            for address, data in spin.reads
        ]
        return {
            "pc": spin.pc,
            "instruction": spin.instruction,
            "symbol": found.symbol,
            "source": found.source,
            "reads": reads,
        }

    def in_recovery(self, where: InRecovery | None) -> dict[str, Any] | None:
        """What recovery itself lacks."""
        if where is None:
            return None

        def event(number: int) -> dict[str, Any]:
            made = where.events[number]
            found = self._of_recovery.find(made.pc)
            text = self._answer.workload.instructions.get(made.pc, "") if self._recovers_itself else ""
            place = {"pc": made.pc, "instruction": text, "symbol": found.symbol, "source": found.source}
            return {"event": number, **self._what(made), **place, "source_path": None, "source_text": None}

        return {
            "crash_point": where.crash,
            "lost": [event(number) for number in where.lost],
            "persisted": None if where.persisted is None else event(where.persisted),
        }

    @property
    def _recovers_itself(self) -> bool:
        question = self._answer.question
        return question.linux is not None or question.recovery.image == question.workload.image

    @cached_property
    def _of_recovery(self) -> Symbols:
        """The symbols of the image that recovers."""
        return (
            self.symbols
            if self._recovers_itself
            else load_symbols(self._answer.question.recovery.image, self._deadline)
        )

    def failure(self, number: int, failure: Failure, exported: dict[str, Any] | None) -> dict[str, Any]:
        """A cause; ``number`` counts from 1."""
        described = {
            "number": number,
            "kind": failure.kind,
            "names": list(failure.names),
            "explanation": failure.explanation,
            "crash_point": failure.event,
            "crash_points": sorted(failure.events),
            "next_event": self.named(failure.event) if failure.event < len(self._answer.workload.events) else None,
            "verdict": ending(failure.verdict),
            "spin": self.spin(failure.verdict.spin),
            "lost": [self.named(number) for number in failure.lost],
            "forced": [self.named(number) for number in failure.forced],
            "also_lost": [self.named(number) for number in failure.also],
            "gave_up": failure.gave_up,
            "lost_pages": [{"address": page, "offset": self.offset(page)} for page in failure.lost_pages],
            "persisted": None if failure.persisted is None else self.named(failure.persisted),
            "cross_failure_race": [{"address": unit, "offset": self.offset(unit)} for unit in failure.uncertain_reads],
            "reproduce": exported,
            "operations": in_flight(self._answer.operations, failure.event),
            "promise": failure.promise,
            "in_recovery": self.in_recovery(failure.in_recovery),
            "state": self._state(failure),
        }
        return {**described, "fingerprint": fingerprint(described)}

    def _state(self, failure: Failure) -> dict[str, Any] | None:
        """What recovery shows and may not show, with ``--check states``."""
        states = self._answer.states
        segment = states.at(failure.event) if states is not None and failure.verdict.reason == ILLEGAL_STATE else None
        if segment is None:
            return None
        between = [segment.begin, segment.end]
        return {"between": between, "shown": failure.verdict.output, "before": segment.before, "after": segment.after}

    def waste(self) -> list[dict[str, Any]]:
        """The waste of the workload, counted for each source line, or instruction where the line is not known."""
        found: dict[tuple[str, object], dict[str, Any]] = {}
        for item in self._answer.waste:
            place = self.place(item.pc)
            entry = found.setdefault(
                (item.kind, place["source"] or item.pc),
                {"kind": item.kind, "count": 0, "first_event": item.first_event, **place,
                 "stack": self._stack(item.first_event)},
            )  # fmt: skip
            entry["count"] += item.count
            if item.first_event < entry["first_event"]:
                entry.update(first_event=item.first_event, **place, stack=self._stack(item.first_event))
        return list(found.values())


def text_of(data: bytes) -> str | None:
    """``data`` as text, where it is: printable ASCII, then nothing but zeros. None where it is too short to tell."""
    text = data.rstrip(b"\0")
    if len(text) < _SHORTEST_TEXT or not text.isascii():
        return None
    return text.decode() if text.decode().isprintable() else None


def ending(verdict: Verdict) -> dict[str, Any]:
    return {
        "reason": verdict.reason,
        "status": verdict.status,
        "code": verdict.code,
        "detail": verdict.detail,
        "output": verdict.output,
    }


def _place_of_end(answer: Answer, describe: Describer) -> dict[str, Any] | None:
    place = place_of_end(answer.workload, describe.symbols)
    return None if place is None else describe.place(place["pc"])


def _covered(answer: Answer) -> dict[str, Any] | None:
    lost = answer.exploration.covered
    if lost is None:
        return None
    return {"lost": lost, "unit": answer.question.rules.lost_together, "crash_points": len(answer.timeline.points)}


def _notes_on_states(answer: Answer) -> Iterator[str]:
    """Why ``--check states`` may judge less, or more strictly, than its user means."""
    if answer.states is None:
        return
    if answer.states.note:
        yield answer.states.note
    if open_ones := never_done(answer.workload.marks):
        yield (
            f"--check states: {words.in_flight(open_ones, _MOST_NAMED)} never said done, so all that followed counts "
            "as one operation"
        )


def _granularity(question: Question) -> dict[str, Any]:
    if question.linux is None:
        return {}
    if question.tears is None:
        return {"granularity": "exact"}
    return {"granularity": "block", "tears": question.tears.places, "seed": question.tears.seed}


def document(
    answer: Answer,
    symbols: Symbols,
    *,
    exported: dict[int, dict[str, Any]] | None = None,
    warnings: bool = False,
    about: Mapping[str, Any] | None = None,
    matrix: Sequence[Mapping[str, Any]] | None = None,
    timeline: bool = True,
) -> dict[str, Any]:
    """The document. ``exported`` says for the number of a failure where its memory was written and how to boot it;
    ``about`` is how it came about (``about.about``), ``matrix`` are the rows of ``matrix.matrix``. Where the document
    is not what is printed, nobody needs its ``timeline``, in which thousands of events have names.
    """
    describe = Describer(answer, symbols)
    question = answer.question
    rules = question.rules
    judgement = conclude(answer, symbols)
    notes = [symbols.note] if symbols.note and answer.failures else []
    notes += [answer.unexplained] if answer.unexplained else []
    notes += _notes_on_states(answer)
    return {
        "schema": SCHEMA,
        "verdict": str(judgement.conclusion),
        "status": int(judgement.status),
        "headline": judgement.headline,
        "why": list(judgement.why),
        "about": about,
        "model": {
            "domain": rules.domain.platform,
            "order": str(rules.order),
            "media": str(rules.media),
            "failed_cas": str(rules.failed_cas),
            "depth": question.limits.depth,
            **({"scope": question.scope} if question.linux is not None else {}),
            **_granularity(question),
        },
        "image": question.workload.image,
        "recover": question.recovery.image,
        "nvdimms": [
            {"id": dimm.id, "file": dimm.file, "gpa": dimm.gpa, "size": dimm.size} for dimm in answer.workload.dimms
        ],
        "workload": {
            "reason": answer.workload.ended.reason,
            "status": int(answer.workload.ended.status),
            "code": answer.workload.ended.code,
            "detail": answer.workload.ended.detail,
            "ok": not answer.workload_failed,
            "ended_at": _place_of_end(answer, describe),
            "output": answer.workload.output,
        },
        "window": {"from": answer.window.first, "to": answer.window.last, "whole": answer.whole},
        "operations": [
            {"id": one.id, "begin": one.begin, "done": one.done} for one in answer.operations[:_MOST_EVENTS]
        ],
        "checks": sorted(question.checks),
        "events": answer.counts,
        "crash_points": len(answer.timeline.points),
        **numbers.both("eager", answer.eager),
        **numbers.both("distinct", answer.distinct),
        "executed": answer.exploration.executed,
        "complete": answer.complete,
        "incomplete_because": list(answer.incomplete_because),
        "covered": _covered(answer),
        "outcomes": [
            {
                "observed": [data.hex() for data in outcome.observed],
                "crash_points": list(outcome.events),
                "verdict": None if outcome.verdict is None else "ok" if outcome.verdict else "failed",
                "endings": [ending(verdict) for verdict in outcome.endings],
            }
            for outcome in answer.outcomes
        ],
        "unexplained": answer.unexplained or None,
        "failures": [
            describe.failure(number + 1, failure, (exported or {}).get(number))
            for number, failure in enumerate(answer.failures)
        ],
        "ignored": None,
        "matrix": None if matrix is None else list(matrix),
        "warnings": (describe.waste() if warnings else []) + [{"kind": "note", "text": note} for note in notes],
        **({"timeline": _timeline(answer, describe)} if timeline else {}),
    }


def _timeline(answer: Answer, describe: Describer) -> dict[str, Any]:
    events, points = len(answer.workload.events), answer.timeline.points
    return {
        "events": [describe.event(number) for number in range(min(events, _MOST_EVENTS))],
        "points": [{"event": point.event, "eager": numbers.exact(point.eager)} for point in points[:_MOST_EVENTS]],
        "truncated": events > _MOST_EVENTS,
    }
