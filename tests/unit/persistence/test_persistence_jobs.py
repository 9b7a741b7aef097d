"""A pool of worker processes ends at once, whatever its workers are doing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LEAVE = """\
import random, time
from emu.persistence.lab.jobs import process_pool

def large(size):
    return bytes(size)

if __name__ == "__main__":
    for _ in range(4):
        with process_pool(2) as pool:
            futures = [pool.submit(large, 50_000_000) for _ in range(20)]
            futures[0].result()
            time.sleep(random.random() / 10)
    print("left")
"""


def test_a_pool_is_left_while_its_workers_write_results(tmp_path: Path) -> None:
    """One killed in the middle of a result once left us waiting for the other half: Ctrl-C took a minute and more."""
    script = tmp_path / "leave.py"
    script.write_text(LEAVE)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr


INTERRUPTED_WHILE_STARTING = """\
import os, signal, time
from emu.persistence.lab.jobs import process_pool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)
    with process_pool(1) as pool:
        future = pool.submit(len, "ten things")
        while not future.done():
            os.killpg(0, signal.SIGINT)
            time.sleep(0.005)
        print(future.result())
"""


def test_ctrl_c_does_not_end_a_worker_that_starts(tmp_path: Path) -> None:
    """The terminal sends it to all; what it means is for the process that the user started to say."""
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED_WHILE_STARTING)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, start_new_session=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


KILLED = """\
import os, signal
from emu.persistence.lab.jobs import process_pool

if __name__ == "__main__":
    with process_pool(2) as pool:
        pool.submit(len, "ten things").result()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_pool_that_is_killed_says_nothing(tmp_path: Path) -> None:
    """What multiprocessing has to tidy up then is nothing that a user could do anything about."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (-9, "", "")


WHILE_RECORDING = """\
import multiprocessing
from emu import guest
from emu.config import BackendConfig, BackendKind, MachineConfig, NvdimmConfig
from emu.persistence.lab import investigation

if __name__ == "__main__":
    record = investigation.record
    def recorded(*words, **options):
        print(len(multiprocessing.active_children()), "are starting")
        return record(*words, **options)
    investigation.record = recorded
    dimm = NvdimmConfig(backend=BackendConfig(id="m", kind=BackendKind.RAM, size=2 << 20))
    config = MachineConfig(image=str(guest.find("commit-fixed").path), slots=1, nvdimms=(dimm,))
    with investigation.investigate(investigation.Question(config, config, jobs=2)) as answer:
        print(answer.complete, len(multiprocessing.active_children()), "are left")
"""


def test_workers_start_while_the_workload_is_recorded(tmp_path: Path) -> None:
    script = tmp_path / "recording.py"
    script.write_text(WHILE_RECORDING)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "2 are starting\nTrue 0 are left\n"), done.stderr
