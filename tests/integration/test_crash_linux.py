"""`emu crash linux`: a Linux program of ours, on the host's kernel, and the flush that it lacks."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.run_emu import Result, emu
from tests.linux_kernel import needs_kernel

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


def crash(*words: str, dimm: str = "size=32M") -> Result:
    limit = str(TIMEOUT_S - 60)  # emu's own answer comes first
    return emu("crash", "linux", "--nvdimm", dimm, *words, "--time-limit", limit, "--json", timeout=TIMEOUT_S)


@pytest.mark.parametrize("lacking", [True, False], ids=["lacks a flush", "right"])
def test_a_missing_flush_is_found_in_its_function_and_line(tmp_path: Path, lacking: bool) -> None:
    source, program, pool = tmp_path / "log.c", tmp_path / "log", tmp_path / "pool.img"
    source.write_text(LOG)
    flags = ["-DLACKS_FLUSH"] if lacking else []
    subprocess.run(["gcc", "-g", "-O1", "-fno-inline", *flags, "-o", program, source], check=True)
    commands = ["--setup", f"{program} create", "--exec", f"{program} append", "--recover", f"{program} read"]
    done = crash(*commands, "--scope", "program", dimm=f"file={pool},size=32M")
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
    # Program and C library are different files, and where they lie is different each time.
    own, *callers = [frame for frame in lost["stack"] if not frame["library"]]
    assert (own["function"], own["source"]) == ("append", f"log.c:{line}")
    assert [frame["function"] for frame in callers] == ["main"]
    assert any(frame["library"] and frame["function"].startswith(("__libc_start", "libc")) for frame in lost["stack"])


# Says what it has kept: a long line for each of two values. With EARLY it does so before that is durable.
PROMISES = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
static void persist(void *at) { __asm__ volatile("clwb (%0); sfence" : : "r"(at) : "memory"); }
int main(int argc, char **argv)
{
    int file = open("/pmem/kept", O_RDWR | O_CREAT, 0666);
    if (file < 0 || (argv[1][0] == 'c' && ftruncate(file, 4096)))
        return 2;
    uint64_t *kept = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (argv[1][0] == 'c')
        kept[0] = kept[8] = 0;
    for (int n = 0; argv[1][0] == 'w' && n < 2; n++) {
        kept[8 * n] = 1; /* the value */
#ifndef EARLY
        persist(&kept[8 * n]);
#endif
        printf("%4000d kept\n", n);
        fflush(stdout);
        persist(&kept[8 * n]);
    }
    for (int n; argv[1][0] == 'r' && scanf("%d kept", &n) == 1;)
        if (!kept[8 * n]) {
            fprintf(stderr, "value %d is gone\n", n);
            return 5;
        }
    return argc != 2;
}
"""


@pytest.mark.parametrize("early", [True, False], ids=["too early", "in time"])
def test_recovery_reads_what_was_printed_and_what_fails_is_kept_with_all_that_it_needs(
    tmp_path: Path, early: bool
) -> None:
    source, program, out = tmp_path / "promises.c", tmp_path / "promises", tmp_path / "out"
    source.write_text(PROMISES)
    subprocess.run(["gcc", "-g", "-O1", *(["-DEARLY"] if early else []), "-o", program, source], check=True)
    commands = ["--setup", f"{program} create", "--exec", f"{program} write", "--recover", f"{program} read"]
    words = ["--scope", "program", "--feed-printed", "--export", str(out), *(["--matrix"] if early else [])]
    done = crash(*commands, *words, dimm="size=32M,label-size=128K")
    found = done.document
    assert found["complete"]
    if not early:
        assert (done.status, found["failures"]) == (0, [])
        assert not out.exists()
        return
    assert done.status == 3
    (failure,) = found["failures"]
    assert failure["kind"] == "missing flush"
    line = 1 + PROMISES.splitlines().index("        kept[8 * n] = 1; /* the value */")
    assert failure["lost"][0]["source"] == f"promises.c:{line}"
    assert len(failure["crash_points"]) == 2
    number = failure["crash_points"].index(failure["crash_point"])
    assert failure["persisted"]["text"] == f"{number:4000} kept\n"
    assert f"value {number} is gone" in failure["verdict"]["output"]
    memory, printed, *machine = map(Path, failure["reproduce"]["files"])
    assert printed.read_text() == "".join(f"{n:4000} kept\n" for n in range(number + 1))
    assert sorted(file.name for file in machine) == ["initrd.img", "vmlinuz"]
    assert memory.stat().st_size == 32 << 20
    program.unlink()  # the folder has what is needed
    command, _, _ = failure["reproduce"]["command"].rpartition(" < ")
    again = emu(*shlex.split(command)[1:], stdin=printed.read_bytes(), timeout=TIMEOUT_S)
    assert again.status == failure["verdict"]["status"]
    assert f"value {number} is gone" in again.errors
    # All from the one recording, and each row judged to its end.
    assert [(row["media"], row["domain"], row["order"], row["verdict"]) for row in found["matrix"]] == [
        ("dax-sync", "adr", "line", "failed"), ("dax-sync", "adr", "location", "failed"),
        ("dax-sync", "eadr", None, "ok"),
        ("dax", "adr", "line", "failed"), ("dax", "adr", "location", "failed"), ("dax", "eadr", None, "failed"),
        ("page-cache", None, None, "failed"),
    ]  # fmt: skip
    assert all(row["complete"] for row in found["matrix"])


