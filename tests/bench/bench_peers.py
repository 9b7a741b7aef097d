"""Published structures with their published bugs (tests/peers): found, missed, false alarms, time; and under the peers.

emu's times are CPU seconds of the whole command, its start included: ``--first-failure`` for a bug, everything for a
repaired structure.
pmemcheck runs the same sources as Linux programs where its fork of Valgrind and libpmem are installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from emu.testing.commands import EMU
from tests.bench.measure import Run
from tests.peers.catalogue import BUGS, FOLDER, STRUCTURES, Bug, build

POOL = "--nvdimm", "size=2M"


def judged(image: Path, *options: str) -> tuple[dict[str, Any], Run]:
    """The report of ``emu crash`` on an image and what it cost."""
    out = image.with_suffix(".json")
    with out.open("w") as text:
        process = subprocess.Popen(
            [*EMU, "crash", str(image), *POOL, "--json", *options],
            stdin=subprocess.DEVNULL,
            stdout=text,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    document: dict[str, Any] = json.loads(out.read_text())
    return document, Run(0.0, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def pmemcheck_installed() -> bool:
    """Whether there is a Valgrind with pmemcheck, and libpmem to link with."""
    if shutil.which("valgrind") is None:
        return False
    runs = subprocess.run(["valgrind", "--tool=pmemcheck", "true"], capture_output=True, check=False)
    words = ["gcc", "-x", "c", "-", "-lpmem", "-o", os.devnull]
    links = subprocess.run(words, input=b"int main(void){return 0;}", capture_output=True, check=False)
    return runs.returncode == 0 and links.returncode == 0


def pmemcheck_errors(structure: str, macro: str | None, folder: Path) -> int:
    """How many errors pmemcheck reports on one run of the workload."""
    program, pool = folder / "native", folder / "pool"
    pool.unlink(missing_ok=True)
    planted = [f"-D{macro}"] if macro else []
    source = str(FOLDER / f"{structure}.c")
    subprocess.run(
        ["gcc", "-g", "-O1", *planted, f'-DPOOL_FILE="{pool}"', source, "-o", str(program), "-lpmem"], check=True
    )
    done = subprocess.run(
        ["valgrind", "--tool=pmemcheck", str(program)],
        env={**os.environ, "PMEM_IS_PMEM_FORCE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    summary = next(line for line in done.stderr.splitlines() if "ERROR SUMMARY:" in line)
    return int(summary.partition("ERROR SUMMARY:")[2].split()[0])


def broken(bug: Bug, folder: Path) -> tuple[bool, bool]:
    """Prints a row; whether the bug was found, and whether the first cause names a line that is to blame."""
    image = build(bug.structure, folder, bug.macro)
    quick, run = judged(image, "--first-failure")
    full, _ = judged(image)
    first = full["failures"][0] if full["failures"] else None
    blamed = bug.blamed_in(first) if first else None
    cause = first["kind"] if first else "**missed**"
    row = (bug.structure, bug.macro, bug.published, cause, blamed or "**another**", quick["executed"], f"{run.cpu:.2f}")
    _row(*row)
    return quick["verdict"] == "failed", blamed is not None


def repaired(structure: str, folder: Path) -> bool:
    """Prints a row; whether the report is clean and complete."""
    report, run = judged(build(structure, folder))
    complete = "yes" if report["complete"] else "**no**"
    _row(structure, report["verdict"], complete, report["crash_points"], report["executed"], f"{run.cpu:.2f}")
    return report["verdict"] == "ok"


def _row(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _row("structure", "bug", "published", "first cause", "line blamed", "recoveries until found", "CPU s")
        _row(*["---"] * 7)
        results = [broken(bug, folder) for bug in BUGS]
        print()
        _row("repaired", "verdict", "complete", "crash points", "recoveries", "CPU s")
        _row(*["---"] * 6)
        clean = [repaired(structure, folder) for structure in STRUCTURES]
        found, right = (sum(column) for column in zip(*results, strict=True))
        print(f"\nemu: {found} of {len(BUGS)} found, {right} of them blamed at the line;", end=" ")
        print(f"{clean.count(False)} false alarms on {len(STRUCTURES)} repaired structures")
        if pmemcheck_installed():
            noise = {structure: pmemcheck_errors(structure, None, folder) for structure in STRUCTURES}
            hits = sum(pmemcheck_errors(bug.structure, bug.macro, folder) > noise[bug.structure] for bug in BUGS)
            print(f"pmemcheck: reports more than on the repaired structure for {hits} of {len(BUGS)} bugs;", end=" ")
            print(f"reports on {sum(map(bool, noise.values()))} of {len(STRUCTURES)} repaired structures")
        else:
            print("pmemcheck: not installed (it is a fork of Valgrind)")


if __name__ == "__main__":
    main()
