"""The lessons of the crash group are what the manifest says, by an examiner that knows nothing of emu's laboratory."""

from __future__ import annotations

import pytest

from emu import guest
from tests.unit.guest.bare_guest import NVDIMM_SIZE, BareGuest, Fence, Flush, Store, adr_states, eadr_states

CRASH = [image for image in guest.images() if image.group == "crash"]
EMPTY = bytes(NVDIMM_SIZE)
FIXED = [image for image in CRASH if image.fixed]


@pytest.mark.parametrize("image", CRASH, ids=lambda image: image.name)
def test_bug_shows_exactly_where_the_manifest_says(image: guest.GuestImage) -> None:
    traced = BareGuest(image.read(), trace=True).run(EMPTY)
    assert (traced.status, traced.serial.splitlines()[-1:]) == (0, ["done"])
    assert image.feed_printed is (len(traced.serial.splitlines()) > 1)
    assert 8 <= sum(isinstance(event, Store) for event in traced.events) <= 40
    bare = BareGuest(image.read())
    after_work = bare.run(traced.nvdimm)
    assert (after_work.status, after_work.serial) == (0, "")

    def fails(states: set[bytes]) -> bool:
        verdicts = [bare.run(state) for state in states]
        assert {verdict.status for verdict in verdicts} <= {0, 3}
        assert all(verdict.serial.startswith("violated: ") for verdict in verdicts if verdict.status)
        return any(verdict.status for verdict in verdicts)

    with_map_sync = fails(adr_states(traced.events, EMPTY))
    without = fails(adr_states(traced.events, EMPTY, journalled=False))
    # A promise that recovery is not told of cannot be broken.
    broken = not image.fixed and not image.feed_printed
    assert with_map_sync == (broken and image.media == "dax-sync")
    assert without == broken
    assert fails(eadr_states(traced.events, EMPTY)) == image.eadr


@pytest.mark.parametrize("image", FIXED, ids=lambda image: image.name)
def test_fixed_version_recovers_from_crashes_during_recovery(image: guest.GuestImage) -> None:
    traced = BareGuest(image.read(), trace=True)
    bare = BareGuest(image.read())
    for state in adr_states(traced.run(EMPTY).events, EMPTY):
        recovery = traced.run(state)
        if recovery.serial.endswith("done\n"):
            continue  # nothing was there: that is the workload again
        for nested in adr_states(recovery.events, state):
            assert bare.run(nested).status == 0


@pytest.mark.parametrize("image", FIXED, ids=lambda image: image.name)
def test_fixed_version_flushes_and_fences_nothing_in_vain(image: guest.GuestImage) -> None:
    dirty: set[int] = set()
    flushed: set[int] = set()
    for event in BareGuest(image.read(), trace=True).run(EMPTY).events:
        if isinstance(event, Store):
            dirty.add(event.offset // 64)
            assert event.offset // 64 not in flushed
        elif isinstance(event, Flush):
            assert event.line in dirty
            assert event.line not in flushed
            flushed.add(event.line)
        else:
            assert isinstance(event, Fence)
            assert flushed
            dirty -= flushed
            flushed.clear()
    assert dirty == set()


@pytest.mark.parametrize("image", CRASH, ids=lambda image: image.name)
def test_foreign_contents_are_left_alone(image: guest.GuestImage) -> None:
    foreign = b"somebody's data\0".ljust(NVDIMM_SIZE, b"\xa5")
    ran = BareGuest(image.read()).run(foreign)
    assert (ran.status, ran.serial, ran.nvdimm) == (9, "the NVDIMM holds something else\n", foreign)
