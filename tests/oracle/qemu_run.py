"""Runs a guest image under QEMU, and under emu with the same words, and reports what can be compared."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from emu.testing.commands import EMU
from tests.oracle.requirements import require

TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Nvdimm:
    """One NVDIMM in QEMU's words; ``size`` and ``label_size`` as QEMU takes them (``16M``), "" for no labels."""

    file: Path
    size: str = "16M"
    label_size: str = "128K"
    unarmed: bool = False
    slot: int | None = None

    def options(self, number: int) -> list[str]:
        backend = f"memory-backend-file,id=m{number},share=on,mem-path={self.file},size={self.size}"
        device = f"nvdimm,id=n{number},memdev=m{number}"
        device += f",label-size={self.label_size}" if self.label_size else ""
        device += ",unarmed=on" if self.unarmed else ""
        device += f",slot={self.slot}" if self.slot is not None else ""
        return ["-object", backend, "-device", device]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left: its serial text, its exit status and the bytes of each backing file."""

    serial: str
    status: int
    files: tuple[bytes, ...]


def machine_options(
    image: Path, nvdimms: tuple[Nvdimm, ...], *, append: str = "", persistence: str | None = None
) -> list[str]:
    """The options that both QEMU and ``emu run`` take."""
    machine = "q35,nvdimm=on" + (f",nvdimm-persistence={persistence}" if persistence else "")
    options = ["-machine", machine, "-m", "128M,slots=4,maxmem=4G"]
    for number, nvdimm in enumerate(nvdimms):
        options += nvdimm.options(number)
    options += ["-kernel", str(image), "-serial", "stdio", "-display", "none", "-no-reboot", "-nodefaults"]
    options += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    return options + (["-append", append] if append else [])


def _run(command: list[str], nvdimms: tuple[Nvdimm, ...], stdin: bytes) -> Outcome:
    """Run ``command``; ``stdin`` is typed only once the guest has printed its first line: firmware would swallow it."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        guard = threading.Timer(TIMEOUT_S, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            first = process.stdout.readline() if stdin else b""
            rest, _ = process.communicate(stdin)
        finally:
            guard.cancel()
            process.kill()
    files = tuple(nvdimm.file.read_bytes() for nvdimm in nvdimms)
    return Outcome((first + rest).decode(errors="replace"), process.returncode, files)


def run_qemu(
    image: Path,
    nvdimms: tuple[Nvdimm, ...] = (),
    *,
    append: str = "",
    persistence: str | None = None,
    stdin: bytes = b"",
    cpu: str | None = None,
) -> Outcome:
    """Boot ``image`` under QEMU's software emulation; skips the test when QEMU is missing."""
    qemu = require("qemu-system-x86_64", "qemu-system-x86")
    options = machine_options(image, nvdimms, append=append, persistence=persistence)
    return _run([qemu, *options, *(["-cpu", cpu] if cpu else [])], nvdimms, stdin)


def run_emu(
    image: Path,
    nvdimms: tuple[Nvdimm, ...] = (),
    *,
    append: str = "",
    persistence: str | None = None,
) -> Outcome:
    """Boot ``image`` under ``emu run`` with the very same words."""
    options = machine_options(image, nvdimms, append=append, persistence=persistence)
    return _run([*EMU, "run", *options], nvdimms, b"")
