"""What a run of emu came to, as tests like to see it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LAST_LINES = 40


class EmuRefused(Exception):
    """``emu`` gave no result: a usage error, an image that is not there, no time left. The text is its own words."""


class NotRecovered(AssertionError):
    """Some power failure leaves what recovery cannot cope with, or not all of them were tried. The text is the report;
    ``result`` is what it is about."""

    def __init__(self, result: CrashResult) -> None:
        super().__init__(result.report)
        self.result = result


@dataclass(frozen=True, slots=True, repr=False)
class _Result:
    """``document`` is what ``--json`` printed, ``stderr`` what else was said; ``words`` are the command's without
    ``emu``, and without the options that say where its findings go."""

    status: int
    document: dict[str, Any]
    stderr: str
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command that does it again, for a shell."""
        return shlex.join(("emu", *self.words))


class RunResult(_Result):
    """``emu run``: the document is emu.run/1."""

    __slots__ = ()

    @property
    def serial(self) -> str:
        """What the guest printed on COM1."""
        return str(self.document.get("serial", ""))

    @property
    def stdout(self) -> str:
        """What a Linux guest's command printed; of other guests, nothing."""
        return str(self.document.get("stdout", ""))

    @property
    def report(self) -> str:
        """The command, how it ended, and the last lines that were printed: by the guest, its command and emu."""
        printed = (self.serial, self.stdout, str(self.document.get("stderr", "")), self.stderr)
        return "\n".join([f"$ {self.command}", *(line for text in printed for line in last_lines(text)), self._end])

    @property
    def _end(self) -> str:
        return f"ended: {self.document['exit']['reason']}, status {self.status}"

    def __repr__(self) -> str:
        return f"<emu run {self.words[1]}: {self._end}>"


@dataclass(frozen=True, slots=True, repr=False)
class CrashResult(_Result):
    """``emu crash``: the document is emu.crash/1. ``page`` is the report page, where one was written."""

    page: Path | None = None

    @property
    def recovers(self) -> bool:
        """Whether there was something to judge, all of it was tried and every crash state recovered."""
        return self.status == 0 and self.document["verdict"] == "ok" and self.document["complete"] is True

    def assert_recovers(self) -> None:
        """NotRecovered, an AssertionError whose text says why and what to do, unless ``recovers``."""
        __tracebackhide__ = True
        if not self.recovers:
            raise NotRecovered(self)

    @property
    def report(self) -> str:
        """What the command prints: verdict, causes with source lines and what to do; and how to see it again."""
        from emu.persistence.report.terminal import report_lines

        page = [] if self.page is None else [f"report page: {self.page}"]
        again = [f"again: {self.command}", *page]
        return "\n".join([*report_lines(self.document), "", *self._sources(), "", *again])

    def _sources(self) -> Iterator[str]:
        """The lines of the user's program that each cause is about."""
        for number, failure in enumerate(self.document["failures"], 1):
            for word, event in (("lost", next(iter(failure["lost"]), None)), ("persisted", failure["persisted"])):
                if event is not None and event["source_text"]:
                    yield f"{number}. {word:<9}  {event['source']}: {event['source_text'].strip()}"

    def __repr__(self) -> str:
        causes = "; ".join(f"{failure['kind']} at {_place(failure)}" for failure in self.document["failures"][:2])
        return f"<emu crash {self.words[1]}: {self.document['verdict']}{f', {causes}' if causes else ''}>"


def _place(failure: dict[str, Any]) -> str:
    lost = next((event for event in failure["lost"] if event["source"]), None)
    return str(lost["source"]) if lost else f"event {failure['crash_point']}"


def last_lines(text: str) -> list[str]:
    """The last lines of what was printed, so that a report stays readable."""
    lines = text.splitlines()
    return lines if len(lines) <= _LAST_LINES else [f"... {len(lines) - _LAST_LINES} lines", *lines[-_LAST_LINES:]]
