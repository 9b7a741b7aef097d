"""What an investigation comes to: one verdict, with the exit status and the reasons for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from emu.errors import Status
from emu.persistence.lab.interruption import INTERRUPTED
from emu.persistence.lab.investigation import Answer
from emu.persistence.lab.workload import Workload
from emu.persistence.report import words
from emu.persistence.report.symbols import Symbols


class Conclusion(enum.StrEnum):
    """The verdict. Where several are true, the first one of this list is meant."""

    INTERRUPTED = "interrupted"
    WORKLOAD_FAILED = "workload failed"
    FAILED = "failed"
    NOTHING_TO_JUDGE = "nothing to judge"
    INCOMPLETE = "incomplete"
    OK = "ok"


_STATUS = {
    Conclusion.INTERRUPTED: Status.INTERRUPTED,
    Conclusion.WORKLOAD_FAILED: Status.WORKLOAD_FAILED,
    Conclusion.FAILED: Status.CRASH_STATES_FAIL,
    Conclusion.NOTHING_TO_JUDGE: Status.NOTHING_TO_JUDGE,
    Conclusion.INCOMPLETE: Status.CRASH_STATES_UNTRIED,
    Conclusion.OK: Status.OK,
}
_HEADLINES = {
    Conclusion.INTERRUPTED: "Interrupted: this is what was found so far",
    Conclusion.WORKLOAD_FAILED: "The recorded run itself failed",
    Conclusion.FAILED: "Some crash states do not recover",
    Conclusion.NOTHING_TO_JUDGE: "Nothing to judge: no store reached an NVDIMM",
    Conclusion.INCOMPLETE: "No failure found, but not every crash state was tried",
    Conclusion.OK: "Every crash state recovers",
}


_ONLY_CHECKS_FAIL = "Every crash state recovers, but what was to be checked besides does not hold"


@dataclass(frozen=True, slots=True)
class Judgement:
    """``conclusion`` is what counts, ``why`` what else must be said of it, one sentence each. ``recovers``: it failed,
    though recovery never does.
    """

    conclusion: Conclusion
    why: tuple[str, ...] = ()
    recovers: bool = False

    @property
    def status(self) -> Status:
        """The exit status of ``emu crash``."""
        return _STATUS[self.conclusion]

    @property
    def headline(self) -> str:
        return _ONLY_CHECKS_FAIL if self.recovers else _HEADLINES[self.conclusion]


def conclude(answer: Answer, symbols: Symbols) -> Judgement:
    """Judge ``answer``."""
    true = []
    why = []
    if answer.interrupted:
        true.append(Conclusion.INTERRUPTED)
    if answer.workload_failed:
        true.append(Conclusion.WORKLOAD_FAILED)
        why.append(_how_it_ended(answer, symbols))
        why.append("what it would have done after that was not judged")
    if answer.failed:
        true.append(Conclusion.FAILED)
    elif answer.empty and answer.workload.ended.reason != INTERRUPTED:
        true.append(Conclusion.NOTHING_TO_JUDGE)
        why.append(_why_empty(answer))
    elif not answer.complete:
        true.append(Conclusion.INCOMPLETE)
    conclusion = (*true, Conclusion.OK)[0]
    if answer.failed and conclusion is not Conclusion.FAILED:
        count = len(answer.failures)
        why.append(f"some crash states do not recover ({words.causes_found(count, answer.unexplained)})")
    if answer.question.scope == "program":
        why.append("only the program's own stores could be lost; the kernel's count as durable at once")
    if not answer.whole:
        why.append(
            f"power failed from event {answer.window.first} to event {answer.window.last} only; "
            f"the rest of the {len(answer.workload.events)} events was not judged"
        )
    return Judgement(conclusion, tuple(why), conclusion is Conclusion.FAILED and answer.recovers)


def _how_it_ended(answer: Answer, symbols: Symbols) -> str:
    workload = answer.workload
    ended = workload.ended
    text = f"it ended with {ended.reason}" + (f" (value {ended.code})" if ended.code is not None else "")
    if ended.detail:
        text += f": {ended.detail}"
    place = place_of_end(workload, symbols)
    if place is not None:
        text += f", at {words.place(place)}"
    last = workload.output.strip().splitlines()[-1:]
    return text + (f"; it printed last: {last[0]}" if last else "")


def place_of_end(workload: Workload, symbols: Symbols) -> dict[str, Any] | None:
    """The instruction that the CPU stood at when the run ended; None where the run ended by a port write, behind which
    the CPU finishes its block.
    """
    if workload.ended.code is not None or workload.ended.reason == "power-off":
        return None
    found = symbols.find(workload.pc)
    instruction = workload.instructions.get(workload.pc, "")
    return {"pc": workload.pc, "instruction": instruction, "symbol": found.symbol, "source": found.source}


def _why_empty(answer: Answer) -> str:
    if answer.initial.blank:
        return "the guest ended without storing anything there: look whether it finds the NVDIMM"
    return (
        "the NVDIMM is not blank, so the guest may have recovered what it found and had nothing left to do: "
        "start from an empty file, or give the workload other arguments than the recovery (--recover-append)"
    )
