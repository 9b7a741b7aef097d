"""Power may fail at any point: NAME must find its data whole after every one of them."""

import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
A_WHILE = 1800  # seconds; a kernel boots, and a machine may be busy


@pytest.fixture(scope="session")
def program():
    subprocess.run(["make", "-s", "NAME"], cwd=FOLDER, check=True)
    return FOLDER / "NAME"


def test_it_finds_what_it_left(program, emu_run, nvdimm_file):
    pool = nvdimm_file("32M")
    for _ in range(2):
        ran = emu_run("linux", "--nvdimm", f"file={pool}", "--exec", program, timeout=A_WHILE)
        assert (ran.status, ran.stdout) == (0, "3 entries\n")


def test_every_power_cut_recovers(program, emu_crash):
    options = ["--nvdimm", "size=32M", "--scope", "program", "--time-limit", str(A_WHILE)]
    emu_crash("linux", *options, "--exec", program, "--recover", program, timeout=2 * A_WHILE).assert_recovers()
