"""The tutorial about a PMDK program, and with it the project of `emu new --linux`, followed to the letter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oracle.linux_machines import require_kernel
from tests.oracle.requirements import missing, require

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "pmdk-program.md"
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
_VARYING = re.compile(r"\b0x[0-9a-f]+\b|\b\d+\.\d\ds( \([\d:]+\))?$|event \d+|, mov .*$")
"""What depends on the kernel, the library and the compiler that are there: addresses, times, events, instructions."""


def shown() -> list[tuple[str, list[str]]]:
    """The commands of the page, in order, each with the lines that it prints there."""
    found: list[tuple[str, list[str]]] = []
    for block in _CONSOLE.findall(PAGE.read_text("utf-8")):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def steady(lines: list[str]) -> list[str]:
    return [_VARYING.sub("#", line).rstrip() for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorial_ends_as_it_says(tmp_path: Path) -> None:
    require_kernel()
    for program in ("gcc", "make"):
        require(program, program)
    if not Path("/usr/include/libpmem.h").exists():
        missing("libpmem.h", "on Debian: apt-get install libpmem-dev")
    commands = shown()
    assert len(commands) == 9
    # Its python3 is one that has emu and pytest; and a pytest that runs this one must not be heard of there.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MAKE", "CI"))}
    ours["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ours['PATH']}"
    place = tmp_path
    for command, printed in commands:
        if command.startswith("cd "):
            place /= command.removeprefix("cd ")
            continue
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=place,
            env=ours,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=1800,
        )
        assert steady(ran.stdout.splitlines()) == steady(printed), (command, ran.stdout, ran.stderr)
