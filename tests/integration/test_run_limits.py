"""Limits on memory (``ulimit -v``): said before Unicorn ends the process with a status that looks like a guest's."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_emu import emu


@pytest.mark.parametrize("megabytes", [30, 100, 200, 400, 1000, 1100, 1300, 2000])
def test_too_little_address_space(megabytes: int, tmp_path: Path) -> None:
    limited = ("sh", "-c", f'ulimit -v {megabytes * 1024}; exec "$@"', "sh")
    result = emu("run", "hello", "--quiet", "--nvdimm", f"file={tmp_path}/p,size=4M", under=limited)
    assert (result.status, result.out) == (4, "")
    assert "ulimit -v" in result.errors[-1]
    assert len(result.errors) == 2
    assert not (tmp_path / "p").exists()


def test_enough_address_space(tmp_path: Path) -> None:
    limited = ("sh", "-c", 'ulimit -v 3000000; exec "$@"', "sh")
    assert emu("run", "hello", "--nvdimm", f"file={tmp_path}/p,size=4M", under=limited).status == 0
