"""The SSDT of the NVDIMM root device: QEMU's own bytes for the same slots, and iasl's opinion."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emu.board import map as at
from emu.devices.nvdimm.ssdt import ssdt
from tests.oracle.qemu_tables import qemu_tables, table_of
from tests.oracle.requirements import require


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 17, 256])
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_ssdt_equals_qemus(machine: str, slots: int, tmp_path: Path) -> None:
    options = ["-machine", f"{machine},nvdimm=on", "-m", f"64M,slots={slots},maxmem=1G"]
    theirs = table_of(qemu_tables(options, tmp_path), b"SSDT", b"NVDIMM")
    assert theirs is not None
    page = int.from_bytes(theirs[-4:], "little")
    assert page % 4096 == 0
    assert ssdt(slots, page, at.DSM) == theirs


@pytest.mark.parametrize("slots", [1, 256])
def test_iasl_reads_and_compiles_it(slots: int, tmp_path: Path) -> None:
    iasl = require("iasl", "acpica-tools")
    (tmp_path / "t.aml").write_bytes(ssdt(slots, 0x7FFF000, at.DSM))
    taken_apart = subprocess.run([iasl, "-d", "t.aml"], cwd=tmp_path, capture_output=True, text=True)
    assert taken_apart.returncode == 0, taken_apart.stderr
    assert "error" not in taken_apart.stderr.lower()
    built = subprocess.run([iasl, "-p", "again", "t.dsl"], cwd=tmp_path, capture_output=True, text=True)
    assert " 0 Errors" in built.stdout, built.stdout + built.stderr
