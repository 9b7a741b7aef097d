"""The planted bugs of the bundled guests, judged by counterfactual: the repair that is named, put into the trace,
leaves no crash state that fails as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from emu import guest
from emu.config import BackendConfig, MachineConfig, NvdimmConfig, PersistenceDomain
from emu.persistence.lab import findings
from emu.persistence.lab.explore import Exploration, LocalWorker, Result, explore
from emu.persistence.lab.findings import Failure
from emu.persistence.lab.investigation import Answer, Question, investigate
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.told import pieces
from emu.persistence.model.crashstate import Read
from emu.persistence.model.events import Event, Fence, FenceKind, Flush, FlushKind, Store, line_of, split
from emu.persistence.model.rules import Media, Rules
from emu.persistence.model.timeline import build
from emu.units import MIB

BROKEN = [image for image in guest.images() if image.group == "crash" and not image.fixed]
SFENCE = Fence(FenceKind.SFENCE)


def investigated(image: guest.GuestImage, domain: PersistenceDomain, tmp_path: Path) -> Answer:
    backend = BackendConfig(id="m", path=str(tmp_path / "none.img"), size=2 * MIB, share=True)
    dimms = (NvdimmConfig(backend=backend),)
    machine = MachineConfig(image=str(image.path), slots=1, nvdimms=dimms, ram_size=32 * MIB)
    media = Media.DAX_SYNC
    if domain is PersistenceDomain.ADR:
        assert image.media is not None
        media = Media(image.media)
    return investigate(Question(machine, machine, Rules(domain, media=media), feed_printed=image.feed_printed))


def explored(answer: Answer, events: Sequence[Event], rules: Rules) -> Exploration:
    """Recovery on every crash state of another trace."""
    timeline = build(events, rules)
    printed = pieces(events) if answer.question.feed_printed else None
    recovery = MachineRecovery(answer.question.recovery, printed=printed)
    try:
        return explore(timeline, answer.initial, LocalWorker(recovery, timeline, answer.initial))
    finally:
        recovery.close()


def ok(found: Result) -> bool:
    assert found.leaf.verdict is not None
    return found.leaf.verdict.ok


def failing(exploration: Exploration) -> set[tuple[Read, ...]]:
    assert not exploration.incomplete_because
    return {found.leaf.path() for found in exploration.results if not ok(found)}


def lines(store: Event) -> list[int]:
    assert isinstance(store, Store)
    return list(dict.fromkeys(line_of(unit) for unit, _, _ in split(store.address, store.data)))


def flushed(store: Event) -> list[Event]:
    return [*(Flush(line, FlushKind.CLWB) for line in lines(store)), SFENCE]


def with_more_fences_and_flushes(events: Sequence[Event], failures: Sequence[Failure]) -> Iterator[Event]:
    """What is missing is put in wherever the instruction that lacks it is executed."""
    unflushed = {events[n].pc for f in failures if f.kind == findings.MISSING_FLUSH for n in f.lost}
    unfenced = {events[n].pc for f in failures if f.kind == findings.MISSING_FENCE for n in f.lost}
    waiting: set[int] = set()
    for event in events:
        yield event
        if isinstance(event, Store) and event.pc in unflushed:
            yield from flushed(event)
        elif isinstance(event, Store) and event.pc in unfenced:
            waiting.update(lines(event))
        elif isinstance(event, Flush) and event.line in waiting:
            waiting.discard(event.line)
            yield SFENCE


@pytest.mark.parametrize("image", BROKEN, ids=lambda image: image.name)
@pytest.mark.parametrize("domain", PersistenceDomain)
def test_the_repair_of_the_planted_bug_repairs_it(
    image: guest.GuestImage, domain: PersistenceDomain, tmp_path: Path
) -> None:
    with investigated(image, domain, tmp_path) as answer:
        rules, events = answer.question.rules, answer.workload.events
        before = failing(answer.exploration)
        assert bool(before) == (domain is PersistenceDomain.ADR or bool(image.eadr))
        assert not answer.unexplained
        kinds = {failure.kind for failure in answer.failures}
        if not kinds:
            return
        assert findings.UNEXPLAINED not in kinds
        if kinds <= {findings.MISSING_FLUSH, findings.MISSING_FENCE}:
            assert domain is PersistenceDomain.ADR
            assert (
                failing(explored(answer, list(with_more_fences_and_flushes(events, answer.failures)), rules)) == set()
            )
        elif kinds == {findings.MISSING_MAP_SYNC}:
            assert failing(explored(answer, events, Rules(domain))) == set()
        elif kinds == {findings.ORDERING}:
            for failure in answer.failures:
                assert failure.persisted is not None
                last = max(failure.lost)
                late = [*events[: failure.persisted], *events[failure.persisted + 1 : last + 1]]
                late += [step for number in failure.lost for step in flushed(events[number])]
                late += [events[failure.persisted]]
                # Up to the moved store nothing fails but what failed before that store was made at all.
                earlier = failing(explored(answer, events[: failure.persisted], rules))
                assert failing(explored(answer, late, rules)) <= earlier
        else:
            assert kinds == {findings.TORN}
            for failure in answer.failures:
                (number,) = failure.lost
                whole = answer.workload.events[number]
                assert isinstance(whole, Store)
                assert len(list(split(whole.address, whole.data))) > 1
                # Made at once, so that power fails either before it or after it: neither fails in a new way.
                ends = [events[:number], [*events[: number + 1], *flushed(whole)]]
                for end in ends:
                    timeline = build(end, rules)
                    exploration = explored(answer, end, rules)
                    last = timeline.points[-1].number
                    assert all(ok(found) for found in exploration.results if found.points == {last})
