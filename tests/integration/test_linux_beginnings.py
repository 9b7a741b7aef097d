"""Recoveries of Linux that begin where others were end as those from the mount on: same reads, verdicts and output."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from emu.config import BackendConfig, MachineConfig, NvdimmConfig
from emu.linux.prepare import Request, prepare
from emu.linux.protocol import Role
from emu.persistence.lab.beginnings import DISTANCE, Moment
from emu.persistence.lab.explore import Limits, LocalWorker, Verdict, explore
from emu.persistence.lab.linux import Scene
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.workload import Contents, Workload, record
from emu.persistence.model.crashstate import Read
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import Timeline, build
from emu.units import MIB
from tests.linux_kernel import needs_kernel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    needs_kernel,
]


class Counting(MachineRecovery):
    """``skipped`` is the number of basic blocks that runs had not to execute."""

    skipped = 0

    def _go_back(self, moment: Moment, given: Sequence[Read]) -> None:
        self.skipped += moment.block
        super()._go_back(moment, given)


class FromTheMount(Counting):
    """Every run begins before the mount."""

    def _begin_anew(self, tracked: frozenset[int]) -> None:
        pass


End = tuple[tuple[Read, ...], Verdict | None, list[int]]


@dataclass
class Scenario:
    workload: Workload
    timeline: Timeline
    initial: Contents

    def explore(self, recovery: MachineRecovery) -> tuple[int, list[End]]:
        """Recoveries made, and for each end what was read, the verdict with the output, and its crash points."""
        try:
            worker = LocalWorker(recovery, self.timeline, self.initial)
            found = explore(self.timeline, self.initial, worker, limits=Limits(executions=200))
        finally:
            recovery.close()
        ends = [(result.leaf.path(), result.leaf.verdict, sorted(result.points)) for result in found.results]
        return found.executed, ends


def scenario(folder: Path, stack: ExitStack, commands: dict[Role, str]) -> Scenario:
    dimm = NvdimmConfig(backend=BackendConfig(id="m", path=str(folder / "p.img"), size=32 * MIB, share=True))
    config = MachineConfig(ram_size=256 * MIB, slots=1, max_memory=1024 * MIB, nvdimms=(dimm,))
    made = prepare(Request(commands=commands), config, stack)
    workload = record(made.config, timeout=300, scene=Scene(made, True, folder))
    assert workload.begun is not None
    initial = Contents(workload.begun.config, workload.dimms)
    stack.callback(initial.close)
    return Scenario(workload, build(workload.events, Rules()), initial)


# Raises twice what lies in four cache lines, and flushes the last. Recovery thinks long between its looks at them, has
# stores of its own in two, and says what it found.
PROGRAM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static void think(void)
{
    for (volatile int n = 0; n < 50000; n++)
        ;
}
int main(int argc, char **argv)
{
    int file = open("/pmem/file", O_RDWR | O_CREAT, 0666);
    if (file < 0 || ftruncate(file, 4096))
        return 2;
    volatile uint32_t *lines = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, file, 0);
    if (lines == MAP_FAILED)
        return 3;
    if (argv[1][0] == 's')
        lines[0] = lines[512] = 0;
    for (int n = 0; argv[1][0] == 'e' && n < 8; n++) {
        lines[n % 4 * 16] = lines[n % 4 * 16 + 1] = 1 + n;
        if (n % 4 == 3)
            __asm__ volatile("clwb (%0)\n\tsfence" : : "r"(lines + 48) : "memory");
    }
    if (argv[1][0] != 'r')
        return 0;
    printf("%u\n", lines[0]);
    lines[17] = 99;
    lines[512]++;
    think();
    printf("%u %u\n", lines[16], lines[17]);
    think();
    lines[32] += 10;
    think();
    printf("%u %u %u %u\n", lines[32], lines[33], lines[48], lines[512]);
    return lines[0] > lines[48];
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: apt-get install gcc")
def test_recoveries_end_as_from_the_mount(tmp_path: Path) -> None:
    source, program = tmp_path / "lines.c", tmp_path / "lines"
    source.write_text(PROGRAM)
    subprocess.run(["gcc", "-O1", "-static", "-o", program, source], check=True)
    commands = {role: f"{program} {role.name.lower()}" for role in (Role.SETUP, Role.EXEC, Role.RECOVERY)}
    with ExitStack() as stack:
        made = scenario(tmp_path, stack, commands)
        begun = made.workload.begun
        assert begun is not None
        quick, plain = (kind(begun.config, budget=300_000_000, linux=begun.booted) for kind in (Counting, FromTheMount))
        executed, ends = made.explore(quick)
        assert made.explore(plain) == (executed, ends)
        assert executed >= 2**4
        assert {verdict.code for _, verdict, _ in ends if verdict} == {0, 1}
        assert (plain.skipped, quick.skipped > executed * DISTANCE) == (0, True), (executed, quick.skipped)
