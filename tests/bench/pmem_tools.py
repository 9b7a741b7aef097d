"""pmemcheck and pmreorder on the peers as Linux programs, where they are installed.

pmemcheck is a fork of Valgrind (github.com/pmem/valgrind), pmreorder a part of PMDK's source (``src/tools/pmreorder``);
no distribution packages them. pmreorder takes pmemcheck's log of the stores and runs the program's own check on the
memories that its engine makes of it.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.peers.catalogue import FOLDER

ENGINES = ("ReorderPartial", "ReorderReverseAccumulative")
"""Of pmreorder's engines those that end in minutes: ReorderFull tries all permutations between two fences."""
# The structures' pointers are addresses, so each process must map the pool at the same one.
_WHERE = {"PMEM_IS_PMEM_FORCE": "1", "PMEM_MMAP_HINT": "100000000000"}
_POOL_SIZE = 1 << 16
_TIMEOUT_S = 900


class Checked(NamedTuple):
    """How many errors a tool reported, and the processor time that it and its checks took, in seconds; ``errors`` is
    None where it was given up after 15 minutes.
    """

    errors: int | None
    cpu: float


def pmemcheck_installed() -> bool:
    """Whether there is a Valgrind with pmemcheck, and libpmem to link with."""
    if shutil.which("valgrind") is None:
        return False
    runs = subprocess.run(["valgrind", "--tool=pmemcheck", "true"], capture_output=True, check=False)
    words = ["gcc", "-x", "c", "-", "-lpmem", "-o", os.devnull]
    links = subprocess.run(words, input=b"int main(void){return 0;}", capture_output=True, check=False)
    return runs.returncode == 0 and links.returncode == 0


def pmreorder_installed() -> bool:
    """Whether it can be called by its name, beside pmemcheck."""
    return pmemcheck_installed() and shutil.which("pmreorder") is not None


def program(structure: str, macro: str | None, folder: Path) -> Path:
    """The structure as a Linux program, with the bug ``macro`` or without."""
    binary = folder / f"{structure}-{macro or 'repaired'}"
    planted = [f"-D{macro}"] if macro else []
    words = ["gcc", "-g", "-O1", *planted, "-include", str(FOLDER / "native.h"), str(FOLDER / f"{structure}.c")]
    subprocess.run([*words, "-o", str(binary), "-lpmem"], check=True)
    return binary


def pmemcheck(binary: Path, *options: str) -> tuple[str, Checked]:
    """What pmemcheck says of one run on an empty pool, and what it cost."""
    pool = binary.with_suffix(".pool")
    pool.unlink(missing_ok=True)
    began = _children()
    done = subprocess.run(
        ["valgrind", "--tool=pmemcheck", *options, str(binary)],
        env=os.environ | _WHERE | {"POOL": str(pool)},
        capture_output=True,
        text=True,
        check=True,
    )
    cpu = _children() - began
    summary = [line.partition("ERROR SUMMARY:")[2] for line in done.stderr.splitlines() if "ERROR SUMMARY:" in line]
    return done.stderr, Checked(int(summary[-1].split()[0]) if summary else 0, cpu)


def pmreorder(binary: Path, engine: str) -> Checked:
    """How many memories of those that ``engine`` makes fail the program's own check."""
    log, out, pool = (binary.with_suffix(f".{engine}.{end}") for end in ("log", "out", "pool"))
    pmemcheck(binary, "-q", "--log-stores=yes", "--print-summary=no", f"--log-file={log}",
              "--expect-fence-after-clflush=yes")  # fmt: skip
    log.write_text(log.read_text().replace(str(binary.with_suffix(".pool")), str(pool)))
    pool.write_bytes(bytes(_POOL_SIZE))
    words = ["pmreorder", "-l", str(log), "-o", str(out), "-r", engine, "-c", "prog", "-p", str(binary)]
    began = _children()
    try:
        done = subprocess.run(words, env=os.environ | _WHERE, capture_output=True, text=True, check=False,
                              timeout=_TIMEOUT_S)  # fmt: skip
    except subprocess.TimeoutExpired:
        return Checked(None, _children() - began)
    if "Traceback" in done.stderr:
        raise RuntimeError(f"pmreorder: {done.stderr}")
    said = out.read_text().splitlines()
    return Checked(sum(line.endswith(" inconsistent") for line in said), _children() - began)


def _children() -> float:
    """Processor time of the processes that were waited for, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
