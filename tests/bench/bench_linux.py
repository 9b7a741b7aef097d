"""Linux: boot, command and power-off against QEMU TCG (same kernel, initial RAM disk, command line), and recoveries.

The kernel is the newest that ``emu run linux`` finds; EMU_KERNEL names another, such as the small one of
guest/linux/build-kernel.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from emu.config import BackendConfig, MachineConfig, NvdimmConfig, OnOffAuto
from emu.errors import UsageError
from emu.linux import kernel
from emu.linux.prepare import Request, prepare
from emu.linux.protocol import Role
from emu.persistence.lab.explore import Settled
from emu.persistence.lab.linux import Scene
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.workload import Contents, record
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import build
from emu.testing.commands import EMU
from emu.units import MIB
from tests.bench.measure import Run, ratio, row, run

_ROUNDS = 5
_SIZE = 32 * MIB
_COUNTER = Path(__file__).parents[1] / "oracle" / "programs" / "counter.c"


def _machine(folder: Path) -> MachineConfig:
    backend = BackendConfig(id="m", path=str(folder / "p.img"), size=_SIZE, share=True, sync=OnOffAuto.OFF)
    dimms = (NvdimmConfig(backend=backend),)
    return MachineConfig(ram_size=256 * MIB, slots=1, max_memory=1024 * MIB, nvdimms=dimms)


def _against_qemu(folder: Path) -> None:
    words = ["run", "linux", "--quiet", "-m", "256M,slots=1,maxmem=1G", "--exec"]
    nvdimm = ["--nvdimm", f"file={folder / 'p.img'},size={_SIZE}"]
    emu = [*EMU, *words, "uname -a", *nvdimm]
    run(emu)  # which makes the file system
    with contextlib.ExitStack() as stack:
        made = prepare(Request(commands={Role.EXEC: "uname -a"}), _machine(folder), stack)
    assert isinstance(made.config.initrd, bytes)
    (folder / "initrd").write_bytes(made.config.initrd)
    qemu = ["qemu-system-x86_64", "-machine", "q35,nvdimm=on,accel=tcg", "-m", "256M,slots=1,maxmem=1G"]
    qemu += ["-display", "none", "-no-reboot", "-nodefaults", "-kernel", made.kernel.path]
    qemu += ["-initrd", str(folder / "initrd"), "-append", made.config.cmdline]
    qemu += ["-object", f"memory-backend-file,id=m,share=on,mem-path={folder / 'p.img'},size={_SIZE}"]
    qemu += ["-device", "nvdimm,memdev=m", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    qemu += ["-serial", "null", "-debugcon", f"file:{folder / 'out'}"]
    figures: dict[str, list[Run]] = {"emu": [], "qemu": []}
    for _ in range(_ROUNDS):
        figures["emu"].append(run(emu))
        figures["qemu"].append(run(qemu))
        assert (folder / "out").read_bytes().startswith(b"Linux "), "QEMU's guest has not run its command"
    for what, target, of in (
        ("wall time of uname -a, emu / QEMU", "< 3, then < 2", lambda one: one.wall),
        ("processor time of that, emu / QEMU", "< 3, then < 2", lambda one: one.cpu),
        ("peak memory of that, emu / QEMU", "<= 1", lambda one: float(one.peak)),
    ):
        ours, theirs = ([of(one) for one in figures[name]] for name in ("emu", "qemu"))
        print(row(what, ratio(ours, theirs), target))


def _recoveries(folder: Path, name: str, commands: dict[Role, str], target: str) -> None:
    """Recoveries in a second of processor time, from one snapshot, on what the workload leaves."""
    (folder / name).mkdir()
    config = replace(_machine(folder / name))
    with contextlib.ExitStack() as stack:
        made = prepare(Request(commands=commands), config, stack)
        workload = record(made.config, timeout=300, scene=Scene(made, True, folder / name))
        assert workload.began_with is not None
        timeline = build(workload.events, Rules())
        initial = Contents(workload.began_with, workload.dimms)
        stack.callback(initial.close)
        recovery = MachineRecovery(workload.began_with, budget=300_000_000, linux=True)
        stack.callback(recovery.close)
        tracked, point = frozenset(timeline.units), timeline.points[-1].number
        settled = Settled(timeline, initial, point)
        rates = []
        for number in range(4):
            began = time.process_time()
            for _ in range(10):
                ended = recovery.run(tracked, lambda unit, mask: initial(unit) & mask, settled)
                assert ended.verdict.ok, ended.verdict
            if number:  # the first ones translate the code
                rates.append(10 / (time.process_time() - began))
        print(f"{name:<44} {sorted(rates)[1]:6.1f}   ({min(rates):.1f} to {max(rates):.1f})   target {target}")


def main() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        print("QEMU is missing (on Debian: apt-get install qemu-system-x86)")
        return
    try:
        found = kernel.find(None)
    except UsageError as error:
        print(error)
        return
    print(f"kernel {found.path}")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _against_qemu(folder)
        reading = {Role.SETUP: "echo data > /pmem/a", Role.EXEC: "echo more >> /pmem/a", Role.RECOVERY: "cat /pmem/a"}
        _recoveries(folder, "recoveries a second: mount, read a file", reading, ">= 100 with the small kernel")
        if not Path("/usr/include/libpmemobj.h").exists():
            print("libpmemobj is missing (on Debian: apt-get install libpmemobj-dev)")
            return
        counter = folder / "counter"
        subprocess.run(["gcc", "-O1", "-o", counter, _COUNTER, "-lpmemobj"], check=True)
        counting = {role: str(counter) for role in (Role.SETUP, Role.EXEC, Role.RECOVERY)}
        _recoveries(folder, "recoveries a second: mount, pmemobj_open", counting, ">= 10 with the small kernel")
