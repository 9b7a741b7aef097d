"""``emu crash`` when recovery waits for ever: what it waits for, where, and why."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu.units import GIB
from tests.integration.run_emu import emu

POINT_RDI = b"\x48\xbf" + struct.pack("<Q", 4 * GIB)  # mov rdi, base
FENCE, HALT = b"\x0f\xae\xf8", b"\xf4"
WAIT_WHILE_0_IS_SET = b"\x48\x8b\x07\x48\x85\xc0\x75\xf8" + HALT  # again: mov rax, [rdi]; test rax, rax; jnz again
# mov rax, [rdi]; test rax, rax; jz end; again: mov rax, [rdi + 64]; test rax, rax; jz again; end:
WAIT_FOR_64_WHERE_0_IS_SET = b"\x48\x8b\x07\x48\x85\xc0\x74\x09\x48\x8b\x47\x40\x48\x85\xc0\x74\xf7" + HALT


def store(offset: int, value: int) -> bytes:
    return b"\x48\xc7\x47" + bytes([offset]) + struct.pack("<I", value)  # mov qword [rdi + offset], value


def flush(offset: int) -> bytes:
    return b"\x66\x0f\xae\x77" + bytes([offset])  # clwb [rdi + offset]


def program(tmp_path: Path, name: str, *code: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(POINT_RDI + b"".join(code))
    return path


TAKE, WORK, GIVE = store(0, 1), store(64, 1) + flush(64) + FENCE, store(0, 0)


@pytest.mark.parametrize("depth", ["1", "2"])
@pytest.mark.parametrize("unlock_is_durable", [False, True])
def test_a_persisted_lock_is_one_cause_with_its_place_and_word(
    tmp_path: Path, unlock_is_durable: bool, depth: str
) -> None:
    """Whether power fails while the lock is held, or the store that gives it back is lost."""
    end = flush(0) + FENCE if unlock_is_durable else b""
    words = [program(tmp_path, "work.bin", TAKE, WORK, GIVE, end, TAKE, WORK, GIVE, end, HALT),
             "--recover", program(tmp_path, "recover.bin", WAIT_WHILE_0_IS_SET),
             "--nvdimm", "file=none.img,size=2M", "--depth", depth]  # fmt: skip
    found = emu("crash", *words, "--json")
    assert found.status == 3
    (failure,) = found.document["failures"]
    assert failure["kind"] == "persisted lock"
    assert failure["persisted"]["offset"] == 0
    assert failure["persisted"]["event"] in (0, 5, 7)
    assert failure["verdict"]["reason"] == "endless-loop"
    assert failure["spin"]["pc"] == 0x100000 + len(POINT_RDI)
    assert failure["spin"]["instruction"] == "mov rax, qword ptr [rdi]"
    assert failure["spin"]["reads"] == [{"address": 4 * GIB, "offset": 0, "size": 8, "data": "0100000000000000"}]
    text = emu("crash", *words).out
    assert "spins at   0x10000a, mov rax, qword ptr [rdi], reading 0100000000000000 (8 bytes) at offset 0x0\n" in text


def test_the_page_says_where_recovery_spins_and_what_was_in_flight(tmp_path: Path) -> None:
    begin = b"\x66\xba\x10\x0e\xb8\x07\x00\x00\x00\xef"  # operation 7
    image = program(tmp_path, "lock.bin", begin, TAKE, WORK, GIVE, HALT)
    recover, page = program(tmp_path, "wait.bin", WAIT_WHILE_0_IS_SET), tmp_path / "page.html"
    emu("crash", image, "--recover", recover, "--nvdimm", f"file={tmp_path}/none,size=2M", "--html", page)
    text = page.read_text()
    assert "<li>In flight: operation 7</li>" in text
    assert "<li>Recovery spins for ever at 0x10000a, mov rax, qword ptr [rdi], reading 01000000" in text


def test_a_wait_for_a_lost_store_is_no_lock(tmp_path: Path) -> None:
    words = [program(tmp_path, "work.bin", store(64, 1), store(0, 1), flush(0), FENCE, HALT),
             "--recover", program(tmp_path, "recover.bin", WAIT_FOR_64_WHERE_0_IS_SET),
             "--nvdimm", "file=none.img,size=2M"]  # fmt: skip
    (failure,) = emu("crash", *words, "--json").document["failures"]
    assert failure["kind"] == "missing flush"
    assert [lost["offset"] for lost in failure["lost"]] == [64]
    assert [read["offset"] for read in failure["spin"]["reads"]] == [64]
