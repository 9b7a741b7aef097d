"""One program over libpmem, unmodified: as a guest with our library, and as a Linux program with Intel's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run_emu import emu
from tests.linux_kernel import needs_kernel
from tests.oracle.requirements import missing

LOG = Path(__file__).parents[1] / "programs" / "log.c"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), needs_kernel]


def for_linux(folder: Path, *flags: str) -> Path:
    if not Path("/usr/include/libpmem.h").exists():
        missing("libpmem.h", "on Debian: apt-get install libpmem-dev")
    program = folder / "log"
    subprocess.run(["gcc", "-g", "-O1", *flags, str(LOG), "-o", str(program), "-lpmem"], check=True)
    return program


def judged(*words: object) -> tuple[int, dict[str, Any]]:
    found = emu("crash", *words, "--json", timeout=1500)
    assert found.document["complete"] is True, found
    return found.status, found.document


def test_the_same_source_runs_on_both(tmp_path: Path) -> None:
    guest, program = tmp_path / "guest.elf", for_linux(tmp_path)
    assert emu("cc", "-O1", LOG, "-o", guest).status == 0
    pools = [f"file={tmp_path / name},size=32M" for name in ("guest.img", "linux.img")]
    assert emu("run", guest, "--nvdimm", pools[0], "--append", "one two").status == 0
    assert emu("run", "linux", "--nvdimm", pools[1], "--exec", f"{program} one two", timeout=600).status == 0
    ours = emu("run", guest, "--nvdimm", pools[0])
    theirs = emu("run", "linux", "--nvdimm", pools[1], "--exec", str(program), timeout=600)
    assert ours.out == "2 entries: one two\n"
    assert theirs.out == ours.out


@pytest.mark.parametrize("flags", [(), ("-DNO_PERSIST",)], ids=["right", "lacks a flush"])
def test_the_verdict_is_the_same(tmp_path: Path, flags: tuple[str, ...]) -> None:
    guest, program = tmp_path / "guest.elf", for_linux(tmp_path, *flags)
    assert emu("cc", "-g", "-O1", *flags, LOG, "-o", guest).status == 0
    as_guest = judged(guest, "--nvdimm", "size=2M", "--append", "three")
    commands = ["--setup", str(program), "--exec", f"{program} three", "--recover", str(program), "--scope", "program"]
    on_linux = judged("linux", "--nvdimm", f"file={tmp_path / 'pool.img'},size=32M", *commands)
    assert as_guest[0] == on_linux[0] == (3 if flags else 0)
    causes = [
        {(failure["kind"], failure["lost"][0]["source"]) for failure in document["failures"]}
        for _, document in (as_guest, on_linux)
    ]
    assert causes[0] == causes[1]
    assert bool(causes[0]) == bool(flags)
