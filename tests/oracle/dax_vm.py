"""A Linux with real DAX: Debian's kernel in QEMU's software emulation, the host's root file system over 9p.

No KVM, no root file system image, nothing installed: the kernel package is unpacked into a cache directory. Inside are

    /mnt/ext4      ext4 mounted with -o dax on an fsdax namespace
    /mnt/xfs       xfs mounted with -o dax on an fsdax namespace
    $DAX           a device DAX
    slot 3         an NVDIMM whose label area the caller brought, not touched

A command is run there with the host's files (Python, the virtual environment, this checkout) visible at the same paths,
read-only; /mnt and $TMPDIR, which lies in it, are the VM's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.oracle.requirements import missing, require

# In load order: each needs the ones before it.
_MODULES = (
    "crc32c_generic libcrc32c libnvdimm nfit nd_btt nd_pmem dax_pmem device_dax crc16 mbcache jbd2 ext4 xfs "
    "virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci netfs fscache 9pnet 9p 9pnet_virtio"
)
_MIB = 1 << 20
# 512 MiB regions behind 2 MiB of labels: a multiple of the 16 MiB region alignment, without which DAX is refused.
_SIZE = 514 * _MIB
_LABELS = 2 * _MIB

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /host /results
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do
  [ -f /modules/$module.ko ] && /bin/busybox insmod /modules/$module.ko
done
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  [ -e /dev/pmem0 ] && [ -e /dev/pmem1 ] && [ -e /dev/pmem2 ] && break
  /bin/busybox sleep 0.5
done
P=trans=virtio,version=9p2000.L,msize=512000
/bin/busybox mount -t 9p -o $P,cache=loose,ro host /host
/bin/busybox mount -t proc proc /host/proc
/bin/busybox mount -t sysfs sysfs /host/sys
/bin/busybox mount -t devtmpfs dev /host/dev
/bin/busybox mount -t tmpfs tmpfs /host/mnt
/bin/busybox mkdir -p /host/mnt/ext4 /host/mnt/xfs /host/mnt/results /host/mnt/tmp
/bin/busybox mount -t 9p -o $P results /host/mnt/results
/bin/busybox chroot /host /bin/bash /mnt/results/inside.sh > /host/mnt/results/output 2>&1
echo $? > /host/mnt/results/status
/bin/busybox sync
/bin/busybox poweroff -f
"""

_INSIDE = """export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/mnt/tmp TMPDIR=/mnt/tmp
set -e
{setup}
{command}
"""

SETUP = """
region() {  # the region number of the NVDIMM in slot $1; Linux numbers regions in the order of the NFIT
  for dimm in /sys/bus/nd/devices/nmem*; do
    [ $(($(cat $dimm/nfit/handle))) = $(($1 + 1)) ] || continue
    mapping=$(grep -l "^${dimm##*/}," /sys/bus/nd/devices/region*/mapping0)
    basename $(dirname $mapping) | tr -dc 0-9
  done
}
dimm() {  # the nmem name of the NVDIMM in slot $1
  for dimm in /sys/bus/nd/devices/nmem*; do
    [ $(($(cat $dimm/nfit/handle))) = $(($1 + 1)) ] && basename $dimm
  done
}
labelled() {  # give the NVDIMM in slot $1 labels of version $2, as an administrator would
  ndctl disable-region region$(region $1)
  ndctl init-labels -f -V $2 $(dimm $1)
  ndctl enable-region region$(region $1)
}
A=$(region 0) B=$(region 1) C=$(region 2)
{ labelled 0 1.1
  labelled 1 1.2
  ndctl create-namespace -r region$A -m fsdax -M mem -n first
  ndctl create-namespace -r region$B -m fsdax -M mem -n second
  ndctl create-namespace -f -e namespace$C.0 -m devdax -M mem
  mkfs.ext4 -q -b 4096 /dev/pmem$A
  mkfs.xfs -q -m reflink=0 /dev/pmem$B
  mount -o dax /dev/pmem$A /mnt/ext4
  mount -o dax /dev/pmem$B /mnt/xfs
} >/mnt/results/setup.log 2>&1
DAX=/dev/dax$C.0
"""


@dataclass(frozen=True)
class Result:
    """What the command printed (both streams), its exit status, the console; ``backings`` are the NVDIMM files."""

    output: str
    status: int
    console: str
    results: Path
    backings: tuple[Path, ...]


