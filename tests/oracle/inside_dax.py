"""Runs inside the Linux of dax_vm: asks emu about real DAX mappings and reports in one JSON file.

usage: inside_dax.py REPORT EXT4_DIR XFS_DIR DEVICE_DAX
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any

from emu.cli.main import main
from emu.config import BackendConfig, OnOffAuto
from emu.memory import open_backend


def emu(*words: str) -> dict[str, Any]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*words, "--json"])
    text = out.getvalue()
    return {"status": status, "json": json.loads(text) if text else None, "err": err.getvalue()}


def vm_flags(address: int) -> list[str]:
    """The kernel's flags of the mapping that holds ``address``; ``sf`` is a MAP_SYNC mapping."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(part, 16) for part in first.split("-"))
            inside = low <= address < high
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    return []


def plain_shared_flags(path: Path) -> list[str]:
    """What the kernel says of a mapping without the flag, for contrast."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        target = next(line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path)))
        return vm_flags(int(target.split("-")[0], 16))


def backend(name: str, path: str, size: str | None) -> dict[str, Any]:
    where = f"file={path},sync=on" + (f",size={size}" if size else "")
    report: dict[str, Any] = {
        "probe": emu("probe", path if size is None else str(Path(path).parent)),
        "first": emu("run", "hello", "--nvdimm", where),
        "second": emu("run", "hello", "--nvdimm", where),
        "off": emu("run", "hello", "--nvdimm", where.replace("sync=on", "sync=off")),
        "labels": emu("run", "labels", "--nvdimm", f"{where},label-size=128K"),
    }
    if report["first"]["status"] != 0:
        return report  # the test shows why
    opened = open_backend(BackendConfig(id=name, path=path, share=True, sync=OnOffAuto.ON))
    report["flags"] = vm_flags(opened.mapping.address)
    opened.mapping.view[4096:4101] = b"words"
    opened.mapping.persist(4096, 5)
    opened.close()
    if size is not None:
        report["plain_flags"] = plain_shared_flags(Path(path))
    return report


# mov rbx, 4 GiB; byte [rbx + 1] = 7; byte [rbx + 2 MiB] = 8; byte [rbx + 2] = 9; hlt
_ORDER = bytes.fromhex("48bb0000000001000000c6430107c6830000200008c6430209f4")


def order(folder: str) -> dict[str, Any]:
    """Three stores by MAP_SYNC on a full file system, the second to a page without a block."""
    image, pool, fill = Path("/mnt/tmp/order.bin"), Path(folder, "order.img"), Path(folder, "fill")
    image.write_bytes(_ORDER)
    with pool.open("wb") as file:
        file.write(bytes(4096))
        file.truncate(4 << 20)
    with fill.open("wb") as file:
        step = 64 << 20
        while step >= 4096:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)
            except OSError:
                step //= 4
    ended = emu("run", str(image), "--nvdimm", f"file={pool},sync=on")
    fill.unlink()
    with pool.open("rb") as file:
        return {"run": ended, "kept": list(file.read(4))}


def report() -> None:
    target, ext4, xfs, device = sys.argv[1:]
    plain = "/mnt/tmp/plain.img"
    found = {
        "ext4": backend("ext4", f"{ext4}/pmem.img", "16M"),
        "xfs": backend("xfs", f"{xfs}/pmem.img", "16M"),
        "device": backend("device", device, None),
        "order": {"ext4": order(ext4), "xfs": order(xfs)},
        "tmpfs": emu("run", "hello", "--nvdimm", f"file={plain},size=16M,sync=on"),
        "tmpfs_auto": emu("run", "hello", "--nvdimm", f"file={plain},size=16M"),
    }
    Path(target).write_text(json.dumps(found))


if __name__ == "__main__":
    report()
