"""`emu crash linux`: a Linux program of ours, on the host's kernel, and the flush that it lacks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from linux_kernel import needs_kernel
from run_emu import emu

# Appends records to a file on DAX; with LACKS_FLUSH a record may come behind the count that tells of it.
LOG = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
struct log { uint64_t count; char pad[56]; uint64_t records[8]; };
static void persist(void *at)
{
    __asm__ volatile("clwb (%0)\n\tsfence" : : "r"(at) : "memory");
}
static void append(struct log *log)
{
    log->records[log->count] = 1000 + log->count; /* the record */
#ifndef LACKS_FLUSH
    persist(&log->records[log->count]);
#endif
    log->count++;
    persist(log);
}
int main(int argc, char **argv)
{
    int file = open("/pmem/log", O_RDWR | O_CREAT, 0666);
    if (file < 0 || (argv[1][0] == 'c' && ftruncate(file, 4096)))
        return 2;
    struct log *log = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, file, 0);
    if (log == MAP_FAILED)
        return 3;
    if (argv[1][0] == 'c') {
        memset(log, 0, 4096);
        msync(log, 4096, MS_SYNC);
    }
    for (int n = 0; argv[1][0] == 'a' && n < 2; n++)
        append(log);
    for (uint64_t n = 0; argv[1][0] == 'r' && n < log->count; n++)
        if (log->records[n] != 1000 + n)
            return 4;
    return argc != 2;
}
"""


TIMEOUT_S = 1700
"""An exploration ends when it is complete, not because the machine is busy."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed: apt-get install gcc"),
    needs_kernel,
]


@pytest.mark.parametrize("lacking", [True, False], ids=["lacks a flush", "right"])
def test_a_missing_flush_is_found_in_its_function_and_line(tmp_path: Path, lacking: bool) -> None:
    source, program, pool = tmp_path / "log.c", tmp_path / "log", tmp_path / "pool.img"
    source.write_text(LOG)
    flags = ["-DLACKS_FLUSH"] if lacking else []
    subprocess.run(["gcc", "-g", "-O1", "-fno-inline", "-static", *flags, "-o", program, source], check=True)
    commands = ["--setup", f"{program} create", "--exec", f"{program} append", "--recover", f"{program} read"]
    words = ["--scope", "program", "--json", "--time-limit", str(TIMEOUT_S)]
    done = emu("crash", "linux", "--nvdimm", f"file={pool},size=32M", *commands, *words, timeout=TIMEOUT_S)
    found = done.document
    assert found["complete"]
    assert found["model"]["scope"] == "program"
    assert not pool.exists()
    if not lacking:
        assert (done.status, found["failures"]) == (0, [])
        return
    assert done.status == 3
    (failure,) = found["failures"]
    assert failure["kind"] == "missing flush"
    (lost,) = failure["lost"]
    assert lost["symbol"].startswith("append+")
    line = 1 + LOG.splitlines().index("    log->records[log->count] = 1000 + log->count; /* the record */")
    assert lost["source"] == f"log.c:{line}"
    assert failure["verdict"]["code"] == 4


def test_a_file_system_is_judged_by_whole_blocks(tmp_path: Path) -> None:
    """A rename on ext4: its journal's blocks persist or not, and every memory has the file under one of the names."""
    pool = tmp_path / "pool.img"
    commands = ["--setup", "echo old > /pmem/a; sync", "--exec", "mv /pmem/a /pmem/b; sync",
                "--recover", "cat /pmem/a /pmem/b | grep -q old"]  # fmt: skip
    words = ["--granularity", "block", "--tears", "0", "--json", "--time-limit", str(TIMEOUT_S)]
    found = emu("crash", "linux", "--nvdimm", f"file={pool},size=32M", *commands, *words, timeout=TIMEOUT_S).document
    assert found["failures"] == []
    assert found["executed"] > 4
    assert not found["complete"]
    (why,) = found["incomplete_because"]
    assert "were tried whole, not at all, and torn at 0 places each" in why
    assert (found["model"]["granularity"], found["model"]["tears"], found["model"]["seed"]) == ("block", 0, 0)
