"""``--time-limit`` bounds all of ``emu crash``: a run that does not end is ended, and is nobody's failure."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emu.units import GIB
from tests.integration.run_emu import emu

POINT_RDI = b"\x48\xbf" + struct.pack("<Q", 4 * GIB)  # mov rdi, base
# Operation 1 begins, mov byte [rdi], 1, operation 1 is done.
BEGIN, DONE = (b"\x66\xba" + struct.pack("<H", port) + b"\xb8\1\0\0\0\xef" for port in (0xE10, 0xE14))
STORE = BEGIN + b"\xc6\x07\x01" + DONE
LOAD = b"\x8a\x07"  # mov al, [rdi]
HALT = b"\xf4"
COUNT = b"\x48\xff\xc1\xeb\xfb"  # again: inc rcx; jmp again: no state comes twice
WAIT = b"\xfb\xf4\xeb\xfd"  # sti; again: hlt; jmp again
NEVER = ["--timeout", "100000", "--recovery-blocks", "1000000000000"]


@pytest.mark.parametrize(
    ("workload", "recovery", "options"),
    [
        pytest.param(STORE + HALT, LOAD + COUNT, [], id="recovery"),
        pytest.param(STORE + HALT, LOAD + COUNT, ["--check", "states", "--matrix"], id="recovery that is checked"),
        pytest.param(COUNT, HALT, [], id="the workload, before any store"),
        pytest.param(STORE + WAIT, LOAD + HALT, [], id="the workload, which waits"),
    ],
)
def test_one_run_that_does_not_end(tmp_path: Path, workload: bytes, recovery: bytes, options: list[str]) -> None:
    paths = [tmp_path / "workload.bin", tmp_path / "recovery.bin"]
    for path, code in zip(paths, (workload, recovery), strict=True):
        path.write_bytes(POINT_RDI + code)
    words = [paths[0], "--recover", paths[1], "--nvdimm", "size=2M", *NEVER, "--time-limit", "1", *options]
    found = emu("crash", *words, "--json")
    assert (found.status, found.document["verdict"]) == (10, "incomplete")
    assert found.document["incomplete_because"] == ["the time limit of 1 s was reached"]
    assert not [outcome for outcome in found.document["outcomes"] if outcome["verdict"] == "failed"]
