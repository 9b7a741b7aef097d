"""The litmus catalogue against the operational oracle, and its notation."""

from __future__ import annotations

import pytest

from emu.guest.litmus import Litmus, Step, assemble, catalogue, digits, parse_step
from tests.unit.persistence import persistence_oracle
from tests.unit.persistence.persistence_oracle import Machine, Op

ORACLE_MODES = {"adr": ("adr", "line"), "location": ("adr", "location"), "eadr": ("eadr", "line")}
SMALL = 208


def oracle_program(steps: tuple[Step, ...], *, failed_cas_is_load: bool) -> list[Op]:
    names = {"store": "st", "rep": "st", "movs": "st", "nt": "nt", "X": "rmw", "ADD": "rmw"}
    program: list[Op] = []
    for step in steps:
        if step.op in names:
            program.append((names[step.op], step.address, step.data))
        elif step.op in ("FL", "FO", "CW"):
            program.append(("fl" if step.op == "FL" else "fo", step.address))
        elif step.op in ("SF", "MF"):
            program.append((step.op.lower(),))
        elif step.op == "CAS" and step.expected == 0:
            program.append(("rmw", step.address, step.data))
        elif step.op == "CAS" and not failed_cas_is_load:
            program.append(("mf",))
    return program


@pytest.mark.parametrize("test", [test for test in catalogue() if not test.name.startswith("M")], ids=lambda t: t.name)
def test_catalogue_agrees_with_the_oracle(test: Litmus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence_oracle, "SIZE", SMALL)
    for mode, (domain, order) in ORACLE_MODES.items():
        program = oracle_program(test.steps, failed_cas_is_load=False)
        found = {digits(memory, test.observed) for memory in Machine(domain, order).run(program, bytes(SMALL))}
        assert found == test.sets.get(mode, test.sets["adr"]), mode
    program = oracle_program(test.steps, failed_cas_is_load=True)
    found = {digits(memory, test.observed) for memory in Machine().run(program, bytes(SMALL))}
    assert found == test.sets.get("cas-load", test.sets["adr"])


def test_catalogue_holds_the_published_sets_and_more() -> None:
    names = [test.name for test in catalogue()]
    assert len(names) == len(set(names)) >= 25 + 30
    sets = {test.name: test.sets for test in catalogue()}
    assert sets["S08"]["adr"] == {"000", "100", "101", "110", "111"}
    assert sets["S25"] == {
        "adr": {"00", "10", "11", "21"},
        "location": {"00", "10", "11", "21", "01", "20"},
        "eadr": {"00", "10", "11", "21"},
    }
    assert sets["N02"]["eadr"] == {"00", "01", "10", "11"}


def test_notation() -> None:
    assert parse_step("x+4:8=1") == Step("store", 4, b"\1" * 8)
    assert parse_step("nt y=2") == Step("nt", 64, b"\2" + bytes(7))
    assert parse_step("CAS(z,5,1)") == Step("CAS", 128, b"\1" + bytes(7), 5)
    assert assemble((parse_step("SF"),), 0x1_0000_0000) == b"\x48\xbf\0\0\0\0\1\0\0\0\x0f\xae\xf8\xf4"
