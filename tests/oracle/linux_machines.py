"""Linux on emu and on QEMU: the same kernel, initial RAM disk, command line and NVDIMM, and what each leaves."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from emu import board
from emu.config import BackendConfig, MachineConfig, NvdimmConfig, OnOffAuto
from emu.errors import HostError
from emu.linux import kernel
from emu.linux.conversation import Conversation, Log
from emu.linux.namespaces import FileSystem
from emu.linux.prepare import Prepared, Request, prepare
from emu.linux.protocol import Role
from emu.units import KIB, MIB
from tests.oracle.requirements import missing, require

PROGRAMS = Path(__file__).with_name("programs")
SIZE = 64 * MIB
TIMEOUT_S = 280


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command printed, its exit status as emu and QEMU give it, and the NVDIMM's bytes."""

    out: str
    errors: str
    status: int
    nvdimm: bytes


def require_kernel() -> None:
    try:
        kernel.find(None)
    except HostError:
        missing("a Linux kernel", "on Debian: apt-get install linux-image-amd64")


def compile_program(name: str, folder: Path, *libraries: str) -> Path:
    """tests/oracle/programs/NAME.c as a dynamic program; skipped without gcc or the libraries' headers."""
    gcc = require("gcc", "gcc")
    for library in libraries:
        if not Path(f"/usr/include/{library}.h").exists():
            missing(f"{library}.h", f"on Debian: apt-get install {library}-dev")
    path = folder / name
    options = [f"-l{library.removeprefix('lib')}" for library in libraries]
    subprocess.run([gcc, "-O1", "-o", path, PROGRAMS / f"{name}.c", *options], check=True)
    return path


def prepared(
    folder: Path,
    command: str,
    stack: contextlib.ExitStack,
    *,
    use: FileSystem | None = None,
    label_size: int = 0,
    size: int = SIZE,
) -> Prepared:
    """A machine with one NVDIMM on ``folder``/emu.img that runs ``command``. UUIDs are the same each time."""
    backend = BackendConfig(id="m", path=str(folder / "emu.img"), size=size, share=True, sync=OnOffAuto.OFF)
    config = MachineConfig(
        ram_size=256 * MIB,
        slots=1,
        max_memory=1024 * MIB,
        nvdimms=(NvdimmConfig(backend=backend, label_size=label_size),),
    )
    numbers = iter(range(1, 100))
    return prepare(
        Request(None, use, commands={Role.EXEC: command}), config, stack, lambda: uuid.UUID(int=next(numbers))
    )


def run_both(
    folder: Path, command: str, *, use: FileSystem | None = None, label_size: int = 0, size: int = SIZE
) -> tuple[Ran, Ran]:
    """(on emu, on QEMU), beginning with the same NVDIMM."""
    with contextlib.ExitStack() as stack:
        made = prepared(folder, command, stack, use=use, label_size=label_size, size=size)
        return _on_emu(folder, made), _on_qemu(folder, made, label_size)


def _on_emu(folder: Path, made: Prepared) -> Ran:
    out, errors, log = bytearray(), bytearray(), Log()
    talk = Conversation(log, out.extend, lambda: None)
    outputs = board.Outputs(talk.write_serial, out.extend, errors.extend, talk)
    with board.build(made.config, outputs) as machine:
        made.format(machine)
        shutil.copyfile(folder / "emu.img", folder / "qemu.img")
        ended = machine.run(TIMEOUT_S)
    assert talk.ended is not None, (ended, log.text[-2000:], errors)
    return Ran(out.decode(), errors.decode(), ended.status, (folder / "emu.img").read_bytes())


def _on_qemu(folder: Path, made: Prepared, label_size: int) -> Ran:
    assert isinstance(made.config.initrd, bytes)
    (folder / "initrd").write_bytes(made.config.initrd)
    labels = f",label-size={label_size}" if label_size else ""
    command = [require("qemu-system-x86_64", "qemu-system-x86"), "-machine", "q35,nvdimm=on,accel=tcg"]
    command += ["-m", "256M,slots=1,maxmem=1G", "-display", "none", "-no-reboot", "-nodefaults"]
    command += ["-kernel", made.kernel.path, "-initrd", f"{folder / 'initrd'}", "-append", made.config.cmdline]
    command += [
        "-object",
        f"memory-backend-file,id=m,share=on,mem-path={folder / 'qemu.img'},size={made.config.nvdimms[0].backend.size}",
    ]
    command += ["-device", f"nvdimm,memdev=m{labels}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    command += ["-serial", f"file:{folder / 'console'}", "-debugcon", f"file:{folder / 'out'}"]
    command += ["-chardev", f"file,id=errors,path={folder / 'errors'}"]
    command += ["-device", "isa-debugcon,iobase=0xea,chardev=errors"]
    done = subprocess.run(command, timeout=TIMEOUT_S, capture_output=True)
    assert done.stderr == b""
    return Ran(
        (folder / "out").read_text(),
        (folder / "errors").read_text(),
        done.returncode,
        (folder / "qemu.img").read_bytes(),
    )


def file_in(nvdimm: bytes, path: str, folder: Path) -> bytes:
    """The content of ``path`` in the file system on the NVDIMM, as debugfs reads it or xfs_db says where it is."""
    image = folder / "file-system"
    image.write_bytes(nvdimm[2 * MIB :])
    if nvdimm[2 * MIB :][:4] == b"XFSB":
        return _file_in_xfs(image, path)
    debugfs = require("debugfs", "e2fsprogs")
    return subprocess.run([debugfs, "-R", f"cat {path}", image], capture_output=True, check=True).stdout


def _file_in_xfs(image: Path, path: str) -> bytes:
    xfs_db = require("xfs_db", "xfsprogs")
    words = ["-c", "sb 0", "-c", "print agblocks", "-c", f"path {path}", "-c", "print core.size", "-c", "bmap"]
    done = subprocess.run([xfs_db, "-r", *words, image], capture_output=True, check=True, text=True)
    (group_blocks,), (size,) = (
        re.findall(rf"^{name} = (\d+)", done.stdout, re.M) for name in ("agblocks", "core.size")
    )
    content = b""
    with image.open("rb") as file:
        for group, block, count in re.findall(r"\((\d+)/(\d+)\) count (\d+)", done.stdout):
            file.seek((int(group) * int(group_blocks) + int(block)) * 4 * KIB)
            content += file.read(int(count) * 4 * KIB)
    return content[: int(size)]
