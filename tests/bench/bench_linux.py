"""Linux: boot, command and power-off against QEMU TCG (same kernel, initial RAM disk, command line), and recoveries.

The kernel is the newest that ``emu run linux`` finds; EMU_KERNEL names another, such as the small one of
guest/linux/build-kernel.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from emu.config import BackendConfig, MachineConfig, NvdimmConfig, OnOffAuto
from emu.errors import HostError, UsageError
from emu.linux import kernel
from emu.linux.prepare import Request, prepare
from emu.linux.protocol import Role
from emu.persistence.lab.explore import Settled
from emu.persistence.lab.linux import Scene
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.workload import Contents, record
from emu.persistence.model.crashstate import CrashState
from emu.persistence.model.rules import Rules
from emu.persistence.model.timeline import Timeline, build
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
    """Recoveries in a second of processor time: of each crash point in turn, as if nothing pending had persisted. First
    all from one snapshot before the mount, then as the laboratory does: from where another one had read the same.
    """
    (folder / name).mkdir()
    config = replace(_machine(folder / name))
    with contextlib.ExitStack() as stack:
        made = prepare(Request(commands=commands), config, stack)
        workload = record(made.config, timeout=300, scene=Scene(made, True, folder / name))
        assert workload.begun is not None
        timeline = build(workload.events, Rules())
        initial = Contents(workload.begun.config, workload.dimms)
        stack.callback(initial.close)
        tracked = frozenset(timeline.units)
        for kind, what, least in ((_FromTheMount, "from the mount on", ""), (MachineRecovery, name, target)):
            with contextlib.closing(
                kind(workload.begun.config, budget=300_000_000, linux=workload.begun.booted)
            ) as recovery:
                rates = []
                for number in range(_ROUNDS):
                    began = time.process_time()
                    for point in timeline.points:
                        _recover(recovery, tracked, timeline, initial, point.number)
                    if number:  # the first ones translate the code
                        rates.append(len(timeline.points) / (time.process_time() - began))
                low, high = min(rates), max(rates)
                print(f"{what:<44} {statistics.median(rates):6.1f}   ({low:.1f} to {high:.1f})   {least}")


class _FromTheMount(MachineRecovery):
    """Every run begins before the mount."""

    def _begin_anew(self, tracked: frozenset[int]) -> None:
        pass


def _recover(
    recovery: MachineRecovery, tracked: frozenset[int], timeline: Timeline, initial: Contents, point: int
) -> None:
    """One recovery on the oldest memory that a power failure at ``point`` can leave."""
    state = CrashState.at(timeline, point, initial)

    def answer(unit: int, mask: int) -> int:
        nonlocal state
        value, state = state.read(unit, mask)[0]
        return value

    ended = recovery.run(tracked, answer, Settled(timeline, initial, point))
    assert ended.verdict.ok, ended.verdict


def main() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        print("QEMU is missing (on Debian: apt-get install qemu-system-x86)")
        return
    try:
        found = kernel.find(None)
    except (HostError, UsageError) as error:
        print(error)
        return
    print(f"kernel {found.path}")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _against_qemu(folder)
        reading = {Role.SETUP: "echo data > /pmem/a", Role.EXEC: "echo more >> /pmem/a", Role.RECOVERY: "cat /pmem/a"}
        _recoveries(folder, "recoveries a second: mount, read a file", reading, "target >= 100 with the small kernel")
        if not Path("/usr/include/libpmemobj.h").exists():
            print("libpmemobj is missing (on Debian: apt-get install libpmemobj-dev)")
            return
        counter = folder / "counter"
        subprocess.run(["gcc", "-O1", "-o", counter, _COUNTER, "-lpmemobj"], check=True)
        counting = {role: str(counter) for role in (Role.SETUP, Role.EXEC, Role.RECOVERY)}
        _recoveries(folder, "recoveries a second: mount, pmemobj_open", counting, "target >= 10 with the small kernel")
