"""Signals at any moment: status 130, no traceback, nothing left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fuzzing import times
from tests.integration.run_emu import EMU, PATIENCE_S

SEED = 7
ATTEMPTS = times(6)
COMMANDS = {
    "plain": ["run", "hello", "--nvdimm", "file=pool,size=4M"],
    "document": ["run", "hello", "--json", "--nvdimm", "file=pool,size=4M"],
    "monitor": ["run", "count", "--append", "0", "--quiet", "-serial", "none", "--nvdimm", "file=pool,size=4M",
                "-qmp", "unix:socket,server=on,wait=off"],
    "waiting monitor": ["run", "hello", "--quiet", "-qmp", "unix:socket,server=on,wait=on"],
    "destination": ["run", "--quiet", "--nvdimm", "file=pool,size=4M", "--incoming", "unix:socket"],
    "serial to a FIFO": ["run", "hello", "--quiet", "-serial", "file:fifo"],
    "labels": ["label", "init", "-f", "labels"],
    "probe": ["probe", "."],
}  # fmt: skip


def wait_for_handlers(process: subprocess.Popen[bytes]) -> None:
    """Until the command's first statement has run: before it, signals belong to the Python interpreter."""
    mask = 1 << signal.SIGTERM - 1
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < end:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if int(status.partition("SigCgt:")[2].split()[0], 16) & mask:
            return
        time.sleep(0.001)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_any_moment(name: str, tmp_path: Path) -> None:
    chance = random.Random(f"{SEED} {name}")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "labels").write_bytes(bytes(1 << 20))
    for _ in range(ATTEMPTS):
        number = chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        process = subprocess.Popen(
            [*EMU, *COMMANDS[name]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            cwd=tmp_path,
        )  # fmt: skip
        wait_for_handlers(process)
        time.sleep(chance.uniform(0, 0.3))
        for _ in range(chance.choice([1, 1, 2, 3])):
            process.send_signal(number)
            time.sleep(chance.choice([0, 0.001, 0.01]))
        _, errors = process.communicate(timeout=PATIENCE_S)
        # 0: it was done before. By the signal itself: while the interpreter took itself down after the end.
        assert process.returncode in (130, 0, -number), errors
        assert b"Traceback" not in errors
        assert b"Exception ignored" not in errors
        assert b"internal error" not in errors
        assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("delay", [0, 0.02])
def test_an_interruption_where_python_cannot_raise_comes_again(delay: float) -> None:
    """In a finaliser an exception is only printed; Ctrl-C is not lost there, and nothing is printed. Also not when it
    comes again before Python is done with it the first time: then the process has waited for a processor.
    """
    code = f"""
import os, signal, time
import _signal
from emu.cli import signals

signals.take_over()
delays, set_timer = [{delay}], _signal.setitimer

def set_timer_and_wait(*arguments):
    set_timer(*arguments)
    if delays:
        time.sleep(delays.pop())

_signal.setitimer = set_timer_and_wait

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)

with signals.interruptible():
    try:
        Finalised()
        time.sleep(30)
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run([EMU[0], "-c", code], capture_output=True, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == (b"interrupted\n", b"")


def test_a_second_signal_does_not_interrupt_what_puts_things_away() -> None:
    code = """
import os, signal, time
from emu.cli import signals

signals.take_over()
with signals.interruptible():
    try:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            print("put away")
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run([EMU[0], "-c", code], capture_output=True, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == (b"put away\ninterrupted\n", b"")
