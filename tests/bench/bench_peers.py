"""Published structures with their published bugs (tests/peers): found, missed, false alarms, time; and under the peers.

emu's times are CPU seconds of the whole command, its start included: ``--first-failure`` for a bug, everything for a
repaired structure. pmemcheck and pmreorder judge the same sources as Linux programs (``pmem_tools``).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from emu.testing.commands import EMU
from tests.bench.measure import Run
from tests.bench.pmem_tools import (
    ENGINES,
    Checked,
    pmemcheck,
    pmemcheck_installed,
    pmreorder,
    pmreorder_installed,
    program,
)
from tests.peers.catalogue import BUGS, STRUCTURES, Bug, build

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
    return bool(report["verdict"] == "ok")


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
    tools()


def tools() -> None:
    """What the other tools say of the same sources as Linux programs, where they are installed."""
    memory = Path("/dev/shm")  # pmreorder syncs its file after every store
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        folder = Path(place)
        if pmemcheck_installed():
            judge("pmemcheck", lambda binary: pmemcheck(binary)[1], folder)
        else:
            print("pmemcheck: not installed (it is a fork of Valgrind)")
        for engine in ENGINES if pmreorder_installed() else ():
            judge(f"pmreorder {engine}", partial(pmreorder, engine=engine), folder)
        if not pmreorder_installed():
            print("pmreorder: not installed (it is in PMDK's source, src/tools/pmreorder, and needs pmemcheck)")


def judge(name: str, tool: Callable[[Path], Checked], folder: Path) -> None:
    """Prints what a tool found and missed: a bug is found where it reports more than on the repaired structure."""
    noise = {structure: tool(program(structure, None, folder)) for structure in STRUCTURES}
    said = {bug: tool(program(bug.structure, bug.macro, folder)) for bug in BUGS}
    found = [bug for bug, one in said.items() if (one.errors or 0) > (noise[bug.structure].errors or 0)]
    false = [structure for structure, one in noise.items() if one.errors]
    ended = [one.cpu for one in (*noise.values(), *said.values()) if one.errors is not None]
    print(
        f"{name}: {len(found)} of {len(BUGS)} found, false alarms on {len(false)} of {len(STRUCTURES)} repaired",
        end=" ",
    )
    print(f"structures ({', '.join(false) or 'none'}); {median(ended):.2f} s of processor time (to {max(ended):.2f})")
    print(f"  missed: {', '.join(f'{bug.structure} {bug.macro}' for bug in BUGS if bug not in found) or 'none'}")
    if len(ended) < len(noise) + len(said):
        print(f"  given up: {len(noise) + len(said) - len(ended)}")


if __name__ == "__main__":
    main()
