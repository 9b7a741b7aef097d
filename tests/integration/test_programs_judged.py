"""What the laboratory says of programs that look right: what the compiler made of them, and what they waste."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from emu.guest.toolchain import find_compiler
from tests.integration.run_emu import emu

PROGRAMS = Path(__file__).parents[1] / "programs"
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (on Debian: apt-get install gcc)")


def built(tmp_path: Path, name: str, *options: str) -> Path:
    image = tmp_path / "guest.elf"
    words = ["-Wall", "-Wextra", "-Werror", *options, str(PROGRAMS / name), "-o", str(image)]
    subprocess.run(find_compiler().build(words), check=True)
    return image


@pytest.mark.parametrize(
    ("options", "verdict"),
    [(("-O0",), "ok"), (("-O2",), "failed"), (("-O2", "-DORDERED"), "ok")],
    ids=["as written", "optimized", "volatile"],
)
def test_the_machine_code_is_judged_not_the_source(tmp_path: Path, options: tuple[str, ...], verdict: str) -> None:
    found = emu("crash", built(tmp_path, "elided.c", *options), "--nvdimm", "size=2M", "--json").document
    assert (found["verdict"], found["complete"]) == (verdict, True)
    assert (found["events"]["stores"] == 12) == (verdict == "ok"), (
        "the optimizer leaves stores out of the three records"
    )
    for cause in found["failures"]:
        assert all(store["source_path"].endswith("elided.c") for store in [*cause["lost"], cause["persisted"]])
        assert "violated: " in cause["verdict"]["output"]


def test_each_waste_is_counted_at_its_line(tmp_path: Path) -> None:
    planted = {}
    for number, line in enumerate((PROGRAMS / "waste.c").read_text().splitlines(), 1):
        if mark := re.search(r"waste: (\d+) ([a-z ]+) \*/", line):
            planted[f"waste.c:{number}", mark[2]] = int(mark[1])
    assert len(planted) == 6
    found = emu("crash", built(tmp_path, "waste.c", "-O1"), "--nvdimm", "size=2M", "--warnings", "--json").document
    assert found["verdict"] == "ok"
    assert {(item["source"], item["kind"]): item["count"] for item in found["warnings"]} == planted
