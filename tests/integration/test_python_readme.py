"""The README's script runs as it is printed, in at most fifteen lines."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def script() -> str:
    (found,) = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


def run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-W", "error", "script.py"], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_the_script_of_the_readme_runs_as_it_is_printed(tmp_path: Path) -> None:
    assert len(script().splitlines()) <= 15
    done = run(script(), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("power-off NVDIMM at 0x100000000")
    assert lines[1] == "boot 1: hello, persistent world"
    assert lines[3] == "b'emuhello'"
    assert re.fullmatch(r"0x[0-9a-f]+ [0-9a-f]{8}", lines[4])
    assert lines[5] == str(bytes(8))
    assert lines[6].startswith("failed missing flush ['")
    assert "missing flush" in (tmp_path / "report.html").read_text("utf-8")


def test_worker_processes_of_a_script(tmp_path: Path) -> None:
    """Recoveries in two processes give the same answer, from a script with the usual guard."""
    text = """
import emu
if __name__ == "__main__":
    dimms = [emu.Nvdimm("pool.img", size="2M")]
    with emu.crash("level-broken", nvdimms=dimms) as one, emu.crash("level-broken", nvdimms=dimms, jobs=2) as two:
        assert one.verdict == "failed"
        assert one.document == two.document
"""
    done = run(text, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
