"""``emu crash --feed-printed``: recovery reads what the workload had printed when the power failed."""

from __future__ import annotations

import shlex
import struct
from pathlib import Path

import pytest

from emu.units import GIB
from tests.integration.run_emu import Result, emu

POINT_RDI = b"\x48\xbf" + struct.pack("<Q", 4 * GIB)  # mov rdi, base
STORE = b"\x48\xc7\x07\x01\x00\x00\x00"  # mov qword [rdi], 1
FLUSH, FENCE, HALT = b"\x66\x0f\xae\x37", b"\x0f\xae\xf8", b"\xf4"  # clwb [rdi]; sfence; hlt
# Until Ctrl-D: shift what comes in over COM1 into ebx, polling its line status.
READ_ALL = bytes.fromhex("31db 66bafd03 ec a801 74f7 66baf803 ec 3c04 7407 c1e308 88c3 ebe7")
POOL = ("--nvdimm", "file=none.img,size=2M", "--json")


def says(text: bytes) -> bytes:
    return b"".join(b"\x66\xba\xf8\x03\xb0" + bytes([byte]) + b"\xee" for byte in text)  # mov dx, 0x3f8; mov al; out


def fails_if(text: bytes, value: int) -> bytes:
    """Recovery: exit with 1 when the text is this and the first word of the NVDIMM has this value."""
    want = struct.pack(">I", int.from_bytes(text, "big"))[::-1]
    check = b"\x81\xfb" + want + b"\x75\x0a\x48\x83\xf8" + bytes([value]) + b"\x75\x04\xb0\x01\xe6\xf4"
    return READ_ALL + POINT_RDI + b"\x48\x8b\x07" + check + HALT


def crash(tmp_path: Path, workload: bytes, recovery: bytes, *words: str) -> Result:
    for name, code in (("workload.bin", workload), ("recovery.bin", recovery)):
        (tmp_path / name).write_bytes(code)
    image, recover = tmp_path / "workload.bin", tmp_path / "recovery.bin"
    return emu("crash", image, "--recover", recover, *POOL, "--feed-printed", *words)


# a, then a store that nothing makes durable, then b.
WORKLOAD = POINT_RDI + says(b"a") + STORE + says(b"b") + HALT


@pytest.mark.parametrize(
    ("text", "value", "points"),
    [(b"", 0, [0]), (b"a", 0, [2]), (b"a", 1, [2]), (b"ab", 0, [3]), (b"ab", 1, [3]), (b"", 1, []), (b"b", 1, [])],
)
def test_a_crash_state_is_a_memory_with_what_was_printed_by_then(
    tmp_path: Path, text: bytes, value: int, points: list[int]
) -> None:
    """Events: 0 prints a, 1 stores, 2 prints b. Every pair that can be is there, and no other."""
    done = crash(tmp_path, WORKLOAD, fails_if(text, value))
    result = done.document
    assert result["complete"]
    failing = [point for outcome in result["outcomes"] if outcome["verdict"] == "failed"
               for point in outcome["crash_points"]]  # fmt: skip
    assert failing == points
    assert done.status == (3 if points else 0)
    assert [event["kind"] for event in result["timeline"]["events"]] == ["print", "store", "print"]


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    work = POINT_RDI + b"".join(STORE[:3] + bytes([n]) + STORE[4:] + says(bytes([n])) for n in range(65, 75)) + HALT
    alone, four = (crash(tmp_path, work, fails_if(b"ABC", 66), "--jobs", jobs).document for jobs in "12")
    assert alone["verdict"] == "failed"
    for one in (alone, four):
        del one["about"]
    assert alone == four


def test_a_promise_that_is_made_too_early_is_named_with_the_store(tmp_path: Path) -> None:
    plain = emu("crash", "promise-broken", *POOL)
    assert plain.status == 0
    done = emu("crash", "promise-broken", *POOL, "--feed-printed")
    assert done.status == 3
    (failure,) = done.document["failures"]
    assert failure["kind"] == "missing fence"
    assert failure["persisted"]["kind"] == "print"
    assert failure["persisted"]["text"] == "kept 0\n"
    assert (failure["persisted"]["instruction"], failure["persisted"]["symbol"][:10]) == ("out dx, al", "serial_put")
    assert failure["lost"][0]["source"].startswith("promise.c:")
    assert "value 0 was promised" in failure["verdict"]["output"]
    words = [word for word in POOL if word != "--json"]
    page = tmp_path / "page.html"
    said = emu("crash", "promise-broken", *words, "--feed-printed", "--timeline", "--html", page)
    assert "persisted  event " in said.out
    assert ': printed "kept 0\\n"' in said.out
    assert "o told somebody" in said.out
    assert "fence told" in page.read_text()


def test_recovery_that_reads_the_same_again_and_again_is_not_taken_for_an_endless_one(tmp_path: Path) -> None:
    """Its machine repeats its state with each line; what it has not read yet does not."""
    counts = b"\xb9\x00\x50\x00\x00\xff\xc9\x75\xfc"  # mov ecx, 20480; dec ecx; jnz: long enough to be looked at
    reads = bytes.fromhex("66bafd03 ec a801 74f7 66baf803 ec 3c04 75ee")  # until Ctrl-D
    begins = POINT_RDI + b"\x48\x8b\x07"
    done = crash(tmp_path, POINT_RDI + STORE + says(b"\n" * 60) + HALT, begins + counts + reads + HALT)
    assert (done.document["verdict"], done.status) == ("ok", 0)
    waits = reads[:-4] + b"\xeb\xf0"  # behind the end there is nothing
    done = crash(tmp_path, POINT_RDI + STORE + HALT, begins + waits + HALT)
    assert done.status == 3
    assert done.document["failures"][0]["verdict"]["reason"] == "endless-loop"


def test_an_exported_memory_is_booted_with_what_was_printed_by_then(tmp_path: Path) -> None:
    done = emu("crash", "promise-broken", *POOL, "--feed-printed", "--export", tmp_path / "out")
    (failure,) = done.document["failures"]
    memory, printed = failure["reproduce"]["files"]
    kept = failure["crash_points"].index(failure["crash_point"]) + 1
    assert Path(printed).read_bytes() == b"".join(b"kept %d\n" % n for n in range(kept)) + b"\4"
    words, _, source = failure["reproduce"]["command"].rpartition(" < ")
    assert (source, memory in words) == (printed, True)
    again = emu(*shlex.split(words)[1:], stdin=Path(printed).read_bytes())
    assert again.status == failure["verdict"]["status"] == 3
    assert failure["verdict"]["output"].strip() in again.out
