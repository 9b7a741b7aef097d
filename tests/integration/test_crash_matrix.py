"""``emu crash --matrix``: one recording under all rules says of each what a run under those rules alone says."""

from __future__ import annotations

from pathlib import Path

import pytest

import emu as api
from emu.persistence.lab import investigation, workload
from emu.persistence.model.rules import FailedCas, Rules
from emu.persistence.report.matrix import combinations
from tests.integration.run_emu import emu

SAID = ("verdict", "crash_points", "eager", "distinct", "executed", "complete")


@pytest.mark.parametrize(("guest", "asked"), [("commit-noflush", []), ("mapsync-broken", ["--media", "dax"])])
def test_each_row_is_what_a_run_of_its_own_says(guest: str, asked: list[str], tmp_path: Path) -> None:
    words = ["crash", guest, "--nvdimm", f"file={tmp_path}/p.img,size=2M", "--json"]
    rows = emu(*words, *asked, "--matrix").document["matrix"]
    assert [(row["media"], row["domain"], row["order"]) for row in rows] == [
        ("dax-sync", "adr", "line"), ("dax-sync", "adr", "location"), ("dax-sync", "eadr", None),
        ("dax", "adr", "line"), ("dax", "adr", "location"), ("dax", "eadr", None), ("page-cache", None, None),
    ]  # fmt: skip
    assert [row["asked"] for row in rows].index(True) == (3 if asked else 0)
    for row in rows:
        rules = [
            f"--media={row['media']}",
            f"--domain={row['domain'] or 'eadr'}",
            f"--order={row['order'] or 'location'}",
        ]
        alone = emu(*words, *rules).document
        assert [row[name] for name in SAID] == [alone[name] for name in SAID], row
        kinds = [failure["kind"] for failure in alone["failures"]]
        assert {item["kind"]: item["count"] for item in row["causes"]} == {kind: kinds.count(kind) for kind in kinds}


def test_the_guest_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    record = workload.record
    monkeypatch.setattr(investigation, "record", lambda *args, **named: runs.append(args) or record(*args, **named))
    dimm = api.Nvdimm(tmp_path / "p.img", size="2M")
    with api.crash("commit-noflush", nvdimms=[dimm], matrix=True, domain="eadr") as answer:
        rows = answer.document["matrix"]
        assert (answer.status, [row["verdict"] for row in rows if row["asked"]]) == (0, ["ok"])
        assert len(rows) == 7
        answer.write_html(tmp_path / "a.html")
    assert len(runs) == 1
    page = (tmp_path / "a.html").read_text("utf-8")
    table = page.partition("Under other rules</h2>")[2].partition("</table>")[0]
    assert table.count('class="chip failed"') == sum(row["verdict"] == "failed" for row in rows) > 0
    assert table.count('class="asked"') == 1


def test_the_terminal_shows_the_table(tmp_path: Path) -> None:
    done = emu("crash", "commit-noflush", "--nvdimm", f"file={tmp_path}/p.img,size=2M", "--matrix")
    assert done.status == 3
    table = done.out.partition("under other rules (* as above):\n")[2].splitlines()[:8]
    assert table[0].split() == ["medium", "platform", "order", "verdict", "causes", "executed", "complete"]
    assert [line[0] for line in table] == [" ", "*", *" " * 6]
    assert table[3].split() == ["DAX", "with", "MAP_SYNC", "eADR", "-", "ok", "-", "6", "yes"]


def test_failed_cas_stays() -> None:
    assert {rules.failed_cas for rules in combinations(Rules(failed_cas=FailedCas.LOAD))} == {FailedCas.LOAD}
