"""Published structures with their published bugs (tests/peers): each is found and blamed, none is seen in a repair."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import emu
from tests.peers.catalogue import BUGS, STRUCTURES, Bug, build

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (on Debian: apt-get install gcc)")


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "against-the-field.md"


PLANTED = [f"{name}-broken" for name in ("alloc", "level", "list", "mapsync", "promise", "ring", "torn", "undo")]
PLANTED += [f"commit-{bug}" for bug in ("early", "nofence", "noflush")]


def judged(image: Path | str, **options: Any) -> dict[str, Any]:
    with emu.crash(image, nvdimms=[emu.Nvdimm("none.img", size="2M")], **options) as answer:
        return answer.document


def without_what_a_whole_run_adds(cause: dict[str, Any]) -> dict[str, Any]:
    """More crash points and more lost stores may turn out to be of the same cause."""
    return {key: value for key, value in cause.items() if key not in ("crash_points", "also_lost")}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_repaired_structure_is_clean_and_everything_was_tried(structure: str, tmp_path: Path) -> None:
    found = judged(build(structure, tmp_path))
    assert (found["verdict"], found["failures"], found["complete"]) == ("ok", [], True)
    assert found["executed"] > 10


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.structure}-{bug.macro}")
def test_the_first_cause_is_the_planted_bug_at_its_line(bug: Bug, tmp_path: Path) -> None:
    image = build(bug.structure, tmp_path, bug.macro)
    found = judged(image)
    assert found["verdict"] == "failed"
    first = found["failures"][0]
    assert first["kind"] in bug.kinds
    assert bug.blamed_in(first), first
    # Also where more than recoveries is judged.
    (alone,) = judged(image, first_failure=True, check=["robust"])["failures"]
    assert without_what_a_whole_run_adds(alone) == without_what_a_whole_run_adds(first)


@pytest.mark.parametrize("guest", PLANTED)
def test_the_first_failure_of_a_bundled_guest_is_the_first_of_all(guest: str) -> None:
    options: dict[str, Any] = {"media": "dax"} if guest == "mapsync-broken" else {}
    options |= {"feed_printed": True} if guest == "promise-broken" else {}
    first, *_ = judged(guest, **options)["failures"]
    (alone,) = judged(guest, **options, first_failure=True)["failures"]
    assert without_what_a_whole_run_adds(alone) == without_what_a_whole_run_adds(first)


def test_the_page_has_a_row_for_each_bug_and_each_structure() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert [row[:3] for row in rows if len(row) == 7][2:] == [[bug.structure, bug.macro, bug.published] for bug in BUGS]
    assert [row[:3] for row in rows if len(row) == 6][2:] == [[name, "ok", "yes"] for name in STRUCTURES]
    for row, bug in zip([row for row in rows if len(row) == 7][2:], BUGS, strict=True):
        assert row[3] in bug.kinds
        place = row[4].partition(" in ")[0]
        assert place.startswith("transaction.h") or int(place.partition(":")[2]) in bug.blamed_lines()
