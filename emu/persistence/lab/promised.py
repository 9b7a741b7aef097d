"""The causes of what ``--durable-when-done`` finds: stores of finished operations that a power failure can undo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emu.config import PersistenceDomain
from emu.errors import Status, UsageError
from emu.persistence.lab.explore import Verdict
from emu.persistence.lab.findings import MISSING_FENCE, MISSING_FLUSH, MISSING_MAP_SYNC, Failure
from emu.persistence.model.crashstate import Initial
from emu.persistence.model.events import Event, Store, page_of, split
from emu.persistence.model.operations import Operation, Window
from emu.persistence.model.promises import broken_promises
from emu.persistence.model.rules import Rules

NOT_DURABLE = "not-durable"
"""Reason of the ``Verdict`` of these failures."""


def unkept(
    events: Sequence[Event], found: Sequence[Operation], part: Window, rules: Rules, initial: Initial
) -> Iterator[Failure]:
    """The failures at the ends of the operations that ended in ``part``; UsageError when none did."""
    ended = [one for one in found if one.done is not None and part.first <= one.done <= part.last]
    if not ended:
        raise UsageError(
            "--durable-when-done: no operation of the run has ended, so there is nothing to check",
            "let the program mark its operations with emu_begin and emu_done (guest/include/operation.h)",
        )
    if rules.pages_can_be_lost:
        yield from _lost_pages(events, ended, initial)
    for broken in broken_promises(events, ended, rules, initial):
        kind, why = _name(events[broken.stores[0]], rules, needs_flush=broken.needs_flush)
        yield _failure(kind, why, broken.operation, broken.done, broken.contents, lost=broken.stores)


def _name(store: Event, rules: Rules, *, needs_flush: bool) -> tuple[str, str]:
    then = "when its operation says that it is done"
    if needs_flush:
        return MISSING_FLUSH, f"the line of the store is not flushed, or not after the store, {then}"
    if isinstance(store, Store) and store.nt:
        return MISSING_FENCE, f"no fence has waited for the non-temporal store {then}"
    if rules.domain is PersistenceDomain.EADR:
        return MISSING_FENCE, f"no fence has waited for the store to leave the store buffer {then}"
    return MISSING_FENCE, f"the line of the store was flushed, but no fence has waited for the flush {then}"


def _lost_pages(events: Sequence[Event], ended: Sequence[Operation], initial: Initial) -> Iterator[Failure]:
    """Without MAP_SYNC every page that a finished operation stored to can come back as it was."""
    stored = {one: [event for event in events[one.begin : one.done] if isinstance(event, Store)] for one in ended}
    writing = [one for one in ended if stored[one]]
    if writing:
        first = writing[0]
        units = [unit for event in stored[first] for unit, _, _ in split(event.address, event.data)]
        yield _failure(
            MISSING_MAP_SYNC,
            "the blocks of a page may not be journalled when the operation that stored to it says that it is done, so "
            "the page can come back as it was; a mapping made with MAP_SYNC journals them before the first store",
            first.id,
            {one.done for one in writing if one.done is not None},
            {unit: initial(unit) for unit in units},
            pages=tuple(sorted({page_of(unit) for unit in units})),
        )


def _failure(
    kind: str,
    why: str,
    operation: int,
    done: set[int],
    contents: dict[int, int],
    *,
    lost: tuple[int, ...] = (),
    pages: tuple[int, ...] = (),
) -> Failure:
    detail = f"operation {operation} was done, yet what it stored can be lost"
    verdict = Verdict(False, NOT_DURABLE, int(Status.CRASH_STATES_FAIL), None, detail)
    return Failure(
        kind, why, min(done), verdict, lost, lost_pages=pages, contents=contents, events=done, promise=operation
    )
