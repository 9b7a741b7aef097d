"""Migration: throughput and downtime against QEMU, time to durable against dd, and what it costs the running guest.

Both emulators run the same guest (``count``, on a small NVDIMM of its own) beside 1 GiB of incompressible NVDIMM, are
driven by the same QMP client, and use files on tmpfs that hold their pages already, so that neither the disk nor the
kernel's page allocator decides. QEMU's bandwidth limit is raised out of the way. QEMU makes nothing durable; emu does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emu import guest
from emu.testing.commands import EMU
from tests.bench.measure import ratio, row

MIB = 1 << 20
TMPFS = Path("/dev/shm")
BULK = 1024 * MIB
SMALL = 4 * MIB


class Qmp:
    """A blocking QMP client of the process ``pid``, enough to drive a migration on either emulator."""

    def __init__(self, path: Path, pid: int) -> None:
        self.pid = pid
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self("qmp_capabilities")

    def __call__(self, command: str, **arguments: Any) -> Any:
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": names}).encode() + b"\n")
        while True:
            reply = json.loads(self._lines.readline())
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


@dataclass(frozen=True)
class Moved:
    """One migration: seconds to the end, of processors too (both ends, without the guest), milliseconds of downtime,
    bytes per second."""

    seconds: float
    cpu: float
    downtime_ms: float
    rate: float


def command(kind: str, folder: Path, name: str, sizes: tuple[int, int], incoming: str | None) -> list[str]:
    """A machine whose first NVDIMM is the guest's and whose second is the bulk."""
    small, bulk = folder / f"{name}-small", folder / f"{name}-bulk"
    qmp = f"unix:{folder}/{kind}-{name}.qmp,server=on,wait=off"
    image = str(guest.find("count").path)  # type: ignore[union-attr]
    words: list[str] = []
    if kind == "qemu":
        words = [
            "qemu-system-x86_64", "-machine", "q35,nvdimm=on,accel=tcg", "-nodefaults", "-display", "none",
            "-no-reboot", "-serial", f"file:{folder}/{name}.serial", "-kernel", image, "-append", "0 100000",
        ]  # fmt: skip
    else:
        words = [*EMU, "run", "--quiet", "-serial", f"file:{folder}/{name}.serial"]
        words += [image, "--append", "0 100000"] if incoming is None else []
    words += ["-m", "64M,slots=2,maxmem=16G", "-qmp", qmp]
    if kind == "emu":
        words += ["-machine", "q35,nvdimm=on"]
    for number, (path, size) in enumerate(zip((small, bulk), sizes, strict=True)):
        words += ["-object", f"memory-backend-file,id=m{number},share=on,mem-path={path},size={size}"]
        words += ["-device", f"nvdimm,memdev=m{number},id=n{number}"]
    return words + (["-incoming", incoming] if incoming else [])


@contextlib.contextmanager
def machine(kind: str, folder: Path, name: str, sizes: tuple[int, int], incoming: str | None) -> Iterator[Qmp]:
    qmp = folder / f"{kind}-{name}.qmp"
    words = command(kind, folder, name, sizes, incoming)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        client = None
        while client is None:
            if process.poll() is not None:
                raise RuntimeError(f"{kind} did not start")
            time.sleep(0.02)
            with contextlib.suppress(OSError):
                client = Qmp(qmp, process.pid)
        yield client
        client.close()
    finally:
        process.kill()
        process.wait()


def counted(folder: Path, name: str) -> int:
    """How far the guest of machine ``name`` has counted, as its serial port says."""
    serial = folder / f"{name}.serial"
    lines = serial.read_bytes().split(b"\n")[:-1] if serial.exists() else []
    return next((int(line.split()[1]) for line in reversed(lines) if line.startswith(b"count ")), 0)


def spent(pid: int) -> float:
    """Seconds of processors that the process has used (the clock is that of clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def spent_by_threads(pid: int) -> dict[str, float]:
    """The same of each of its threads (/proc/PID/task/TID/schedstat, in nanoseconds)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {task.name: int((task / "schedstat").read_text().split()[0]) / 1e9 for task in tasks}


def address(kind: str, folder: Path, transport: str) -> str:
    """Where a destination may listen: a path of its own, or a port that is free now."""
    if transport == "unix":
        return f"unix:{folder}/{kind}.sock"
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"tcp:127.0.0.1:{server.getsockname()[1]}"


def migrate(kind: str, folder: Path, sizes: tuple[int, int], transport: str = "unix") -> Moved:
    incoming = address(kind, folder, transport)
    with machine(kind, folder, "b", sizes, incoming) as there, machine(kind, folder, "a", sizes, None) as source:
        while not counted(folder, "a"):
            time.sleep(0.05)
        source("migrate-set-parameters", max_bandwidth=0 if kind == "emu" else 1 << 40, downtime_limit=100)
        before = spent_by_threads(source.pid)
        time.sleep(0.3)
        threads = spent_by_threads(source.pid)
        busiest = max(threads, key=lambda thread: threads[thread] - before.get(thread, 0.0))  # it runs the guest
        both = spent(source.pid) + spent(there.pid)
        source("migrate", uri=incoming)
        while (answer := source("query-migrate"))["status"] not in ("completed", "failed", "cancelled"):
            time.sleep(0.1)  # who asks more often measures the answers
        seconds = answer["total-time"] / 1000
        if answer["status"] != "completed":
            raise RuntimeError(f"{kind}: {answer.get('error-desc')}")
        cpu = spent(source.pid) + spent(there.pid) - both
        cpu -= spent_by_threads(source.pid)[busiest] - threads[busiest]
        return Moved(seconds, cpu, answer["downtime"], sizes[1] / seconds)


