"""``emu crash`` with operation marks: windows, operations in flight, and ``--durable-when-done``."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu.board import map as at
from emu.units import GIB
from tests.integration.run_emu import Result, emu

POINT_RDI = b"\x48\xbf" + struct.pack("<Q", 4 * GIB)  # mov rdi, base
FLUSH, FENCE = b"\x66\x0f\xae\x77\x00", b"\x0f\xae\xf8"  # clwb [rdi + 0]; sfence
HALT = b"\xf4"
# The program stores to lines 0 and 64 in each operation; recovery fails where the first is newer than the second.
FAILS_WHEN_AHEAD = b"\x48\x8b\x07\x48\x3b\x47\x40\x76\x04\xb0\x07\xe6\xf4\xf4"


def mark(register: int, operation: int) -> bytes:
    """mov dx, port; mov eax, operation; out dx, eax"""
    return (
        b"\x66\xba"
        + struct.pack("<H", at.OPERATIONS.start + register)
        + b"\xb8"
        + struct.pack("<I", operation)
        + b"\xef"
    )


def begin(operation: int) -> bytes:
    return mark(0, operation)


def done(operation: int) -> bytes:
    return mark(4, operation)


def store(offset: int, value: int) -> bytes:
    return b"\x48\xc7\x47" + bytes([offset]) + struct.pack("<I", value)  # mov qword [rdi + offset], value


def flush(offset: int) -> bytes:
    return FLUSH[:-1] + bytes([offset])


def program(tmp_path: Path, *code: bytes, name: str = "guest.bin") -> Path:
    path = tmp_path / name
    path.write_bytes(POINT_RDI + b"".join(code))
    return path


def crash(*words: object) -> Result:
    done = emu("crash", *words, "--nvdimm", "file=none.img,size=2M", "--json")
    assert not done.errors
    return done


@pytest.fixture
def three(tmp_path: Path) -> list[str | Path]:
    """Three operations (events 0-4, 5-9, 10-14); only in the second the order of the two stores is wrong."""
    code = []
    for number in (1, 2, 3):
        first, second = (0, 64) if number == 2 else (64, 0)
        code += [begin(number), store(first, number), flush(first), FENCE, store(second, number), flush(second)]
        code += [FENCE, done(number)]
    recovery = program(tmp_path, FAILS_WHEN_AHEAD, name="recover.bin")
    return [program(tmp_path, *code, HALT), "--recover", recovery]


def test_the_operation_in_flight_is_named(three: list[str | Path]) -> None:
    found = crash(*three)
    assert found.status == 3
    assert found.document["operations"] == [
        {"id": number, "begin": 6 * number - 6, "done": 6 * number} for number in (1, 2, 3)
    ]
    assert found.document["window"] == {"from": 0, "to": 18, "whole": True}
    (failure,) = found.document["failures"]
    assert failure["operations"] == [2]
    text = emu("crash", *three, "--nvdimm", "file=none.img,size=2M").out
    assert "   in flight  operation 2\n" in text


@pytest.mark.parametrize(
    ("begin", "end", "status", "window"),
    [
        ("begin:1", "done:1", 0, (0, 6)),
        ("begin:2", "done:2", 3, (6, 12)),
        ("12", "18", 0, (12, 18)),
        ("0", "7", 3, (0, 7)),
    ],
)
def test_a_window_judges_its_part_of_the_run(
    three: list[str | Path], begin: str, end: str, status: int, window: tuple[int, int]
) -> None:
    found = crash(*three, "--from", begin, "--to", end)
    assert found.status == status
    document = found.document
    assert document["window"] == {"from": window[0], "to": window[1], "whole": False}
    assert document["complete"]
    assert f"power failed from event {window[0]} to event {window[1]} only" in document["why"][-1]
    points = [point["event"] for point in document["timeline"]["points"]]
    assert points
    assert all(window[0] <= event <= window[1] for event in points)
    assert points[-1] == window[1]


def test_what_is_pending_at_the_border_stays_pending(tmp_path: Path) -> None:
    """x is stored, and never flushed, before the window begins; in it y = 1 says that x is there."""
    workload = program(tmp_path, store(64, 1), begin(1), store(0, 1), flush(0), FENCE, done(1), HALT)
    words = [workload, "--recover", program(tmp_path, FAILS_WHEN_AHEAD, name="recover.bin")]
    found = crash(*words, "--from", "begin:1")
    assert found.status == 3
    (failure,) = found.document["failures"]
    assert (failure["kind"], [store["event"] for store in failure["lost"]]) == ("missing flush", [0])
    assert crash(*words, "--from", "begin:1", "--jobs", "2").document["failures"] == found.document["failures"]


def test_no_such_mark_is_a_usage_error_that_names_those_there_are(three: list[str | Path]) -> None:
    refused = emu("crash", *three, "--nvdimm", "file=none.img,size=2M", "--to", "done:4")
    assert (refused.status, refused.out) == (2, "")
    assert refused.errors == (
        "emu: --to done:4: the run has no such mark",
        "     marks there are: begin:1, done:1, begin:2, done:2, begin:3, done:3",
    )


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ((flush(0), FENCE), None),
        ((flush(0),), "missing fence"),
        ((FENCE,), "missing flush"),
    ],
)
def test_durable_when_done(tmp_path: Path, end: tuple[bytes, ...], kind: str | None) -> None:
    """Recovery has nothing against any memory: only the promise is broken."""
    image = program(tmp_path, begin(5), store(0, 1), *end, done(5), HALT)
    words = [image, "--recover", program(tmp_path, HALT, name="recover.bin")]
    assert crash(*words).status == 0
    found = crash(*words, "--durable-when-done")
    assert found.status == (3 if kind else 0)
    if kind:
        (failure,) = found.document["failures"]
        assert (failure["kind"], failure["promise"]) == (kind, 5)
        assert [store["event"] for store in failure["lost"]] == [0]
        assert failure["crash_point"] == failure["crash_points"][0] == 1 + len(end)
        text = emu("crash", *words, "--nvdimm", "file=none.img,size=2M", "--durable-when-done").out
        assert "   promised   operation 5 was done, yet what it stored can be lost\n" in text


def test_durable_when_done_asks_only_of_operations_that_end_in_the_window(tmp_path: Path) -> None:
    image = program(tmp_path, begin(1), store(0, 1), done(1), begin(2), store(64, 1), flush(64), FENCE, done(2), HALT)
    words = [image, "--recover", program(tmp_path, HALT, name="recover.bin"), "--durable-when-done"]
    assert crash(*words).status == 3
    assert crash(*words, "--from", "begin:2", "--to", "done:2").status == 3, "its border is where operation 1 was done"
    assert crash(*words, "--from", "2").status == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("commit-fixed",), "no operation of the run has ended"),
        (("commit-fixed", "--media", "page-cache"), "in a page cache no flush or fence"),
    ],
)
def test_durable_when_done_with_nothing_to_check_is_refused(words: tuple[str, ...], says: str) -> None:
    refused = emu("crash", *words, "--nvdimm", "file=none.img,size=2M", "--durable-when-done")
    assert refused.status == 2
    assert says in refused.errors[0]


def test_a_broken_promise_and_a_failing_recovery_by_the_same_store_are_one_cause(tmp_path: Path) -> None:
    workload = program(tmp_path, begin(1), store(64, 1), store(0, 1), flush(0), FENCE, done(1), HALT)
    words = [workload, "--recover", program(tmp_path, FAILS_WHEN_AHEAD, name="recover.bin"), "--durable-when-done"]
    (failure,) = crash(*words).document["failures"]
    assert (failure["kind"], failure["promise"], failure["verdict"]["code"]) == ("missing flush", 1, 7)
    text = emu("crash", *words, "--nvdimm", "file=none.img,size=2M").out
    assert "   recovery   ends with exit-port, status 15\n   promised   operation 1 was done" in text
