"""Every place for a file, in every verb, is given what is no file to work with: one message, nothing left, no wait."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.cli.main import main
from emu.host import files, inputs

MIB = 1 << 20
GUEST = "guest --nvdimm file=pool"
LINUX = "linux --exec true --nvdimm file=pool"
QEMU = ("guest -machine q35,nvdimm=on -m 64M,slots=2,maxmem=1G -device nvdimm,memdev=m "
        "-object memory-backend-file,id=m,size=2M,share=on,mem-path=ODD")  # fmt: skip
READ = (
    "run ODD",
    "run -kernel ODD",
    "run guest -initrd ODD",
    "run guest --config ODD",
    "run guest --nvdimm file=ODD",
    "run guest --nvdimm file=ODD,size=2M",
    "run guest --nvdimm file=ODD,readonly=on,unarmed=on",
    f"run {QEMU}",
    "run --quiet -serial none --incoming file:ODD --nvdimm file=pool --timeout 1",
    "run linux --kernel ODD --exec true",
    "run linux --add ODD --exec true",
    "run linux --exec ./ODD",
    "crash ODD --nvdimm file=pool",
    "crash guest --nvdimm file=ODD",
    "crash guest --nvdimm file=ODD,size=2M",
    f"crash {GUEST} --recover ODD",
    f"crash {GUEST} -initrd ODD",
    f"crash {GUEST} --config ODD",
    f"crash {GUEST} --suppress ODD",
    f"crash {GUEST} --baseline ODD",
    f"crash {LINUX} --kernel ODD",
    f"crash {LINUX} --setup ./ODD",
    f"crash {LINUX} --recover ./ODD",
    "crash diff ODD document",
    "crash diff document ODD",
    "debug ODD --nvdimm file=pool",
    "debug guest --nvdimm file=ODD",
    "debug guest --nvdimm file=pool --recover ODD",
    "probe ODD",
    "label init ODD",
    "label read ODD",
    "label check ODD",
    "label zero ODD",
    "label create-namespace ODD",
    f"label destroy-namespace ODD {'ab' * 16}",
    "label write ODD -i dump",
    "label write pool -i ODD",
    "acpi show --nvdimm file=ODD",
    "acpi show -initrd ODD",
    "migrate file:snapshot --qmp absent --config ODD",
    "learn --lessons ODD",
)
WRITTEN = (
    "run guest -serial file:ODD",
    "run guest -debugcon file:ODD",
    f"crash {GUEST} --resume ODD",
    f"crash {GUEST} --html ODD",
    f"crash {GUEST} --sarif ODD",
    f"crash {GUEST} --junit ODD",
    f"crash {GUEST} --export ODD",
    "label read pool -o ODD",
    "acpi dump --table DSDT -o ODD",
    "learn --folder ODD",
    "new ODD",
)
SOCKETS = (
    "run --quiet -serial none --incoming unix:ODD --timeout 1",
    "run guest -serial unix:ODD,server=on,wait=off",
    "run guest -qmp unix:ODD,server=on,wait=off",
    "run guest -gdb unix:ODD --timeout 1",
    "debug guest --nvdimm file=pool -gdb unix:ODD --timeout 1",
    "migrate file:snapshot --qmp ODD",
)
ODD = ("fifo", "socket", "folder", "null", "/proc/self/mem", "/proc/cpuinfo", "dangling", "loop", "unreadable", "empty")
TAKEN = {
    **{line: {"empty"} for line in READ if "size=2M" in line or "--config" in line or "--suppress" in line},
    "run linux --add ODD --exec true": {"folder", "empty"},
    "probe ODD": {"folder", "empty"},
    **{line: {"null", "fifo", "empty"} for line in WRITTEN if line.startswith("run")},
    **{line: {"null", "empty"} for line in WRITTEN if not line.startswith("run")},
    f"crash {GUEST} --resume ODD": set(),
    f"crash {GUEST} --export ODD": {"folder", "dangling"},
    "learn --folder ODD": {"folder", "dangling"},
    "new ODD": set(),
    **{line: {"socket"} for line in SOCKETS if not line.startswith("migrate")},  # one that was left behind is replaced
}
"""What is right where it is: other tests say what it does there."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # A FIFO that nobody opens at its other end is given up.
    monkeypatch.setattr(inputs, "PATIENCE_S", 0.05)
    monkeypatch.setattr(files, "READER_S", 0.05)
    for name, content in (
        ("guest", b"\xf4"),
        ("document", b"{}"),
        ("dump", bytes(128 << 10)),
        ("pool", bytes(2 * MIB)),
    ):
        (tmp_path / name).write_bytes(content)
    os.mkfifo("fifo")
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind("socket")
    Path("folder").mkdir()
    with contextlib.suppress(OSError):  # only root may; without it the name leads to nothing
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    Path("dangling").symlink_to("nowhere/file")
    Path("loop").symlink_to("loop")
    Path("unreadable").write_bytes(b"secret")
    Path("unreadable").chmod(0)
    Path("empty").touch()
    return tmp_path


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {
        path.name: (status.st_ino, status.st_mode, path.read_bytes() if stat.S_ISREG(status.st_mode) else b"")
        for path, status in found.items()
    }


@contextlib.contextmanager
def no_power_over_files() -> Iterator[None]:
    """For root, what everybody else has: files that cannot be read (capabilities(7): CAP_DAC_OVERRIDE and
    CAP_DAC_READ_SEARCH, bits 1 and 2 of the effective set, of this thread and those that it starts)."""
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] &= ~0b110
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("line", READ + WRITTEN + SOCKETS)
def test_what_is_no_file_is_refused_in_one_message(line: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    for odd in ODD:
        if odd in TAKEN.get(line, ()) or not os.path.lexists(odd):
            continue
        with no_power_over_files():
            status = main(line.replace("ODD", odd).split(" "))
        out, err = capfd.readouterr()
        said = (odd, status, out, err)
        # A FIFO brings a snapshot as soon as somebody writes into it.
        waited = (odd, status) == ("fifo", 124) and "--incoming" in line
        assert status in (2, 4) or waited, said
        assert out == "", said
        assert 1 <= len(err.splitlines()) <= 2, said
        assert err.startswith("emu: "), said
        assert "Error" not in err, said
        assert contents(folder) == before, said


def test_every_odd_place_is_right_somewhere_or_nowhere() -> None:
    """A line that is no longer in the lists would allow nothing."""
    assert set(TAKEN) <= {*READ, *WRITTEN, *SOCKETS}
    assert set().union(*TAKEN.values()) <= set(ODD)
