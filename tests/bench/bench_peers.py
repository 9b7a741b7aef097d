"""Published structures with their published bugs (tests/peers): found, missed, false alarms, time; and under the peers.

emu's times are CPU seconds of the whole command: ``--first-failure`` for a bug, everything for a repaired structure.
pmemcheck runs the same sources as Linux programs where its fork of Valgrind and libpmem are installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.measure import Run
from tests.peers.catalogue import BUGS, FOLDER, STRUCTURES, build

POOL = "--nvdimm", "size=2M"


def judged(image: Path, *options: str) -> tuple[dict[str, Any], Run]:
    """The report of ``emu crash`` on an image and what it cost."""
    out = image.with_suffix(".json")
    with out.open("w") as text:
        process = subprocess.Popen(
            [sys.executable, "-m", "emu", "crash", str(image), *POOL, "--json", *options],
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
    tool = subprocess.run(["valgrind", "--tool=pmemcheck", "--version"], capture_output=True, check=False)
    runs = subprocess.run(["valgrind", "--tool=pmemcheck", "true"], capture_output=True, check=False)
    return tool.returncode == 0 and runs.returncode == 0 and shutil.which("pkg-config") is not None


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


def main() -> None:
    native = pmemcheck_installed()
    found = right = alarms = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print(f"  {'structure':<15}{'bug':<18}{'published':<28}{'cause':<24}{'line':<24}{'runs':>5}{'CPU s':>7}")
        for bug in BUGS:
            image = build(bug.structure, folder, bug.macro)
            quick, run = judged(image, "--first-failure")
            full, _ = judged(image)
            first = full["failures"][0] if full["failures"] else None
            found += quick["verdict"] == "failed"
            right += bool(first and bug.blames(first))
            cause = first["kind"] if first else "missed"
            line = (first["lost"] or [first["persisted"]])[0]["source"] if first else ""
            row = f"  {bug.structure:<15}{bug.macro:<18}{bug.published:<28}{cause:<24}{line:<24}"
            print(f"{row}{quick['executed']:>5}{run.cpu:>7.2f}", flush=True)
        print(f"  {'repaired':<15}{'verdict':<10}{'complete':<10}{'crash points':>12}{'runs':>6}{'CPU s':>7}")
        for structure in STRUCTURES:
            report, run = judged(build(structure, folder))
            alarms += report["verdict"] != "ok"
            complete = "yes" if report["complete"] else "no"
            row = f"  {structure:<15}{report['verdict']:<10}{complete:<10}{report['crash_points']:>12}"
            print(f"{row}{report['executed']:>6}{run.cpu:>7.2f}", flush=True)
        print(
            f"  emu: {found} of {len(BUGS)} found, {right} with the first cause at the marked line, "
            f"{alarms} false alarms on {len(STRUCTURES)} repaired"
        )
        if native:
            hits = sum(pmemcheck_errors(bug.structure, bug.macro, folder) > 0 for bug in BUGS)
            noise = sum(pmemcheck_errors(structure, None, folder) > 0 for structure in STRUCTURES)
            print(f"  pmemcheck: reports on {hits} of {len(BUGS)} broken, on {noise} of {len(STRUCTURES)} repaired")
        else:
            print("  pmemcheck: not installed (a fork of Valgrind); for published figures see docs/reference")


if __name__ == "__main__":
    main()