# A flag in an old file, made durable after data in a new one.
FLAG = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>
static void persist(void *at)
{
    __asm__ volatile("clwb (%0); sfence" : : "r"(at) : "memory");
}
static uint64_t *map(const char *name)
{
    int file = open(name, O_RDWR | O_CREAT, 0666);
    if (fallocate(file, 0, 0, 4096))
        return 0;
    return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
}
int main(int argc, char **argv)
{
    uint64_t *flag = map("/pmem/flag"), *data = argv[1][0] == 'c' ? flag : map("/pmem/data");
    if (argv[1][0] == 'c')
        *flag = 0; /* so that its block is one with data when the setup's unmount has written that down */
    if (argv[1][0] == 'w') {
        *data = 42; /* the data */
        persist(data);
        *flag = 1;
        persist(flag);
    }
    return argc != 2 || (argv[1][0] == 'r' && *flag && *data != 42);
}
"""


def test_data_in_a_file_that_the_file_system_had_not_written_lacks_map_sync(tmp_path: Path) -> None:
    """All that the program flushed is on the medium, and with MAP_SYNC it would be in the file."""
    source, program = tmp_path / "flag.c", tmp_path / "flag"
    source.write_text(FLAG)
    subprocess.run(["gcc", "-g", "-O1", "-o", program, source], check=True)
    commands = ["--setup", f"{program} create", "--exec", f"{program} work", "--recover", f"{program} read"]
    found = crash(*commands, "--scope", "program").document
    (failure,) = found["failures"]
    assert (failure["kind"], found["unexplained"]) == ("missing MAP_SYNC", None)
    (lost,) = failure["lost"]
    assert lost["source"] == f"flag.c:{1 + FLAG.splitlines().index('        *data = 42; /* the data */')}"


# The same with write(2): the flag's block is there already, the new file's is not.
WRITTEN = r"""
#include <fcntl.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    char flag = '0', data = '0';
    int file = open("/pmem/flag", O_RDWR | O_CREAT, 0666);
    if (argv[1][0] == 'c')
        return pwrite(file, "0", 1, 0) != 1;
    int new = open("/pmem/data", O_RDWR | (argv[1][0] == 'w' ? O_CREAT : 0), 0666);
    if (argv[1][0] == 'w')
        return pwrite(new, "1", 1, 0) != 1 || pwrite(file, "1", 1, 0) != 1;
    pread(file, &flag, 1, 0);
    pread(new, &data, 1, 0);
    return flag == '1' && data != '1';
}
"""


def test_a_file_that_was_written_before_a_flag_lacks_fsync(tmp_path: Path) -> None:
    source, program = tmp_path / "written.c", tmp_path / "written"
    source.write_text(WRITTEN)
    subprocess.run(["gcc", "-g", "-O1", "-w", "-o", program, source], check=True)
    commands = ["--setup", f"{program} create", "--exec", f"{program} work", "--recover", f"{program} read"]
    found = crash(*commands, "--granularity", "block", "--tears", "0", "--first-failure").document
    (failure,) = found["failures"]
    assert failure["kind"] == "missing fsync"
    # The kernel made the store, for this line of the program.
    (lost,) = failure["lost"]
    own = [frame for frame in lost["stack"] if not frame["library"]]
    line = 1 + WRITTEN.splitlines().index("    if (argv[1][0] == 'w')") + 1
    assert [(frame["function"], frame["source"]) for frame in own] == [("main", f"written.c:{line}")]


def test_a_file_system_is_judged_by_whole_blocks(tmp_path: Path) -> None:
    """A rename on ext4: its journal's blocks persist or not, and every memory has the file under one of the names."""
    pool = tmp_path / "pool.img"
    commands = ["--setup", "echo old > /pmem/a; sync", "--exec", "mv /pmem/a /pmem/b; sync",
                "--recover", "cat /pmem/a /pmem/b | grep -q old"]  # fmt: skip
    found = crash(*commands, "--granularity", "block", "--tears", "0", dimm=f"file={pool},size=32M").document
    assert found["failures"] == []
    assert found["executed"] > 4
    assert not found["complete"]
    (why,) = found["incomplete_because"]
    assert "were tried whole, not at all, and torn at 0 places each" in why
    assert (found["model"]["granularity"], found["model"]["tears"], found["model"]["seed"]) == ("block", 0, 0)
