"""What an investigation costs: against the number of operations of a correct hash table, and the size of the NVDIMM.

Every row is a process of its own: CPU seconds and peak memory are those of one investigation from start to end, the
recorded run, its checks and the count of memories included. Linear growth is a ratio of 10 for ten times the work; the
guest's own part of a recovery that looks every key up grows as the square of their number.
``python -m tests.bench.bench_scale --write`` puts the table into docs/reference/benchmarks.md.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emu import guest
from emu.cli.start import GARBAGE_THRESHOLD
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.cpu.engine.hooks import Engine
from emu.persistence.lab.explore import Limits
from emu.persistence.lab.investigation import Question, investigate
from emu.units import MIB

OPERATIONS = (10, 100, 1_000, 3_000, 10_000)
SIZES_MIB = (16, 256, 4096)
DOCUMENT = Path(__file__).parents[2] / "docs/reference/benchmarks.md"
BEGIN, END = "<!-- scale -->", "<!-- /scale -->"


@dataclass(frozen=True)
class Cost:
    """One investigation: crash points, recoveries, CPU seconds, those of them in the engine that executes the guest,
    and peak resident memory in MiB.
    """

    points: int
    executed: int
    seconds: float
    in_guest: float
    peak: float


class _Clocked:
    """Engines whose time is measured."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._run = Engine.run

    def __enter__(self) -> _Clocked:
        def run(engine: Engine, pc: int) -> int:
            began = time.thread_time()
            try:
                return self._run(engine, pc)
            finally:
                self.seconds += time.thread_time() - began

        Engine.run = run  # type: ignore[assignment, method-assign] # for as long as this lasts
        return self

    def __exit__(self, *error: object) -> None:
        Engine.run = self._run  # type: ignore[method-assign]


def measure(operations: int, size: int) -> Cost:
    """Investigate ``operations`` operations on an NVDIMM of ``size`` MiB in this process."""
    image = guest.find("bench-hash")
    assert image is not None
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=size * MIB)
    config = MachineConfig(image=str(image.path), cmdline=str(operations), slots=1,
                           nvdimms=(NvdimmConfig(backend=backend),))  # fmt: skip
    gc.set_threshold(GARBAGE_THRESHOLD)  # as the command does
    began = time.process_time()
    question = Question(config, config, limits=Limits(10**7), event_limit=1 << 24, workload_timeout=600.0)
    with _Clocked() as engines, investigate(question) as answer:
        spent = time.process_time() - began
        assert answer.complete
        assert not answer.failed
        assert not answer.workload_failed
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Cost(len(answer.timeline.points), answer.exploration.executed, spent, engines.seconds, peak)


def measured(operations: int, size: int) -> Cost:
    """``measure`` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.bench_scale", str(operations), str(size)]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Cost(int(words[0]), int(words[1]), float(words[2]), float(words[3]), float(words[4]))


def main() -> None:
    for line in rows():
        print(line, flush=True)


def rows() -> Iterator[str]:
    """The table, as it stands in the documentation."""
    yield "| `python -m tests.bench scale`: operations | NVDIMM | points | recoveries | CPU s | in the guest | peak |"
    yield "|---|---|---|---|---|---|---|"
    for operations, size in (*((operations, SIZES_MIB[0]) for operations in OPERATIONS),
                             *((OPERATIONS[2], size) for size in SIZES_MIB[1:])):  # fmt: skip
        cost = measured(operations, size)
        place = f"{size >> 10} GiB" if size >= 1024 else f"{size} MiB"
        times = " | ".join(
            f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.2g}" for seconds in (cost.seconds, cost.in_guest)
        )
        yield f"| {operations:,} | {place} | {cost.points:,} | {cost.executed:,} | {times} | {cost.peak:.0f} MiB |"


def write() -> None:
    """Put the table into the documentation."""
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{chr(10).join(rows())}\n{END}{after}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["--write"]:
            write()
        case [operations, size]:
            cost = measure(int(operations), int(size))
            print(cost.points, cost.executed, cost.seconds, cost.in_guest, cost.peak)
