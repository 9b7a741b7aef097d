"""``emu crash --check states`` and ``--check robust``: judged without anybody having written down what is right."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu.board import map as at
from emu.units import GIB
from tests.integration.run_emu import Result, emu

POINT_RDI = b"\x48\xbf" + struct.pack("<Q", 4 * GIB)  # mov rdi, base
FENCE, HALT = b"\x0f\xae\xf8", b"\xf4"
POOL = ("--nvdimm", "file=none.img,size=2M")


def store(offset: int, value: int) -> bytes:
    return b"\x48\xc7\x47" + bytes([offset]) + struct.pack("<I", value)  # mov qword [rdi + offset], value


def persist(*offsets: int) -> bytes:
    return b"".join(b"\x66\x0f\xae\x77" + bytes([offset]) for offset in offsets) + FENCE  # clwb ...; sfence


def mark(register: int, operation: int) -> bytes:
    port = struct.pack("<H", at.OPERATIONS.start + register)
    return b"\x66\xba" + port + b"\xb8" + struct.pack("<I", operation) + b"\xef"


def begin(operation: int) -> bytes:
    return mark(0, operation)


def done(operation: int) -> bytes:
    return mark(4, operation)


def says(text: str) -> bytes:
    return b"".join(b"\x66\xba\xf8\x03\xb0" + bytes([byte]) + b"\xee" for byte in text.encode())


# Recovery prints what it sees: a digit for each of two words in different lines.
SHOW = b"\x66\xba\xf8\x03\x8a\x07\x04\x30\xee\x8a\x47\x40\x04\x30\xee\xb0\x0a\xee"


def crash(
    tmp_path: Path,
    *code: bytes,
    show: bytes = SHOW,
    check: str = "states",
    words: tuple[str | Path, ...] = ("--json",),
) -> Result:
    image, recover = tmp_path / "workload.bin", tmp_path / "recovery.bin"
    image.write_bytes(POINT_RDI + b"".join(code) + HALT)
    recover.write_bytes(POINT_RDI + show + HALT)
    return emu("crash", image, "--recover", recover, *POOL, "--check", check, *words)


BOTH_AT_ONCE = (store(0, 1), store(64, 1), persist(0, 64))


def test_an_operation_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    ran = crash(tmp_path, begin(7), *BOTH_AT_ONCE, done(7))
    assert ran.status == 3
    result = ran.document
    assert result["checks"] == ["states"]
    assert result["complete"]
    failure = next(one for one in result["failures"] if one["kind"] == "persistence atomicity")
    assert failure["verdict"]["reason"] == "illegal-state"
    state = failure["state"]
    assert state["between"] == ["operation 7 begins", "operation 7 is done"]
    assert (state["before"], state["after"]) == ("00\n", "11\n")
    assert state["shown"] in ("01\n", "10\n")
    endings = {ending["output"]: ending["reason"] for outcome in result["outcomes"] for ending in outcome["endings"]}
    assert endings == {"00\n": "halt", "11\n": "halt", "10\n": "illegal-state", "01\n": "illegal-state"}
    assert [event["text"] for event in result["timeline"]["events"] if event["kind"] == "operation"] == [
        "operation 7 begins", "operation 7 is done",
    ]  # fmt: skip


def test_one_store_that_is_durable_before_the_end_is_right(tmp_path: Path) -> None:
    right = [part for n in range(1, 5) for part in (begin(n), store(0, n), persist(0), done(n))]
    ran = crash(tmp_path, *right)
    assert (ran.status, ran.document["verdict"], ran.document["complete"]) == (0, "ok", True)


def test_what_is_done_must_be_seen(tmp_path: Path) -> None:
    """The flush comes after the end: right for a recovery that knows nothing of operations, wrong for this."""
    ran = crash(tmp_path, begin(1), store(0, 1), done(1), persist(0))
    assert ran.status == 3
    (failure,) = ran.document["failures"]
    assert failure["kind"] == "missing flush"
    assert failure["state"]["between"] == ["operation 1 is done", "the end of the run"]
    assert (failure["state"]["shown"], failure["state"]["before"]) == ("00\n", "10\n")


def test_nothing_is_promised_before_the_first_operation(tmp_path: Path) -> None:
    ran = crash(tmp_path, *BOTH_AT_ONCE, begin(1), store(0, 2), persist(0), done(1))
    assert ran.status == 0


def test_what_is_inside_of_an_operation_is_no_state(tmp_path: Path) -> None:
    inner = (begin(2), store(0, 1), persist(0), done(2), store(64, 1), persist(64))
    assert crash(tmp_path, *inner).status == 0
    assert crash(tmp_path, begin(1), *inner, done(1)).status == 3


def test_without_marks_each_printed_line_ends_an_operation(tmp_path: Path) -> None:
    ran = crash(tmp_path, says("go\n"), *BOTH_AT_ONCE, says("ok\n"))
    assert ran.document["failures"][0]["state"]["between"] == ["go", "ok"]
    assert crash(tmp_path, says("go\n"), store(0, 1), persist(0), says("ok\n")).status == 0


def test_a_run_without_operations_is_refused(tmp_path: Path) -> None:
    ran = crash(tmp_path, *BOTH_AT_ONCE)
    assert ran.status == 2
    assert "emu_begin" in " ".join(ran.errors)


def test_operations_that_overlap_are_refused(tmp_path: Path) -> None:
    """The first may be seen without the second, as a repaired program shows: no two states are the legal ones."""
    ran = crash(tmp_path, begin(1), begin(2), store(0, 1), persist(0), done(1), store(64, 1), persist(64), done(2))
    assert ran.status == 2
    assert "operation 1 is done while operation 2 goes on" in " ".join(ran.errors)


def test_a_recovery_that_shows_nothing_is_refused(tmp_path: Path) -> None:
    lost = begin(1), store(0, 1), done(1), store(64, 1)
    ran = crash(tmp_path, *lost, show=b"")
    assert ran.status == 2
    assert "recovery prints nothing" in " ".join(ran.errors)


def test_a_recovery_that_shows_no_difference_is_noted(tmp_path: Path) -> None:
    ran = crash(tmp_path, begin(1), store(0, 1), persist(0), done(1), show=says("fine"))
    assert ran.status == 0
    assert [note["text"] for note in ran.document["warnings"]] == [
        "--check states: recovery prints the same at all boundaries of operations, so it may not show what they change"
    ]
    ran = crash(tmp_path, begin(1), store(0, 1), persist(0), done(1))
    assert ran.document["warnings"] == []


def test_operations_that_are_never_done_are_noted(tmp_path: Path) -> None:
    ran = crash(tmp_path, begin(1), store(0, 1), persist(0), begin(2), store(0, 2), persist(0), begin(3))
    assert ran.document["warnings"][-1]["text"] == (
        "--check states: operations 1, 2 never said done, so all that followed counts as one operation"
    )


def test_an_operation_is_not_in_flight_before_it_is_said_to_begin(tmp_path: Path) -> None:
    ran = crash(tmp_path, begin(1), store(0, 1), done(1), begin(5), store(64, 1), persist(0, 64), done(5))
    failure = next(one for one in ran.document["failures"] if one["kind"] == "missing flush")
    assert failure["state"]["between"] == ["operation 1 is done", "operation 5 begins"]
    assert failure["operations"] == []
    assert failure["explanation"] == 'the line of the store is flushed only after "operation 1 is done"'


def test_a_line_that_ends_an_operation_is_shown_as_printed(tmp_path: Path) -> None:
    ran = crash(tmp_path, says("go\n"), store(0, 1), says("ok\n"), persist(0))
    (failure,) = ran.document["failures"]
    assert (failure["persisted"]["kind"], failure["persisted"]["text"]) == ("print", "ok\n")
    assert failure["explanation"] == "the line of the store is flushed only after what was printed"


def test_several_processes_and_kept_runs_find_the_same(tmp_path: Path) -> None:
    work = [part for n in range(1, 9) for part in (begin(n), store(0, n), store(64, n), persist(0, 64), done(n))]
    documents = [
        crash(tmp_path, *work, words=("--json", *words)).document
        for words in ((), ("--jobs", "2"), ("--resume", tmp_path / "kept"), ("--resume", tmp_path / "kept"))
    ]
    for one in documents:
        del one["about"]
    assert documents[0]["verdict"] == "failed"
    assert all(one == documents[0] for one in documents[1:])


def test_reports_say_what_is_shown_and_what_may_be(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("page.html", "causes.sarif", "causes.xml")]
    words = [
        word for option, name in zip(("--html", "--sarif", "--junit"), names, strict=True) for word in (option, name)
    ]
    ran = crash(tmp_path, begin(7), *BOTH_AT_ONCE, done(7), words=tuple(words))
    said = 'would show "00", this shows "10"'
    assert f"   before     {said}\n" in ran.out
    assert '   state      between "operation 7 begins" and "operation 7 is done"\n' in ran.out
    for name in names:
        text = name.read_text().replace("&quot;", '"').replace("&#34;", '"').replace('\\"', '"')
        assert f"before: {said}" in text or f"before     {said}" in text, name


def test_a_store_that_is_seen_without_an_earlier_one_is_a_robustness_violation(tmp_path: Path) -> None:
    ran = crash(tmp_path, *BOTH_AT_ONCE, check="robust")
    assert ran.status == 3
    result = ran.document
    assert all(outcome["verdict"] == "ok" for outcome in result["outcomes"])
    assert result["headline"].startswith("Every crash state recovers, but")
    (failure,) = result["failures"]
    assert (failure["kind"], failure["verdict"]["reason"]) == ("robustness violation", "halt")
    assert ([one["offset"] for one in failure["lost"]], failure["persisted"]["offset"]) == ([0], 64)
    assert failure["state"] is None


@pytest.mark.parametrize(
    "code",
    [
        (store(0, 1), persist(0), store(64, 1), persist(64)),
        (store(0, 1), store(128, 1), persist(0, 128)),  # recovery does not read the second
        (store(0, 1), store(8, 1), persist(0)),  # one line: in order
    ],
)
def test_robust_programs(tmp_path: Path, code: tuple[bytes, ...]) -> None:
    ran = crash(tmp_path, *code, check="robust")
    assert (ran.status, ran.document["failures"]) == (0, [])


def test_what_recovery_fails_for_is_named_once(tmp_path: Path) -> None:
    """The same lost store is the cause of a failure already."""
    words = ["crash", "commit-noflush", *POOL, "--json"]
    plain, robust = emu(*words).document, emu(*words, "--check", "robust").document
    kinds = [[failure["kind"] for failure in one["failures"]] for one in (plain, robust)]
    assert kinds == [["missing flush"], ["missing flush"]]
