"""Programs as people write them for Linux, each right and with one bug: what `emu run linux` and `emu crash linux` say.

Intel's libraries, SQLite, the C++ and Rust compilers and the shell's tools are the distribution's. Every program knows
the words create, work and check (programs/pool.h).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.run_emu import emu
from tests.oracle.linux_machines import PROGRAMS, require_kernel
from tests.oracle.requirements import missing, require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
TIMEOUT_S = 7000
"""What ends an exploration is that it is complete, or a number of recoveries: not how busy the machine is."""
OBJECTS = ("transfer.c", "list.c", "queue.c", "atomic_list.c")
LANGUAGES = ("cells.cpp", "ledger.rs")
PYTHON = Path("/usr/lib/python3.11")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_kernel()
    monkeypatch.chdir(tmp_path)


def build(source: str, *, broken: bool = False) -> str:
    """The command that executes programs/SOURCE, compiled with the names of its lines."""
    path, output = PROGRAMS / source, f"./{Path(source).stem}"
    library = "libpmemobj" if source in OBJECTS else "libpmem"
    if not Path(f"/usr/include/{library}.h").exists():
        missing(f"{library}.h", f"on Debian: apt-get install {library}-dev")
    if source.endswith(".rs"):
        words = [require("rustc", "rustc"), "-g", "-O", "--edition=2021", *(["--cfg", "broken"] if broken else [])]
    else:
        compiler = require("g++", "g++") if source.endswith(".cpp") else require("gcc", "gcc")
        words = [compiler, "-g", "-O1", "-Wall", "-Wextra", "-Werror", *(["-DBROKEN"] if broken else [])]
    libraries = [] if source.endswith(".rs") else [f"-l{library.removeprefix('lib')}"]
    subprocess.run([*words, "-o", output, str(path), *libraries], check=True)
    return output


def crash(setup: str, execute: str, recover: str, *options: str) -> dict[str, Any]:
    words = ["--nvdimm", "size=64M", "--setup", setup, "--exec", execute, "--recover", recover, *options]
    return emu("crash", "linux", *words, "--time-limit", str(TIMEOUT_S), "--json", timeout=TIMEOUT_S).document


def judged(programs: Sequence[str], *options: str) -> dict[str, Any]:
    """One machine for all ``programs``: each works in turn, and all must find their own after every power failure."""
    create, work, check = (
        " && ".join(f"{program} {word}" for program in programs) for word in ("create", "work", "check")
    )
    return crash(create, work, check, "--scope", "program", *options)


def bug_of(source: str) -> str:
    """FILE:LINE of the line that is marked in the source."""
    lines = (PROGRAMS / source).read_text("utf-8").splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if line.endswith(("/* the bug */", "// the bug")))
    return f"{source}:{number}"


def blamed(failure: dict[str, Any]) -> set[str]:
    return {event["source"] for event in (*failure["lost"], failure["persisted"]) if event and event["source"]}


@pytest.mark.parametrize("sources", [OBJECTS, LANGUAGES], ids=["libpmemobj", "C++ and Rust"])
def test_right_programs_recover_from_every_power_failure(sources: tuple[str, ...]) -> None:
    found = judged([build(source) for source in sources])
    assert (found["verdict"], found["complete"], found["failures"]) == ("ok", True, [])
    assert found["executed"] > len(sources)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("transfer.c", "persistence atomicity"),
        ("list.c", "persistence atomicity"),
        ("queue.c", "persistence ordering"),
        ("atomic_list.c", "missing flush"),
        ("cells.cpp", "missing flush"),
        ("ledger.rs", "missing flush"),
    ],
)
def test_the_bug_of_a_program_is_named_at_its_line(source: str, kind: str) -> None:
    found = judged([build(source, broken=True)], "--first-failure")
    assert found["verdict"] == "failed"
    (failure,) = found["failures"]
    assert failure["kind"] == kind
    assert bug_of(source) in blamed(failure)
    assert failure["verdict"]["reason"] == "exit-status"


BLOCKS = ("--granularity", "block", "--tears", "0", "--max-executions", "40", "--first-failure")
SQL = "begin; update a set n = 2; update b set n = 2; commit;"


@pytest.mark.parametrize("synchronous", ["FULL", "OFF"])
def test_sqlite_keeps_a_transaction_whole_only_when_it_is_synchronous(synchronous: str) -> None:
    """Two pages change in one transaction. Without fsync the journal may be lost, and one page changed already."""
    require("sqlite3", "sqlite3")
    tables = "create table a(n); create table b(n); insert into a values(1); insert into b values(1);"
    check = "select a.n = b.n from a, b; PRAGMA integrity_check"
    found = crash(
        f"sqlite3 /pmem/data '{tables}'",
        f"sqlite3 /pmem/data 'PRAGMA synchronous={synchronous}; {SQL}'",
        f"""test "$(sqlite3 /pmem/data '{check}')" = "$(printf '1\\nok')" """,
        *BLOCKS,
    )
    assert (found["verdict"] == "failed") == (synchronous == "OFF")
    assert (found["failures"] == []) == (synchronous == "FULL")
    assert found["executed"] == 40 or found["failures"]


@pytest.mark.parametrize("how", ["work", "overwrite"])
def test_shell_script_replaces_a_file_whole_or_not(how: str) -> None:
    """cp, sync and mv leave the old file or the new one; emptying it first leaves an empty one between."""
    script = str(PROGRAMS / "save.sh")
    found = crash(f"{script} create", f"{script} {how}", f"{script} check", *BLOCKS)
    assert (found["verdict"] == "failed") == (how == "overwrite")
    assert found["executed"] > 4 or found["failures"]


def test_python_stores_into_a_mapped_file(tmp_path: Path) -> None:
    """An interpreter and what it opens by name: the library comes with --add."""
    if not PYTHON.is_dir() or not os.access("/usr/bin/python3", os.X_OK):
        missing("Debian's Python 3.11", "apt-get install python3")
    program = (
        "import mmap, os; f = os.open('/pmem/a', os.O_RDWR | os.O_CREAT); os.ftruncate(f, 4096); "
        "m = mmap.mmap(f, 4096); m[:5] = b'hello'; m.flush(); print(os.pread(f, 5, 0).decode())"
    )
    library = [word for name in ("encodings", "os.py", "lib-dynload") for word in ("--add", PYTHON / name)]
    words = ["--nvdimm", f"file={tmp_path}/pmem.img,size=32M", *library, "--exec", f'/usr/bin/python3 -ISc "{program}"']
    ran = emu("run", "linux", *words, timeout=TIMEOUT_S)
    assert (ran.status, ran.out) == (0, "hello\n")