def fill(folder: Path, sizes: tuple[int, int], *, destination: bool) -> None:
    """Make the files: the source's bulk incompressible, the destination's all there (or absent)."""
    for name in ("a", "b"):
        (folder / f"{name}-small").write_bytes(bytes(sizes[0]))
    random = os.urandom(MIB)
    for name in ("a", "b") if destination else ("a",):
        with (folder / f"{name}-bulk").open("wb") as file:
            for number in range(sizes[1] // MIB):
                file.write(number.to_bytes(8, "little") + random[8:])
    if not destination:
        (folder / "b-bulk").unlink(missing_ok=True)


def throughput(rounds: int, transport: str, target: str) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        print("QEMU is missing: install the package qemu-system-x86")
        return
    figures: dict[str, list[Moved]] = {"emu": [], "qemu": []}
    with tempfile.TemporaryDirectory(dir=TMPFS) as name:
        folder = Path(name)
        fill(folder, (SMALL, BULK), destination=True)
        for _ in range(rounds):
            for kind, moved in figures.items():
                (folder / "a-small").write_bytes(bytes(SMALL))
                moved.append(migrate(kind, folder, (SMALL, BULK), transport))
    for kind, moved in figures.items():
        rate = statistics.median(item.rate for item in moved) / MIB
        down = statistics.median(item.downtime_ms for item in moved)
        print(f"  {kind:<6} {rate:8.0f} MiB/s   downtime {down:5.0f} ms")
    times = [[item.seconds for item in figures[kind]] for kind in ("qemu", "emu")]
    print(row(f"1 GiB over {transport}: QEMU's time / ours", ratio(*times), target))
    times = [[item.cpu for item in figures[kind]] for kind in ("qemu", "emu")]
    print(row(f"1 GiB over {transport}: QEMU's CPU time / ours", ratio(*times), target))


def slow_down() -> None:
    """The guest's count per second while a migration is active, against the same guest in the second before."""
    sizes = (SMALL, BULK)
    shares: list[float] = []
    with tempfile.TemporaryDirectory(dir=TMPFS) as name:
        folder = Path(name)
        fill(folder, sizes, destination=True)

        def watch(source: Qmp) -> None:
            began = time.perf_counter()
            while source("query-migrate")["status"] in ("setup", "active"):
                time.sleep(0.02)
            shares.append((counted(folder, "a") - reached) / (time.perf_counter() - began) / alone)

        for _ in range(3):
            (folder / "a-small").write_bytes(bytes(SMALL))
            incoming = f"unix:{folder}/emu.sock"
            with machine("emu", folder, "b", sizes, incoming), machine("emu", folder, "a", sizes, None) as source:
                while not counted(folder, "a"):
                    time.sleep(0.05)
                start, began = counted(folder, "a"), time.perf_counter()
                time.sleep(1.0)
                reached = counted(folder, "a")
                alone = (reached - start) / (time.perf_counter() - began)
                source("migrate", uri=incoming)
                watch(source)
    print(
        row(
            "guest speed while migrating / just before", (min(shares), statistics.median(shares), max(shares)), ">= 0.5"
        )
    )


def disk(rounds: int) -> None:
    """Time until the destination's acknowledgement that every byte is durable, against dd of the same bytes."""
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(dir=TMPFS) as name, tempfile.TemporaryDirectory(dir=Path.cwd()) as other:
        folder, slow = Path(name), Path(other)
        fill(folder, (SMALL, BULK), destination=False)
        for _ in range(rounds):
            (slow / "dd").unlink(missing_ok=True)
            began = time.perf_counter()
            source = folder / "a-bulk"
            subprocess.run(
                ["dd", f"if={source}", f"of={slow}/dd", "bs=1M", "conv=fdatasync", "status=none"], check=True
            )
            theirs.append(time.perf_counter() - began)
            (slow / "dd").unlink()
            (slow / "bulk").unlink(missing_ok=True)
            (folder / "b-bulk").unlink(missing_ok=True)
            (folder / "b-bulk").symlink_to(slow / "bulk")
            (slow / "bulk").touch()
            ours.append(migrate("emu", folder, (SMALL, BULK)).seconds)
    print(row("1 GiB to a disk file: our time / dd conv=fdatasync", ratio(ours, theirs), "<= 1.1"))


def growth() -> None:
    for size in (64 * MIB, 256 * MIB, BULK, 4 * BULK):
        with tempfile.TemporaryDirectory(dir=TMPFS) as name:
            folder = Path(name)
            fill(folder, (SMALL, size), destination=False)
            moved = migrate("emu", folder, (SMALL, size))
        seconds = f"{moved.seconds:6.2f} s, {moved.cpu:5.2f} s of processors"
        print(f"  {size // MIB:5d} MiB   {seconds}   downtime {moved.downtime_ms:4.0f} ms")


def main(rounds: int = 3) -> None:
    throughput(rounds, "unix", ">= 3.5")
    throughput(rounds, "tcp", ">= 1.2")
    disk(rounds)
    slow_down()
    print("cost by size, into a new file")
    growth()
