"""Watch it work: bytes that survive a reboot and a kill -9, a machine that moves, a crash that is explained."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from emu.errors import HostError, Status

EPILOG = """\
examples:
  emu demo                 persistence: reboot and kill -9
  emu demo migrate         a counting guest moves from one emu to another
  emu demo crash           a missing flush is found and explained
"""

_FOLDER = Path("demo")
# What the demonstrations leave there; the next one begins without it, and touches nothing else.
_FILES = ("pmem.img", "log.img", "pool.img", "source.img", "target.img", "source.qmp", "stream.sock")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", nargs="?", choices=sorted(_DEMOS), default="persistence", help="which demonstration")


def run(options: argparse.Namespace) -> int:
    try:
        _FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        remedy = "run the demonstration in a folder that you can write to"
        raise HostError(f"cannot create the folder {_FOLDER}/: {error.strerror}", remedy) from None
    for name in _FILES:
        (_FOLDER / name).unlink(missing_ok=True)
    return _DEMOS[options.which]()


def _say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _command(line: str) -> list[str]:
    print(f"$ emu {line}", flush=True)
    return [sys.executable, "-m", "emu", *shlex.split(line)]


def _emu(line: str, *, expect: tuple[int, ...] = (Status.OK,)) -> None:
    ended = subprocess.run(_command(line), stdin=subprocess.DEVNULL, check=False)
    if ended.returncode not in expect:
        raise HostError(f"the demonstration stopped: 'emu {line}' ended with status {ended.returncode}")


def _until(process: subprocess.Popen[bytes], lines: int) -> None:
    """Pass ``lines`` lines of the guest's output on."""
    assert process.stdout is not None
    for _ in range(lines):
        line = process.stdout.readline()
        if not line:
            raise HostError("the demonstration stopped: the counting guest ended too early")
        print(line.decode("utf-8", "replace"), end="", flush=True)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until ``process`` listens at the socket ``path``."""
    while not path.exists():
        if process.poll() is not None:
            raise HostError("the demonstration stopped: the destination did not start")
        time.sleep(0.01)


def persistence() -> int:
    """Boot twice, kill once, and find every flushed byte again."""
    image = _FOLDER / "pmem.img"
    _say("What can a file in this folder promise?")
    _emu("probe .")
    _say("First boot: the guest finds its NVDIMM through ACPI, writes, flushes and counts.")
    _emu(f"run hello --nvdimm file={image},size=64M,sync=auto")
    _say("Second boot, a new process: the bytes are still there.")
    _emu(f"run hello --nvdimm file={image}")
    _say("A guest that logs numbers in persistent memory, killed with SIGKILL in the middle.")
    log = _FOLDER / "log.img"
    counting = subprocess.Popen(
        _command(f"run count --quiet --nvdimm file={log},size=64M"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        _until(counting, 3)
    finally:
        counting.kill()
        counting.wait()
    print(f"$ kill -9 {counting.pid}", flush=True)
    assert counting.returncode == -signal.SIGKILL
    _say("Another guest checks the log that the killed one left: no gap, no torn record.")
    _emu(f"run verify --nvdimm file={log}")
    _say(f"The bytes are in plain files, {image} and {log}; look at them with any tool.")
    with image.open("rb") as file:
        head = file.read(64)
    for offset in range(0, len(head), 16):
        row = head[offset : offset + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        print(f"{offset:08x}  {row.hex(' ')}  {text}")
    return Status.OK


def crash() -> int:
    """A commit flag without a flush, and the same program repaired."""
    _say("A program that sets its commit flag before the data is flushed. Every possible power cut is tried.")
    pool = _FOLDER / "pool.img"
    _emu(f"crash commit-noflush --nvdimm file={pool},size=2M", expect=(Status.CRASH_STATES_FAIL,))
    _say("The repaired program.")
    _emu(f"crash commit-fixed --nvdimm file={pool},size=2M")
    return Status.OK


def migrate() -> int:
    """A counting guest moves from one emu to another while it counts."""
    source, target, qmp, stream = (_FOLDER / name for name in ("source.img", "target.img", "source.qmp", "stream.sock"))
    _say("Terminal 1: a guest counts in persistent memory.")
    first = subprocess.Popen(
        _command(f"run count --quiet --nvdimm file={source},size=64M -qmp unix:{qmp},server=on,wait=off"),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    second: subprocess.Popen[bytes] | None = None
    try:
        _until(first, 3)
        _say("Terminal 2: an emu with an empty NVDIMM of the same size waits for it.")
        second = subprocess.Popen(
            _command(f"run --quiet --nvdimm file={target},size=64M --incoming unix:{stream}"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        _wait_for(stream, second)
        _say("Terminal 3: move it. The destination answers when every byte is durable there.")
        _emu(f"migrate --qmp unix:{qmp} unix:{stream}")
        _say("Terminal 2 goes on where terminal 1 stopped.")
        _until(second, 3)
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
    _say("No number is missing in the log at the destination.")
    _emu(f"run verify --nvdimm file={target}")
    return os.EX_OK


_DEMOS = {"persistence": persistence, "migrate": migrate, "crash": crash}
