"""Every command that README and docs show, run as a reader would: page by page, in the order shown, in an empty folder.

The emu is that of an empty environment into which its wheel was installed; and what the pages show must be printed.
The shell and the programs that the pages name (as, ld, iasl, qmp-shell) judge. A command that waits for others (a
destination, a machine with a QMP socket) runs beside them, as in a terminal of its own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.errors import Status
from tests.oracle import wheel
from tests.oracle.pages import PATIENCE_S, Command, File, Shell, absent, environment, steps
from tests.oracle.requirements import missing

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

STUDENT = (
    "README.md",
    "docs/tutorial/first-crash.md",
    "docs/how-to/write-your-own-guest.md",
    "docs/how-to/find-a-missing-flush.md",
)
"""A student's first hour: these need nothing but emu itself."""

NOT_HERE = {
    r"make (demo|test)\b": ".ci/run runs it",
    r"emu run IMAGE ": "the form of a command",
    r"emu run linux --kernel DIR/": "the form of a command; tests/integration/test_crash_linux.py runs one",
    r".*\./(log|writer) ": "a program of the reader for Linux; tests/oracle/test_oracle_linux.py runs its like",
    r".*\bsmall-kernel\b": "builds a kernel from the distribution's source, for many minutes",
    r".*--lessons my-lessons": "tests/integration/test_learn_command.py makes the folder",
    r"emu learn find-the-bug --check": "there is no file of a student's; the same test has one",
    r"emu completion \w+ > ~": "changes the reader's home; tests/unit/cli/test_cli_completion.py has shells read them",
    r"emu debug ": "waits for gdb; tests/oracle/test_oracle_gdb.py has it come",
    r".*\belided\.": "of the source's own folder; tests/integration/test_programs_judged.py judges the program",
    r"apt-get install ": "changes the machine; .ci/run installs the same packages",
    r"printf '#!/bin/sh|CC=\$PWD/old-cc ": "needs a compiler of a hundred megabytes; done by hand, as the page says",
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
_WAITS = re.compile(r"--incoming unix:(\S+)|-qmp unix:([^,\s]+),server=on,wait=off")


def examples(text: str) -> list[File | Command]:
    return [step for step in steps(text) if isinstance(step, File) or not _is_elsewhere(step.line)]


def _is_elsewhere(line: str) -> bool:
    return any(re.match(rule, line) for rule in NOT_HERE)


def test_what_a_page_asks_for_is_found_in_every_form() -> None:
    text = (
        "Do:\n\n    emu one a \\\n        b\n\n```sh\nmake demo    # why\n# only words\nemu two\n```\n"
        "<!-- file: a/b.c -->\n```c\nint a;\n```\n```c\nint b;\n```\n"
        "```console\n$ emu three | cat\noutput\n  more\n$ emu three \\\n  again\n```\n"
        "```text\nusage: emu\n\nexamples:\n  emu four          what for\n```\n"
        "1. Or:\n\n        emu five\n\n    emu: a message\n"
    )
    expected = [
        Command("emu one a b"),
        Command("make demo"),
        Command("emu two"),
        File("a/b.c", "int a;\n"),
        Command("emu three | cat", ("output", "  more")),
        Command("emu three again"),
        Command("emu four"),
        Command("emu five"),
    ]
    assert list(steps(text)) == expected
    assert examples(text) == [step for step in expected if step != Command("make demo")]


def test_what_is_not_printed_is_seen() -> None:
    assert absent(("a", "c...e"), "a\nb\nc d e  \n") is None
    assert absent(("c...e", "a"), "a\nb\nc d e\n") == "a"
    assert absent(("b.", "a"), "a\nbb\n") == "b."


def test_pages_show_commands() -> None:
    assert sum(len(examples((ROOT / page).read_text("utf-8"))) for page in PAGES) > 40
    for rule, why in NOT_HERE.items():
        shown = [s for page in PAGES for s in steps((ROOT / page).read_text("utf-8")) if isinstance(s, Command)]
        assert any(re.match(rule, step.line) for step in shown), f"no page shows {rule} ({why}) any more"


def _sections(page: str) -> Iterator[list[File | Command]]:
    """A page is read from top to bottom; each verb's examples in the reference stand for themselves."""
    text = (ROOT / page).read_text("utf-8")
    for part in re.split(r"^(?=## emu )", text, flags=re.M) if page.endswith("commands.md") else (text,):
        if asked := examples(part):
            yield asked


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which `pip install emu` was all."""
    return wheel.installed(tmp_path_factory)


@pytest.fixture(scope="module")
def with_extra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which there are `emu[test]` and `qemu.qmp`."""
    return wheel.installed(tmp_path_factory, "test", "qemu.qmp")


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first one makes the wheel
@pytest.mark.parametrize("page", STUDENT)
def test_a_student_with_nothing_but_emu_can_follow(page: str, alone: Path, tmp_path: Path) -> None:
    asked = examples((ROOT / page).read_text("utf-8"))
    assert sum(bool(step.shown) for step in asked if isinstance(step, Command)) >= 2, "it shows what it does"
    _follow(asked, alone, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "asked",
    [pytest.param(asked, id=f"{page}-{n}") for page in PAGES for n, asked in enumerate(_sections(page))],
)
def test_shown_commands_work_in_order(asked: list[File | Command], with_extra: Path, tmp_path: Path) -> None:
    _follow(asked, with_extra, tmp_path)


def _follow(asked: list[File | Command], programs: Path, folder: Path) -> None:
    """Do as a page says, with the emu of ``programs``, in ``folder``."""
    reader = environment(programs)
    for program, remedy in NEEDS.items():
        used = any(re.search(rf"(^|&& ){program} ", step.line) for step in asked if isinstance(step, Command))
        if used and shutil.which(program, path=reader["PATH"]) is None:
            missing(program, remedy)
    shell = Shell(folder, reader)
    # What the reader of a page has: a clone's guests, and an image of their own.
    (folder / "guest").symlink_to(ROOT / "guest")
    shutil.copy(ROOT / "tests" / "programs" / "log.c", folder)
    _type(
        Command(
            "as -o first.o guest/flat/first.S && "
            "ld -Ttext=0x100000 --oformat=binary -e 0x100000 -o guest.bin first.o && rm first.o && "
            "cp guest/images/hello.elf guest.elf"
        ),
        shell,
    )
    beside: list[tuple[str, subprocess.Popen[bytes]]] = []
    try:
        for step in asked:
            if isinstance(step, File):
                shell.put(step)
            elif waits := _WAITS.search(step.line):
                _wait_at(shell.folder / (waits[1] or waits[2]), beside, step.line, shell)
            else:
                _type(step, shell)
    finally:
        for _, process in beside:
            process.kill()
        outputs = [process.communicate()[0].decode(errors="replace") for _, process in beside]
    for (line, process), output in zip(beside, outputs, strict=True):
        assert process.returncode in (0, -9), f"{line}: status {process.returncode}\n{output}"


def _type(command: Command, shell: Shell) -> None:
    status, printed = shell.run(command.line)
    good = next((good for start, good in MEANT_TO_FAIL.items() if command.line.startswith(start)), (Status.OK,))
    assert status in good, f"{command.line}: status {status}\n{printed[-4000:]}"
    assert "Traceback" not in printed, command.line
    # The pages are written in a clone, where bundled guests have shorter paths.
    line = absent(command.shown, re.sub(r"\S*/site-packages/emu/", "", printed))
    assert line is None, f"{command.line}: the page shows\n{line}\nwhich is not in what is printed:\n{printed[-4000:]}"


def _wait_at(socket: Path, beside: list[tuple[str, subprocess.Popen[bytes]]], line: str, shell: Shell) -> None:
    # Whoever held the socket before has ended, or ends now: the pages start one machine after the other.
    started = time.monotonic()
    process = subprocess.Popen(
        ["sh", "-c", f"exec {line}"], cwd=shell.folder, env=shell.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    beside.append((line, process))
    while not socket.exists():
        assert process.poll() is None, f"{line}: status {process.returncode}\n{process.communicate()[0].decode()}"
        assert time.monotonic() - started < PATIENCE_S, f"{line}: does not listen"
        time.sleep(0.02)
