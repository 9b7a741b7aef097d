"""Reads that cannot matter go unwatched, and nothing that is said of a program changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import emu
from emu.persistence.lab import jobs, recovery
from emu.persistence.lab.growth import Settled
from emu.persistence.lab.matters import Matters


def document(image: str, **options: Any) -> dict[str, Any]:
    found = emu.crash(image, nvdimms=[emu.Nvdimm("none.img", size="2M")], **options).document
    del found["about"]
    return found


@pytest.mark.parametrize(
    ("image", "options"),
    [
        ("list-broken", {}),
        ("undo-broken", {}),
        ("alloc-broken", {"observe": [(0, 8)]}),
        ("level-fixed", {"order": "location"}),
        ("bench-hash", {"append": "40"}),
    ],
)
def test_it_is_all_one_how_many_reads_are_watched(
    image: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_reads = document(image, **options)
    run, noted = recovery.MachineRecovery.run, list[int | None]()

    def watching(machine: Any, tracked: Any, answer: Any, settled: Settled | None = None, given: Any = ()) -> Any:
        if settled is not None:
            noted.append(None if settled.matters is None else len(settled.matters))
        return run(machine, tracked, answer, settled, given)

    monkeypatch.setattr(recovery.MachineRecovery, "run", watching)
    monkeypatch.setattr(jobs, "Matters", partial(Matters, units_at_least=0, share=1))
    assert document(image, **options) == all_reads
    assert any(count is not None for count in noted)
    half, state = all_reads["executed"] // 2, tmp_path / "state"
    assert document(image, **options, resume=state, max_executions=half)["executed"] == half
    noted.clear()
    assert document(image, **options, resume=state) == all_reads
    assert len(noted) == all_reads["executed"] - half, "what was kept is found, and nothing else for it"
    with ThreadPoolExecutor(2) as executor:
        assert document(image, **options, jobs=2, executor=executor) == all_reads


def test_of_what_robustness_is_asked_everything_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "Matters", lambda timeline: pytest.fail("some reads are not kept"))
    assert document("list-fixed", check=["robust"])["status"] in (0, 1)
