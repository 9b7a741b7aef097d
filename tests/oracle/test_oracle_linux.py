"""The distribution's own Linux, unmodified, judges emu's machine; QEMU runs the same initial RAM disk beside it."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from emu.devices.nvdimm import infoblock
from emu.devices.nvdimm.namespace import Mode
from emu.linux import kallsyms, kernel
from emu.linux.namespaces import NO_UUID, FileSystem
from emu.testing.commands import EMU
from emu.units import KIB, MIB
from tests.oracle.linux_machines import compile_program, file_in, require_kernel, run_both
from tests.oracle.requirements import require

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def _kernel() -> None:
    require_kernel()
    require("qemu-system-x86_64", "qemu-system-x86")


def run_linux(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*EMU, "run", "linux", "--quiet", "--timeout", "280", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True)


def test_uname_and_the_file_system_are_those_of_the_kernel(tmp_path: Path) -> None:
    words = "uname -a; grep ' /pmem ' /proc/mounts; tr a-z A-Z; echo trouble >&2; dmesg -l emerg,alert,crit,err; exit 3"
    done = run_linux("--nvdimm", f"file={tmp_path / 'p'},size=64M", "--exec", words, stdin=b"typed\n" * 3000)
    lines = done.stdout.decode().splitlines()
    assert re.match(r"Linux emu \d+\.\d+\S* #1 SMP .* x86_64", lines[0])
    assert re.match(r"/dev/pmem0 /pmem ext4 \S*\bdax\b", lines[1])
    assert lines[2:3002] == ["TYPED"] * 3000
    assert done.stderr == b"trouble\n"
    assert done.returncode == 7
    assert lines[3002:] == [], "the kernel has found an error in the machine"


def test_programs_and_files_of_any_size_have_room(tmp_path: Path) -> None:
    """What is added lies in RAM twice while Linux unpacks it."""
    (tmp_path / "large").write_bytes(random.Random(1).randbytes(90 << 20))
    added = ("--add", f"{tmp_path / 'large'}:/large")
    done = run_linux("--nvdimm", f"file={tmp_path / 'p'},size=64M", *added, "--exec", "cksum < /large")
    with (tmp_path / "large").open("rb") as large:
        expected = subprocess.run(["cksum"], stdin=large, capture_output=True, check=True)
    assert (done.returncode, done.stdout) == (0, expected.stdout)


@pytest.mark.parametrize(("use", "label_size"), [(FileSystem.NONE, 0), (FileSystem.EXT4, 128 * KIB)])
def test_ndctl_and_sysfs_say_the_same_on_both(tmp_path: Path, use: FileSystem, label_size: int) -> None:
    require("ndctl", "ndctl")
    words = "ndctl list -BDRN; cd /sys/bus/nd/devices; for f in */*; do test -f $f && echo $f: $(cat $f 2>&1); done"
    emu, qemu = run_both(tmp_path, words, use=use, label_size=label_size)
    assert emu.out.startswith("[") or emu.out.startswith("{")
    assert "namespace0.0" in emu.out
    assert emu.out == qemu.out
    assert (emu.errors, emu.status) == (qemu.errors, qemu.status)


@pytest.mark.parametrize(("use", "size"), [(FileSystem.EXT4, 64 * MIB), (FileSystem.XFS, 304 * MIB)])
def test_programs_print_and_leave_the_same_on_both(tmp_path: Path, use: FileSystem, size: int) -> None:
    mapsync = compile_program("mapsync", tmp_path)
    persist = compile_program("persist", tmp_path, "libpmem")
    counter = compile_program("counter", tmp_path, "libpmemobj")
    words = f"{mapsync}; {persist}; {counter}; {counter}; echo text > /pmem/new; mv /pmem/new /pmem/file; "
    words += "df -T /pmem | tail -1; ls -l /no-such-file; exit 5"
    emu, qemu = run_both(tmp_path, words, use=use, size=size)
    out, _, kind = emu.out.rpartition("/dev/pmem0 ")
    assert kind.split()[0] == use
    assert out == (
        "/pmem/synced: MAP_SYNC granted\n/tmp/not: MAP_SYNC Operation not supported\n"
        'is_pmem 1, 4096 bytes, ""\n'
        "began at 0, is at 3\nbegan at 3, is at 6\n"
    )
    assert "no-such-file" in emu.errors
    assert emu.status == 11
    assert (emu.out, emu.errors, emu.status) == (qemu.out, qemu.errors, qemu.status)
    for path, content in (
        ("/file", b"text\n"),
        ("/mapped", b"persisted".ljust(4096, b"\0")),
        ("/synced", b"stored".ljust(4096, b"\0")),
    ):
        assert file_in(emu.nvdimm, path, tmp_path) == file_in(qemu.nvdimm, path, tmp_path) == content


def test_device_dax_is_left_with_the_same_bytes_on_both(tmp_path: Path) -> None:
    persist = compile_program("persist", tmp_path, "libpmem")
    emu, qemu = run_both(tmp_path, f"{persist} /dev/dax0.0 && {persist} /dev/dax0.0", use=FileSystem.DEVDAX)
    assert emu.out == 'is_pmem 1, 65011712 bytes, ""\nis_pmem 1, 65011712 bytes, "persisted"\n'
    assert (emu.out, emu.errors, emu.status) == (qemu.out, qemu.errors, qemu.status) == (emu.out, "", 0)
    assert emu.nvdimm == qemu.nvdimm
    assert emu.nvdimm[2 * MIB :][:10] == b"persisted\0"


def test_device_dax_and_json(tmp_path: Path) -> None:
    image = tmp_path / "p"
    done = run_linux("--nvdimm", f"file={image},size=64M", "--fs", "devdax", "--json", "--exec", "daxctl list")
    document = json.loads(done.stdout)
    assert json.loads(document["stdout"])[0]["chardev"] == "dax0.0"
    assert document["exit"] == {"reason": "power-off", "status": 0, "code": None}
    assert done.returncode == 0
    assert document["stderr"] == ""


def test_xfs_is_kept_from_run_to_run(tmp_path: Path) -> None:
    dimm = f"file={tmp_path / 'p'},size=320M"
    assert run_linux("--nvdimm", dimm, "--fs", "xfs", "--exec", "echo kept > /pmem/a").returncode == 0
    again = run_linux("--nvdimm", dimm, "--exec", "cat /pmem/a; grep -o 'xfs .*dax=always' /proc/mounts")
    assert again.stdout.startswith(b"kept\nxfs ")


def test_info_block_is_the_one_that_linux_writes(tmp_path: Path) -> None:
    """``ndctl create-namespace`` in the guest, byte for byte."""
    require("ndctl", "ndctl")
    image = tmp_path / "p"
    words = "ndctl create-namespace -f -e namespace0.0 -m fsdax -M mem"
    done = run_linux("--nvdimm", f"file={image},size=64M", "--fs", "none", "--exec", words)
    assert done.returncode == 0, done.stderr
    raw = image.read_bytes()[infoblock.OFFSET :][: infoblock.SIZE]
    theirs = infoblock.read(raw, NO_UUID)
    assert theirs is not None
    assert theirs.uuid != uuid.UUID(int=0)
    assert infoblock.make(Mode.FSDAX, 1 << 32, 64 * MIB, theirs.uuid, NO_UUID).pack() == raw


def test_names_in_the_kernel_are_those_that_it_shows_itself() -> None:
    path = kernel.find(None).path
    some = "grep -E ' [tTwW] [a-z_]*(pmem|dax|ext4|memcpy)[a-z_]*$' /proc/kallsyms | cut -d' ' -f1 > /tmp/some"
    done = run_linux("--fs", "none", "--exec", f"{some}; grep -F -f /tmp/some /proc/kallsyms | grep ' [tTwW] '")
    shown: dict[int, list[str]] = {}
    for address, _, name in map(str.split, done.stdout.decode().splitlines()):
        shown.setdefault(int(address, 16), []).append(name)
    found = kallsyms.of_file(path)
    assert found is not None
    assert len(shown) > 20
    for at, names in shown.items():
        inside = found.function(at + 1)
        assert inside is not None
        assert (inside, inside) == ((at, inside[1], max(names)), found.function(at))


def test_panic_is_a_failure_with_its_words(tmp_path: Path) -> None:
    done = run_linux("--exec", "echo c > /proc/sysrq-trigger")
    assert done.returncode == 6
    assert b"emu: panic: Kernel panic - not syncing: sysrq triggered crash" in done.stderr
    assert b"sysrq: Trigger a crash" in done.stderr


def test_kernel_without_an_init_panics(tmp_path: Path) -> None:
    path = kernel.find(None).path
    words = [
        sys.executable,
        "-m",
        "emu",
        "run",
        path,
        "-m",
        "256M",
        "-append",
        "console=ttyS0 quiet",
        "--timeout",
        "280",
    ]
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 6, done
    assert b"emu: panic: Kernel panic - not syncing: VFS: Unable to mount root fs" in done.stderr


def test_shell_on_a_terminal(tmp_path: Path) -> None:
    """Ctrl-C is the guest's, and the shell's status emu's."""
    ours, theirs = pty.openpty()
    # As for a shell's user: the terminal is the one that controls emu, or keys would stay the terminal's.
    command = ["setsid", "--ctty", *EMU, "run", "linux", "--quiet", "--timeout", "280"]
    seen = b""
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        for answer, typed in (
            (b"# ", b"(echo here; sleep 1000)\n"),
            (b"here\r", b"\x03"),  # said by who is to be interrupted: before, Ctrl-C would only be the shell's
            (b"^C", b"echo $((6 * 7)); exit 4\n"),
        ):
            while answer not in seen:
                seen += os.read(ours, 4096)
            os.write(ours, typed)
            seen = b""
        while True:
            try:
                seen += os.read(ours, 4096)
            except OSError:  # EIO: the last one has closed it
                break
        assert process.wait() == 9
    os.close(ours)
    # The guest's terminal makes CR LF of a line's end, and the host's another CR.
    assert b"\r\n42\r\n" in seen.replace(b"\r\r\n", b"\r\n")
