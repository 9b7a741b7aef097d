"""What is given as a file but is none: refused in two lines wherever a file is asked for, never a bug of ours."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.integration.run_emu import emu

ODD = ["/proc/cpuinfo", "/proc/self/mem", "/proc/self/pagemap", "/proc/self/environ", "/sys/kernel/profiling",
       "fifo", "socket", "folder", "/", "empty", ""]  # fmt: skip
KERNELS = ("/proc/self/mem", "/proc/cpuinfo", "/proc/self/environ")
"""They look like regular files, so it is this host that cannot do with them what was asked."""
MEMORY = ("nvdimm of its own size", "label area", "label area to write")
COMMANDS = {
    "nvdimm": ["run", "hello", "--quiet", "--nvdimm", "file=ODD,size=8M"],
    "nvdimm of its own size": ["run", "hello", "--quiet", "--nvdimm", "file=ODD"],
    "read-only nvdimm": ["run", "hello", "--quiet", "--nvdimm", "file=ODD,readonly=on,unarmed=on"],
    "image": ["run", "ODD", "--quiet"],
    "label area": ["label", "check", "ODD"],
    "label area to write": ["label", "init", "ODD"],
    "dump": ["label", "write", "pool", "-i", "ODD"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_odd_files(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("folder").mkdir()
    Path("empty").touch()
    Path("pool").write_bytes(bytes(1 << 20))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for odd in ODD:
            # A dump may come through a FIFO, as from standard input; an empty file grows to the size asked for.
            if (command, odd) in (("dump", "fifo"), ("nvdimm", "empty")):
                continue
            result = emu(*(word.replace("ODD", odd) for word in COMMANDS[command]), timeout=30)
            assert result.status in ((4,) if odd in KERNELS and command in MEMORY else (2, 4)), (odd, result)
            assert 1 <= len(result.errors) <= 2, (odd, result)
            assert result.errors[0].startswith("emu: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "fifo", "folder", "pool", "socket"]
    assert Path("pool").read_bytes() == bytes(1 << 20)
