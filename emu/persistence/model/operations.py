"""Operations: what a program says about itself, where in its trace, and the part of a trace that marks bound."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from emu.errors import UsageError
from emu.units import counted

BEGIN, DONE = "begin", "done"
_MOST_NAMED = 8


class Mark(NamedTuple):
    """The program said, just before event number ``event``, that operation ``id`` begins or is done (``kind``)."""

    event: int
    kind: str
    id: int

    @property
    def name(self) -> str:
        """As ``--from`` and ``--to`` write it."""
        return f"{self.kind}:{self.id}"


class Print(NamedTuple):
    """The program printed ``text`` just before event number ``event``; ``pc`` is the instruction that began to,
    ``entry`` the number of log entries before.
    """

    event: int
    text: bytes
    pc: int = 0
    entry: int = 0


class Operation(NamedTuple):
    """Operation ``id``: the events from ``begin`` up to but not including ``done`` were made while it was under way.
    ``done`` is None when the trace ends before.
    """

    id: int
    begin: int
    done: int | None


def operations(marks: Iterable[Mark]) -> list[Operation]:
    """The operations in the order of their begins. A done ends the last one of its number that has not ended; one
    without a begin means nothing.
    """
    found: list[Operation] = []
    for mark in marks:
        if mark.kind == BEGIN:
            found.append(Operation(mark.id, mark.event, None))
            continue
        for number in range(len(found) - 1, -1, -1):
            if found[number].id == mark.id and found[number].done is None:
                found[number] = found[number]._replace(done=mark.event)
                break
    return found


def in_flight(found: Iterable[Operation], event: int) -> list[int]:
    """The numbers of the operations that are under way when power fails just before ``event``."""
    return [one.id for one in found if one.begin <= event and (one.done is None or event < one.done)]


def never_done(marks: Sequence[Mark]) -> list[int]:
    """The operations that others began or ended in and that are never done: these others are not told apart."""
    open_ones = [one.id for one in operations(marks) if one.done is None]
    return open_ones[:-1] if marks and marks[-1].kind == BEGIN else open_ones


class Window(NamedTuple):
    """The part of a trace in which power fails: just before event ``first``, ..., just before event ``last``."""

    first: int
    last: int


def window(begin: str | None, end: str | None, marks: Sequence[Mark], events: int) -> Window:
    """What ``--from begin --to end`` mean in a trace of so many events; None stands for its start or end.

    Each is an event's number, ``begin:ID`` or ``done:ID``: from the first such mark, to the first one from there on.
    UsageError when there is none, or where the part would end before it begins.
    """
    first = 0 if begin is None else _place(begin, "--from", marks, events, 0)
    last = events if end is None else _place(end, "--to", marks, events, first)
    if last < first:
        raise UsageError(
            f"--to {end} is event {last}, before event {first} of --from {begin}", "let --to name a later place"
        )
    return Window(first, last)


def _place(text: str, option: str, marks: Sequence[Mark], events: int, first: int) -> int:
    place = parse_place(text, option)
    if isinstance(place, int):
        if place > events:
            raise UsageError(
                f"{option} {text}: the run has only {counted(events, 'event')}", f"give 0 to {events}, or a mark"
            )
        return place
    found = next((mark.event for mark in marks if mark.name == place and mark.event >= first), None)
    if found is None:
        names = list(dict.fromkeys(mark.name for mark in marks))
        known = ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" * (len(names) > _MOST_NAMED))
        where = f" from event {first} on" if first else ""
        raise UsageError(
            f"{option} {text}: the run has no such mark{where}",
            f"marks there are: {known}"
            if names
            else "it has none at all: mark operations with emu_begin and emu_done "
            "(guest/include/operation.h), or give an event's number",
        )
    return found


def parse_place(text: str, option: str) -> int | str:
    """The event's number that ``text`` is, or the name of a mark. UsageError for what is neither."""
    found = re.fullmatch(r"(?:(begin|done):)?([0-9]{1,18})", text)
    if found is None:
        raise UsageError(f"{option} {text}: no place in a run", "write an event's number, begin:ID or done:ID")
    kind, number = found.groups()
    return int(number) if kind is None else f"{kind}:{int(number)}"
