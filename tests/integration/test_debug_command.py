"""``emu run --gdb`` and ``emu debug`` as processes: where they stand, what they leave, and what they refuse."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gdb_client import PATIENCE_S, Client
from tests.integration.run_emu import EMU, emu

GUEST = "commit-noflush"
COMMITTED, VALUE = 0x1_0000_0040, 0x1_0000_0080
"""Of guest/crash/commit.c: the counter, and the value that is never flushed. The value's first store is event 6."""


def connect(path: Path, process: subprocess.Popen[bytes]) -> Client:
    """As soon as somebody listens there."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return Client(path)
        except OSError:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)


@contextmanager
def waiting(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """emu, and a debugger that it has let in."""
    command = [*EMU, *words, "--nvdimm", "file=pmem.img,size=2M", "--gdb", "unix:gdb.sock", "--quiet"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            client = connect(folder / "gdb.sock", process)
            yield process, client
            client.close()
        finally:
            process.kill()


def left(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit status and output, at its end."""
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert b"Traceback" not in errors
    return process.returncode, out.decode()


def word(gdb: Client, address: int) -> int:
    return int.from_bytes(bytes.fromhex(gdb.ask(b"m%x,8" % address).decode()), "little")


def test_run_waits_for_a_debugger_and_ends_as_the_guest_does(tmp_path: Path) -> None:
    with waiting(tmp_path, "run", GUEST, "-S") as (process, gdb):
        assert gdb.ask(b"c") == b"W00"
        assert left(process) == (0, "done\n")
    assert not (tmp_path / "gdb.sock").exists()


def test_debug_stands_before_an_event_of_the_workload(tmp_path: Path) -> None:
    with waiting(tmp_path, "debug", GUEST, "--event", "6") as (process, gdb):
        assert "durable, 00" in gdb.monitor(f"durable {VALUE:#x}")
        gdb.ask(b"s")
        assert "event 6: stored by" in gdb.monitor(f"durable {VALUE:#x}")
        assert gdb.ask(b"bs") == b"T05thread:01;"
        gdb.ask(b"D")
        assert left(process) == (0, "done\n")
    assert not (tmp_path / "pmem.img").exists()


def test_each_event_is_numbered_as_in_the_laboratory(tmp_path: Path) -> None:
    """Before event N, N of them were made: the power cut says so."""
    for event in (0, 7, 25):
        with waiting(tmp_path, "debug", GUEST, "--event", str(event)) as (_, gdb):
            assert f"before event {event}:" in gdb.monitor("crash")


def test_debug_stands_in_the_recovery_of_a_crash_state(tmp_path: Path) -> None:
    with waiting(tmp_path, "debug", GUEST, "--power-fail-at", "11") as (process, gdb):
        assert (word(gdb, COMMITTED), word(gdb, VALUE)) == (1, 0)
        assert gdb.ask(b"c") == b"W03"
        status, out = left(process)
        assert (status, "value 0 is committed but reads 0" in out) == (3, True)
    assert not (tmp_path / "pmem.img").exists()


def test_debug_leaves_the_file_of_a_crash_state_as_it_is(tmp_path: Path) -> None:
    memory = bytearray(2 << 20)
    memory[:8], memory[0x40] = b"pmcommit", 1
    (tmp_path / "pmem.img").write_bytes(memory)
    with waiting(tmp_path, "debug", GUEST) as (process, gdb):
        assert gdb.ask(b"M%x,1:02" % COMMITTED) == b"OK"
        assert gdb.ask(b"c") == b"W03"
        assert left(process)[0] == 3
    assert (tmp_path / "pmem.img").read_bytes() == memory


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("run", GUEST, "--gdb", "here"), "not an address to listen at"),
        (("run", GUEST, "--gdb", "tcp:0.0.0.0:1"), "others could reach this address"),
        (("run", GUEST, "--gdb", ":1", "--power-fail-at", "1"), "needs a guest that runs on its own"),
        (("run", "--gdb", ":1", "--incoming", "unix:x"), "from its start"),
        (("debug", GUEST, "--event", "26"), "the run ended (power-off) after 26 events"),
        (("debug", GUEST, "--power-fail-at", "27"), "the run ended after 26 events"),
        (("debug", GUEST, "--event", "1", "--power-fail-at", "1"), "--event debugs the workload"),
        (("debug", GUEST, "--power-fail-state", "all"), "there is none"),
        (("debug", GUEST, "--event", "soon"), "--event"),
    ],
)
def test_what_is_refused(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    given = words if "--gdb" in words else (*words, "--gdb", f"unix:{tmp_path}/gdb.sock")
    result = emu(*given, "--nvdimm", f"file={tmp_path}/pmem.img,size=2M", "--quiet")
    assert result.status == 2, result
    assert reason in "\n".join(result.errors)
    assert len(result.errors) <= 2
    assert not list(tmp_path.iterdir())
