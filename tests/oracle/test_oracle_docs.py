"""Every command that README and docs show, run as a reader would: page by page, in the order shown, in an empty folder.

The shell and the programs that the pages name (as, ld, iasl, qmp-shell) judge. A command that waits for others (a
destination, a machine with a QMP socket) runs beside them, as in a terminal of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from requirements import missing

from emu.errors import Status

ROOT = Path(__file__).parents[2]
LESSONS = ROOT / "docs" / "tutorial" / "lessons"
"""Pages whose commands are run, and their output compared, by tests/integration/test_learn_lessons.py."""
GDB = ROOT / "docs" / "how-to" / "debug-with-gdb.md"
"""Likewise, by tests/oracle/test_oracle_gdb.py: it has two terminals."""
PMDK = ROOT / "docs" / "tutorial" / "pmdk-program.md"
"""Likewise, by tests/oracle/test_oracle_tutorial.py: its project needs a kernel and libpmem."""
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    if page.parent != LESSONS and page not in (GDB, PMDK)
)

NOT_HERE = {
    r"make (demo|test)\b": ".ci/run runs it",
    r"emu run IMAGE ": "the form of a command",
    r".*\./(log|writer) ": "a program of the reader for Linux; tests/oracle/test_oracle_linux.py runs its like",
    r".*\bsmall-kernel\b": "builds a kernel from the distribution's source, for many minutes",
    r".*--lessons my-lessons": "tests/integration/test_learn_command.py makes the folder",
    r"emu learn find-the-bug --check": "there is no file of a student's; the same test has one",
    r"emu completion \w+ > ~": "changes the reader's home; tests/unit/cli/test_cli_completion.py has shells read them",
    r"emu debug ": "waits for gdb; tests/oracle/test_oracle_gdb.py has it come",
    r".*\belided\.": "of the source's own folder; tests/integration/test_programs_judged.py judges the program",
    r"apt-get install ": "changes the machine; .ci/run installs the same packages",
    r"\. \.venv/bin/activate": "the tests run inside of it",
    r"python3 -m venv |venv/bin/|pip wheel ": "tests/integration/test_packaging_install.py does the same",
}
"""Commands that are not run here, and who answers for them."""

NEEDS = {
    "iasl": "on Debian: apt-get install acpica-tools",
    "as": "on Debian: apt-get install binutils",
    "ld": "on Debian: apt-get install binutils",
    "qmp-shell": "pip install qemu.qmp",
}
MEANT_TO_FAIL = {"emu crash": (Status.OK, Status.CRASH_STATES_FAIL)}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_WAITS = re.compile(r"--incoming unix:(\S+)|-qmp unix:([^,\s]+),server=on,wait=off")
_PATIENCE_S = 60


def commands(text: str) -> Iterator[str]:
    """What a page tells its reader to type, in order. Prose never starts a line with four blanks or more."""
    rest = text
    for fence in (*_FENCE.finditer(text), None):
        before, _, rest = rest.partition(fence[0]) if fence else (rest, "", "")
        yield from _typed(before, r" {4,8}(?=emu |qmp-shell )")
        if fence and fence[1] == "sh":
            yield from _typed(fence[2], "")
        elif fence and fence[1] == "console":
            yield from _typed(fence[2], r"\$ ")
        elif fence and fence[1] == "text":
            yield from _typed(fence[2].partition("\nexamples:\n")[2], r"  (?=emu )")


def _typed(text: str, prompt: str) -> Iterator[str]:
    for found in re.finditer(rf"^{prompt}(\S(?:[^\n]*\\\n)*[^\n]*)", text, re.M):
        # What stands behind many blanks says what the command is for.
        command = re.sub(r"\\\n\s+", "", found[1])
        command = re.split(r"\s{2,}(?![^']*'$)", command)[0].strip()
        if command and not command.startswith("#"):
            yield command


def examples(text: str) -> list[str]:
    return [command for command in commands(text) if not any(re.match(rule, command) for rule in NOT_HERE)]


def test_commands_are_found_in_every_form() -> None:
    text = (
        "Do:\n\n    emu one a \\\n        b\n\n```sh\nmake demo    # why\n# only words\nemu two\n```\n"
        "```console\n$ emu three | cat\noutput\n```\n"
        "```text\nusage: emu\n\nexamples:\n  emu four          what for\n```\n"
        "1. Or:\n\n        emu five\n\n    emu: a message\n"
    )
    assert list(commands(text)) == ["emu one a b", "make demo", "emu two", "emu three | cat", "emu four", "emu five"]
    assert examples(text) == ["emu one a b", "emu two", "emu three | cat", "emu four", "emu five"]


def test_pages_show_commands() -> None:
    assert sum(len(examples((ROOT / page).read_text("utf-8"))) for page in PAGES) > 40
    for rule, why in NOT_HERE.items():
        shown = [c for page in PAGES for c in commands((ROOT / page).read_text("utf-8")) if re.match(rule, c)]
        assert shown, f"no page shows {rule} ({why}) any more"


def _sections(page: str) -> Iterator[list[str]]:
    """A page is read from top to bottom; each verb's examples in the reference stand for themselves."""
    text = (ROOT / page).read_text("utf-8")
    for part in re.split(r"^(?=## emu )", text, flags=re.M) if page.endswith("commands.md") else (text,):
        if lines := examples(part):
            yield lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "lines",
    [pytest.param(lines, id=f"{page}-{n}") for page in PAGES for n, lines in enumerate(_sections(page))],
)
def test_shown_commands_work_in_order(lines: list[str], tmp_path: Path) -> None:
    for program, remedy in NEEDS.items():
        used = any(re.search(rf"(^|&& ){program} ", line) for line in lines)
        if used and shutil.which(program, path=_environment()["PATH"]) is None:
            missing(program, remedy)
    # What the reader of a page has: a clone's guests, and an image of their own.
    (tmp_path / "guest").symlink_to(ROOT / "guest")
    shutil.copy(ROOT / "tests" / "programs" / "log.c", tmp_path)
    _shell(
        "as -o first.o guest/flat/first.S && "
        "ld -Ttext=0x100000 --oformat=binary -e 0x100000 -o guest.bin first.o && rm first.o && "
        "cp guest/images/hello.elf guest.elf",
        tmp_path,
    )
    beside: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        for line in lines:
            if waits := _WAITS.search(line):
                _wait_at(tmp_path / (waits[1] or waits[2]), beside, line, tmp_path)
            else:
                _shell(line, tmp_path)
    finally:
        for _, process in beside:
            process.kill()
        outputs = [process.communicate()[0].decode(errors="replace") for _, process in beside]
    for (line, process), output in zip(beside, outputs, strict=True):
        assert process.returncode in (0, -9), f"{line}: status {process.returncode}\n{output}"


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "COLUMNS": "100", "NO_COLOR": "1"}


def _shell(line: str, folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=_environment(), capture_output=True, text=True, timeout=_PATIENCE_S,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    good = next((good for start, good in MEANT_TO_FAIL.items() if line.startswith(start)), (Status.OK,))
    assert done.returncode in good, f"{line}: status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr, line


def _wait_at(socket: Path, beside: list[tuple[str, subprocess.Popen[bytes]]], line: str, folder: Path) -> None:
    # Whoever held the socket before has ended, or ends now: the pages start one machine after the other.
    started = time.monotonic()
    process = subprocess.Popen(
        ["sh", "-c", f"exec {line}"], cwd=folder, env=_environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    beside.append((line, process))
    while not socket.exists():
        assert process.poll() is None, f"{line}: status {process.returncode}\n{process.communicate()[0].decode()}"
        assert time.monotonic() - started < _PATIENCE_S, f"{line}: does not listen"
        time.sleep(0.02)
