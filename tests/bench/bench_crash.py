"""The crash laboratory: recoveries per second, executions against eager counts, two jobs against one.

Recoveries are measured in CPU time of one process, jobs in wall time and in CPU time of all processes: the latter says
how much faster two jobs are on two processors that have nothing else to do.
"""

from __future__ import annotations

import os
import resource
import struct
import tempfile
import time
from pathlib import Path

from emu import guest
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.guest.litmus import Step, assemble
from emu.persistence.lab.explore import Limits
from emu.persistence.lab.investigation import Answer, Question, investigate
from emu.persistence.lab.recovery import MachineRecovery
from emu.units import GIB, MIB

BASE = 4 * GIB


def machine(image: str | Path, cmdline: str = "") -> MachineConfig:
    backend = BackendConfig(id="m", kind=BackendKind.RAM, size=16 * MIB)
    return MachineConfig(image=str(image), cmdline=cmdline, slots=1, nvdimms=(NvdimmConfig(backend=backend),))


def recoveries_per_second(name: str, runs: int = 500) -> float:
    """Runs of a bundled guest's recovery on a memory of zeros, where it formats a pool and does its work."""
    image = guest.find(name)
    assert image is not None
    recovery = MachineRecovery(machine(image.path))
    try:
        tracked = frozenset(range(BASE, BASE + 4096, 8))
        recovery.run(tracked, lambda unit, mask: 0)
        began = time.process_time()
        for _ in range(runs):
            recovery.run(tracked, lambda unit, mask: 0)
        return runs / (time.process_time() - began)
    finally:
        recovery.close()


def log_writer(lines: int, records: int) -> bytes:
    """Records of ``lines`` one-store cache lines, persisted, then a commit word that counts them, persisted."""
    steps = []
    for record in range(records):
        value = struct.pack("<Q", record + 1)
        for line in range(lines):
            address = 64 * (1 + record * lines + line)
            steps += [Step("store", address, value), Step("CW", address)]
        steps += [Step("SF"), Step("store", 0, value), Step("CW", 0), Step("SF")]
    return assemble(tuple(steps), BASE)


def log_reader(lines: int) -> bytes:
    """Reads the commit word, checks that many records, writes 1 to the exit port if one is not whole."""
    loop = (
        b"\x48\xff\xc1"  # record: inc rcx
        b"\x48\x39\xd1\x77\x1d"  # cmp rcx, rdx; ja done
        b"\xbb" + struct.pack("<I", lines) +  # mov ebx, lines
        b"\x48\x83\xc6\x40"  # line: add rsi, 64
        b"\x48\x39\x0e\x75\x06"  # cmp [rsi], rcx; jne bad
        b"\xff\xcb\x75\xf3"  # dec ebx; jnz line
        b"\xeb\xe4"  # jmp record
        b"\xb0\x01\xe6\xf4"  # bad: mov al, 1; out 0xf4, al
        b"\xf4\x90\x90\x90\x90\xf4"  # hlt
    )  # fmt: skip
    return b"\x48\xbf" + struct.pack("<Q", BASE) + b"\x48\x8b\x17\x48\x89\xfe\x31\xc9" + loop


def log_answer(folder: Path, lines: int, records: int, jobs: int = 1) -> tuple[Answer, float]:
    writer, reader = folder / "writer.bin", folder / "reader.bin"
    writer.write_bytes(log_writer(lines, records))
    reader.write_bytes(log_reader(lines))
    began = time.perf_counter()
    answer = investigate(Question(machine(writer), machine(reader), jobs=jobs, limits=Limits(10**6)))
    return answer, time.perf_counter() - began


def wide_question(folder: Path, cells: int, jobs: int) -> Question:
    """``cells`` independent lines, none flushed, all read: 2 ** cells recoveries."""
    writer, reader = folder / "wide.bin", folder / "sum.bin"
    writer.write_bytes(assemble(tuple(Step("store", 64 * n, struct.pack("<Q", 1)) for n in range(cells)), BASE))
    body = b"\x48\x03\x07\x48\x83\xc7\x40\xff\xc9\x75\xf5"  # add rax, [rdi]; add rdi, 64; dec ecx; jnz
    work = b"\xb9" + struct.pack("<I", 20_000) + b"\xff\xc9\x75\xfc"  # mov ecx, n; dec ecx; jnz
    reader.write_bytes(
        b"\x48\xbf" + struct.pack("<Q", BASE) + b"\xb9" + struct.pack("<I", cells) + body + work + b"\xf4"
    )
    return Question(machine(writer), machine(reader), jobs=jobs, limits=Limits(10**6))


def main() -> None:
    print("crash laboratory")
    for name in ("commit-fixed", "level-fixed", "undo-fixed"):
        print(f"  recoveries per second and core, {name:<14} {recoveries_per_second(name):8.0f}   target 10000")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for lines, records in ((4, 10), (8, 10), (16, 10), (8, 100)):
            answer, seconds = log_answer(folder, lines, records)
            assert answer.complete
            assert not answer.failed
            print(f"  log of {records:>3} records of {lines:>2} lines: eager {answer.eager:>7}, "
                  f"executed {answer.exploration.executed:>4}, {seconds:.2f} s")  # fmt: skip
        for cells in (12, 14):
            print(f"  2 jobs against 1, {2**cells} recoveries: {two_jobs(folder, cells)}   target 1.8")


def two_jobs(folder: Path, cells: int) -> str:
    """How much faster two jobs are than one."""
    one, two = (_cost(wide_question(folder, cells, jobs), 2**cells) for jobs in (1, 2))
    return f"{one[0] / two[0]:.2f} times as fast on {os.cpu_count()} cores, by CPU time {2 * one[1] / two[1]:.2f}"


def _cost(question: Question, runs: int) -> tuple[float, float]:
    """Seconds of real time, and of the processors' time in this process and its workers."""

    def spent() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    began, before = time.perf_counter(), spent()
    with investigate(question) as answer:
        assert answer.exploration.executed >= runs
    return time.perf_counter() - began, spent() - before


if __name__ == "__main__":
    main()
