"""Runs the mutants, two at a time, each in a copy of the tracked files; fails when one of them survives."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from . import cpu, devices, files, gdb, migration, monitor, persistence, reads
from .mutant import Mutant

ROOT = Path(__file__).parents[2]
MUTANTS = (
    *cpu.MUTANTS, *devices.MUTANTS, *files.MUTANTS, *persistence.MUTANTS, *migration.MUTANTS, *monitor.MUTANTS,
    *gdb.MUTANTS, *reads.MUTANTS,
)  # fmt: skip
LIMIT_S = 120.0
"""For the tests of one mutant. Below it lie the tests' own limits: what they end is a test that failed."""
AT_ONCE = 2
_TESTS_FAILED = 1  # pytest's exit status; the others say that it could not run the tests


class Outcome(NamedTuple):
    killed: bool
    how: str
    seconds: float


class Ended(NamedTuple):
    """``status`` is None when the tests ran for ever."""

    status: int | None
    output: str


def copy_tracked(target: Path) -> None:
    """The files that git knows, as they are now, and the built modules, newer than their sources."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    for built in ROOT.glob("emu/**/*.so"):
        shutil.copy(built, target / built.relative_to(ROOT))
    # By content: an edit may keep a file's size and come within the second that file times tell apart.
    compiler = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "emu"]
    subprocess.run(compiler, cwd=target, check=True)


@contextmanager
def copy_of(pristine: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="emu-mutant-") as folder:
        yield shutil.copytree(pristine, Path(folder) / "emu", symlinks=True)


def run_tests(tree: Path, tests: Sequence[str], *options: str, limit: float = LIMIT_S) -> Ended:
    """Run ``tests`` in ``tree`` until the first failure; nothing of them is left running."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *options, *tests]
    process = subprocess.Popen(
        command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    status: int | None = None
    try:
        output, _ = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired:
        output = ""
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return Ended(status, output)


def misplaced(mutant: Mutant) -> str | None:
    """Why the edit cannot be made, None when it can."""
    count = (ROOT / mutant.file).read_text().count(mutant.old)
    if count != 1 or mutant.old == mutant.new:
        return f"{mutant.name}: the text to replace is {count} times in {mutant.file}, not once"
    return None


def try_out(pristine: Path, mutant: Mutant) -> Outcome:
    began = time.monotonic()
    with copy_of(pristine) as tree:
        edited = tree / mutant.file
        edited.write_text(edited.read_text().replace(mutant.old, mutant.new))
        if mutant.file.endswith((".csrc.c", ".h")):
            build = ["make", f"PY={sys.executable}", "native"]
            built = subprocess.run(build, cwd=tree, capture_output=True, text=True)
            if built.returncode:
                return Outcome(False, f"does not compile: {built.stderr.strip()}", time.monotonic() - began)
        ended = run_tests(tree, mutant.tests)
    killed, how = _judge(mutant, ended)
    return Outcome(killed, how, time.monotonic() - began)


def _judge(mutant: Mutant, ended: Ended) -> tuple[bool, str]:
    if ended.status is None:
        return mutant.hangs, f"runs for more than {LIMIT_S:g} s"
    if ended.status == _TESTS_FAILED:
        failed = re.search(r"^(?:FAILED|ERROR) (?:[^ :]*/)?(.+?)(?: - .*)?$", ended.output, re.MULTILINE)
        return True, f"by {failed[1]}" if failed else "by a test"
    if ended.status == 0:
        return False, f"SURVIVED: {', '.join(mutant.tests)} stay green"
    return False, f"the tests could not run (status {ended.status}): {ended.output[-2000:].strip()}"


def main(names: Sequence[str]) -> int:
    doubled = [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1]
    unknown = [name for name in names if name not in {mutant.name for mutant in MUTANTS}]
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    wrong = [f"two mutants are called {name}" for name in doubled] + [f"no mutant is called {name}" for name in unknown]
    wrong += filter(None, map(misplaced, chosen))
    if wrong:
        print(*wrong, sep="\n")
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emu-mutants-") as folder:
        pristine = Path(folder)
        copy_tracked(pristine)
        with copy_of(pristine) as tree:
            tests = sorted({test for mutant in chosen for test in mutant.tests})
            ended = run_tests(tree, tests, "-n", str(AT_ONCE), limit=10 * LIMIT_S)
        if ended.status != 0:
            print(f"{ended.output}\nwithout any edit the tests must pass")
            return 2
        print(f"{len(tests)} tests pass without an edit ({time.monotonic() - began:.0f} s)", flush=True)
        survivors = 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = pool.map(lambda mutant: try_out(pristine, mutant), chosen)
            for mutant, outcome in zip(chosen, outcomes, strict=True):
                word = "killed" if outcome.killed else "ALIVE "
                print(
                    f"{word} {outcome.seconds:5.1f} s  {mutant.name}: {mutant.promise}\n{'':17}{outcome.how}",
                    flush=True,
                )
                survivors += not outcome.killed
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed in {time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
