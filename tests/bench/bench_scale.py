"""What an investigation costs: against the number of operations of a correct hash table, and the size of the NVDIMM.

Every row is a process of its own: CPU seconds and peak memory are those of one investigation from start to end, the
recorded run, its checks and the count of memories included. Linear growth is a ratio of 10 for ten times the work.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass

from emu import guest
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.persistence.lab.explore import Limits
from emu.persistence.lab.investigation import Question, investigate
from emu.units import MIB

OPERATIONS = (10, 100, 1_000, 10_000)
SIZES_MIB = (16, 256, 4096)


@dataclass(frozen=True)
class Cost:
    """One investigation: crash points, recoveries, CPU seconds, peak resident memory in MiB."""

    points: int
    executed: int
    seconds: float
    peak: float


def measure(operations: int, size: int) -> Cost:
    """Investigate ``operations`` operations on an NVDIMM of ``size`` MiB in this process."""
    image = guest.find("bench-hash")
    assert image is not None
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=size * MIB)
    config = MachineConfig(image=str(image.path), cmdline=str(operations), slots=1,
                           nvdimms=(NvdimmConfig(backend=backend),))  # fmt: skip
    began = time.process_time()
    with investigate(
        Question(config, config, limits=Limits(10**7), event_limit=1 << 24, workload_timeout=600.0)
    ) as answer:
        spent = time.process_time() - began
        assert answer.complete
        assert not answer.failed
        assert not answer.workload_failed
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Cost(len(answer.timeline.points), answer.exploration.executed, spent, peak)


def measured(operations: int, size: int) -> Cost:
    """``measure`` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.bench_scale", str(operations), str(size)]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Cost(int(words[0]), int(words[1]), float(words[2]), float(words[3]))


def main() -> None:
    print("an investigation of bench-hash")
    print("  operations  NVDIMM  crash points  recoveries  CPU seconds  peak MiB  x")
    before: Cost | None = None
    for operations in OPERATIONS:
        cost = measured(operations, 16)
        print(_row(operations, 16, cost, f"{cost.seconds / before.seconds:.1f}" if before else ""), flush=True)
        before = cost
    for size in SIZES_MIB:
        print(_row(1_000, size, measured(1_000, size), ""), flush=True)


def _row(operations: int, size: int, cost: Cost, ratio: str) -> str:
    return (
        f"  {operations:10}  {size:6}  {cost.points:12}  {cost.executed:10}  {cost.seconds:11.2f}  {cost.peak:8.0f}  "
        f"{ratio}"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        cost = measure(int(sys.argv[1]), int(sys.argv[2]))
        print(cost.points, cost.executed, cost.seconds, cost.peak)
    else:
        main()