def _unpacked_kernel() -> tuple[Path, Path]:
    """(vmlinuz, modules directory) of Debian's kernel, unpacked into the cache directory."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emu" / "linux"
    if not list(cache.glob("boot/vmlinuz-*")):
        require("dpkg-deb", "dpkg")
        names = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True).stdout
        package = next((line.split()[1] for line in names.splitlines() if "Depends: linux-image-" in line), None)
        if package is None:
            missing("Debian's kernel package", "on Debian: apt-get update, then run this again")
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as work:
            got = subprocess.run(["apt-get", "download", "-q", str(package)], cwd=work, capture_output=True, text=True)
            archives = list(Path(work).glob("*.deb"))
            if got.returncode or not archives:
                missing(f"the kernel package {package}", "on Debian: apt-get update, then run this again")
            subprocess.run(["dpkg-deb", "-x", str(archives[0]), f"{work}/root"], check=True)
            shutil.rmtree(cache, ignore_errors=True)
            Path(work, "root").rename(cache)
    image = next(iter(sorted(cache.glob("boot/vmlinuz-*"))))
    return image, next(iter(sorted(cache.glob("lib/modules/*"))))


def _initramfs(target: Path, modules: Path, work: Path) -> None:
    root = work / "initramfs"
    (root / "bin").mkdir(parents=True)
    (root / "modules").mkdir()
    shutil.copy2(require("busybox", "busybox-static"), root / "bin" / "busybox")
    known = {path.stem: path for path in modules.rglob("*.ko")}
    for name in _MODULES.split():
        if name in known:
            shutil.copy2(known[name], root / "modules" / f"{name}.ko")
    init = root / "init"
    init.write_text(_INIT.format(modules=_MODULES))
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
    packed = subprocess.run(
        [require("cpio", "cpio"), "-o", "-H", "newc", "--quiet"],
        input=names.encode(),
        cwd=root,
        capture_output=True,
        check=True,
    )
    target.write_bytes(packed.stdout)


def run(command: str, work: Path, *, labels: Path | None = None, setup: str = SETUP, timeout: float = 600) -> Result:
    """Boot, set the three backends up, run the shell text ``command`` and power off.

    ``labels`` is a backing file of 514 MiB with a 2 MiB label area at its end, given to the VM as the fourth NVDIMM.
    Files written to /mnt/results inside are in ``Result.results``. ``work`` is an empty directory for all of it.
    """
    qemu = require("qemu-system-x86_64", "qemu-system-x86")
    require("ndctl", "ndctl")
    require("mkfs.ext4", "e2fsprogs")
    require("mkfs.xfs", "xfsprogs")
    kernel, modules = _unpacked_kernel()
    results = work / "results"
    results.mkdir(parents=True)
    (results / "inside.sh").write_text(_INSIDE.format(setup=setup, command=command))
    _initramfs(work / "initrd", modules, work)
    backings = []
    for number in range(3):
        path = work / f"nvdimm{number}"
        with path.open("wb") as file:
            file.truncate(_SIZE)
        backings.append(path)
    if labels is not None:
        backings.append(labels)
    words = [qemu, "-machine", "q35,accel=tcg,nvdimm=on", "-smp", "2", "-cpu", "max", "-m", "2G,slots=4,maxmem=8G"]
    for number, path in enumerate(backings):
        words += ["-object", f"memory-backend-file,id=m{number},share=on,mem-path={path},size={_SIZE}"]
        words += ["-device", f"nvdimm,memdev=m{number},label-size={_LABELS}"]
    words += ["-nographic", "-no-reboot", "-nic", "none", "-kernel", str(kernel), "-initrd", str(work / "initrd")]
    words += ["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"]
    words += ["-virtfs", f"local,path={results},mount_tag=results,security_model=none,multidevs=remap"]
    words += ["-append", "console=ttyS0 quiet panic=-1"]
    ran = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=timeout
    )
    output, status = results / "output", results / "status"
    if not status.exists():
        setup_log = results / "setup.log"
        detail = setup_log.read_text() if setup_log.exists() else ""
        raise AssertionError(f"the Linux guest did not finish:\n{ran.stdout[-4000:]}\n{ran.stderr[-2000:]}\n{detail}")
    return Result(output.read_text(), int(status.read_text()), ran.stdout, results, tuple(backings))
