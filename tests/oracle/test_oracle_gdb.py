"""gdb itself judges the stub: it breaks, watches, asks what is durable, cuts the power, and goes back in time."""

from __future__ import annotations

import runpy
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emu.testing.commands import EMU
from tests.oracle.requirements import require

ROOT = Path(__file__).parents[2]
GUEST = ROOT / "guest/images/commit-noflush.elf"
PATIENCE_S = 60
COMMITTED, VALUE = 0x1_0000_0040, 0x1_0000_0080
"""Of guest/crash/commit.c: the counter, and the value that is never flushed."""


@pytest.fixture
def gdb() -> str:
    return require("gdb", "gdb")


@contextmanager
def waiting(folder: Path, *words: str | Path, to: str = "unix:gdb.sock") -> Iterator[subprocess.Popen[str]]:
    """emu, which waits for gdb in ``folder``."""
    command = [*EMU, *map(str, words), "--nvdimm", "file=pmem.img,size=2M", "--gdb", to]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            end = time.monotonic() + PATIENCE_S
            while to.startswith("unix:") and not (folder / "gdb.sock").exists():
                assert process.poll() is None, process.stdout and process.stdout.read()
                assert time.monotonic() < end
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def debug(gdb: str, folder: Path, *script: str, to: str = "gdb.sock") -> list[str]:
    """What gdb says to each line of ``script``; a line that it cannot do fails the test."""
    lines = ["set pagination off", "set confirm off", f"file {GUEST}", f"target remote {to}"]
    for number, line in enumerate(script):
        lines += [f"echo >>{number}\\n", line]
    (folder / "script.gdb").write_text("\n".join([*lines, "echo >>end\\n"]))
    command = [gdb, "-nx", "-batch", "-x", "script.gdb"]
    done = subprocess.run(command, cwd=folder, text=True, timeout=PATIENCE_S,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert ">>end" in done.stdout, done.stdout
    return [piece.partition("\n")[2] for piece in done.stdout.split(">>")[1:]]


def test_from_a_breakpoint_to_the_store_that_was_lost(gdb: str, tmp_path: Path) -> None:
    with waiting(tmp_path, "run", GUEST, "-S") as emu:
        said = debug(
            gdb, tmp_path,
            "break pool_work",
            "continue",
            f"watch *(long*){COMMITTED:#x}",
            "continue",
            f"monitor durable {COMMITTED:#x} 8",
            "stepi 3",
            f"monitor durable {COMMITTED:#x} 8",
            f"monitor durable {VALUE:#x} 8",
            "stepi 2",
            f"watch *(long*){VALUE:#x}",
            "reverse-continue",
            "reverse-continue",
            "x/i $pc",
            f"monitor durable {VALUE:#x} 8",
            "delete",
            "stepi",
            "stepi 9",
            "x/i $pc",
            f"monitor durable {COMMITTED:#x} 8",
            "monitor crash",
            "maintenance flush register-cache",
            "disconnect",
            "target remote gdb.sock",
            "info symbol $pc",
            "break pool_recover",
            "continue",
            f"x/gx {VALUE:#x}",
            "continue",
        )  # fmt: skip
        emu.wait(PATIENCE_S)
        assert emu.stdout is not None
        guest = emu.stdout.read()
    assert "Breakpoint 1, pool_work" in said[1]
    assert "New value = 1" in said[3]
    assert "NOT durable, 01 00" in said[4]
    assert "waits for a flush of its cache line, then a fence" in said[4]
    assert "waits for a fence behind the flush of its cache line" in said[6]
    assert "commit.c:36" in said[7]
    assert "hold one of: 0x0, 0x3e8" in said[7]
    assert "New value = 0" in said[10]
    assert "Old value = 1000" in said[11]
    assert "New value = 0" in said[11]
    assert "mov    %rdi,(%rsi)" in said[12]  # the store that is lost, not yet executed
    assert "): durable, 00" in said[13]
    assert "durable, 01 00" in said[18]
    assert "NOT" not in said[18]
    assert "1 store is lost" in said[19]
    assert "event 6" in said[19]
    assert "multiboot_entry" in said[23]
    assert "pool_recover" in said[25]
    assert f"{VALUE:#x}:\t0x0000000000000000" in said[26]
    assert "exited with code 03" in said[27]
    assert emu.returncode == 3
    assert "value 0 is committed but reads 0" in guest
    kept = (tmp_path / "pmem.img").read_bytes()
    assert (kept[0x40], kept[0x80]) == (1, 0)


def test_registers_are_the_64_bit_ones_from_the_first_instruction(gdb: str, tmp_path: Path) -> None:
    with waiting(tmp_path, "run", GUEST, "-S", "--quiet") as emu:
        said = debug(
            gdb, tmp_path,
            "info registers rip r15 cs eflags cr0",
            "set $xmm3.uint128 = 77",
            "p $xmm3.uint128",
            "set $r15 = 0x1122334455667788",
            "p/x $r15",
            "p $st0",
            "break main",
            "continue",
            "info registers efer cs",
            "bt",
            "print ((int(*)(void))getpid)()",
            "kill",
        )  # fmt: skip
        assert emu.wait(PATIENCE_S) == 0
    assert "multiboot_entry" in said[0]
    assert "r15 " in said[0]
    assert "= 77" in said[2]
    assert "= 0x1122334455667788" in said[4]
    assert "main" in said[7]
    assert "0xd01" in said[8] or "0xd00" in said[8]  # LME, LMA and NXE
    assert "#0" in said[9]
    assert "= 1" in said[10]  # a function of the guest, called by gdb


def test_tcp_and_qemus_words(gdb: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with waiting(tmp_path, "run", GUEST, "-S", to=f"tcp::{port}") as emu:
        said = debug(gdb, tmp_path, "break pool_work", "continue", to=f"localhost:{port}")
        emu.wait(PATIENCE_S)  # gdb has detached, and the guest went on
    assert "Breakpoint 1, pool_work" in said[1]
    assert emu.returncode == 0


def test_debug_before_the_store_that_was_lost(gdb: str, tmp_path: Path) -> None:
    with waiting(tmp_path, "debug", GUEST, "--event", "6"):
        said = debug(gdb, tmp_path, "x/i $pc", "stepi", f"monitor durable {VALUE:#x} 8", "reverse-stepi", "x/i $pc")
    assert "mov    %rdi,(%rsi)" in said[0]
    assert "event 6: stored by" in said[2]
    assert "mov    %rdi,(%rsi)" in said[4]
    assert not (tmp_path / "pmem.img").exists()


def test_debug_the_recovery_of_a_crash_state(gdb: str, tmp_path: Path) -> None:
    with waiting(tmp_path, "debug", GUEST, "--power-fail-at", "11") as emu:
        said = debug(
            gdb, tmp_path, "break pool_recover", "continue", f"x/gx {COMMITTED:#x}", f"x/gx {VALUE:#x}", "continue"
        )
        assert emu.wait(PATIENCE_S) == 3
    assert "0x0000000000000001" in said[2]
    assert "0x0000000000000000" in said[3]
    assert "exited with code 03" in said[4]
    assert not (tmp_path / "pmem.img").exists()


CAPTURES = runpy.run_path(str(ROOT / "docs" / "captures.py"))


@pytest.mark.parametrize("page", CAPTURES["DEBUGGER_PAGES"])
def test_page_shows_real_output(gdb: str, page: str) -> None:
    for path, text in CAPTURES["build"](page):
        assert path.read_text("utf-8") == text, f"{path.name} is behind; run: python docs/captures.py"
