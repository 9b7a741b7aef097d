"""``-serial pty`` and ``-serial unix:...``: talk with a guest at a terminal of its own, or at a socket."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.run_emu import EMU, PATIENCE_S, emu


@contextmanager
def echo(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The guest that sends every line back."""
    command = [*EMU, "run", "echo", *words]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(descriptor: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        assert select.select([descriptor], [], [], PATIENCE_S)[0], seen
        piece = os.read(descriptor, 4096)
        assert piece, seen
        seen += piece
    return seen


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.connect(str(path))
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return client


def talk(descriptor: int, *, end: bool) -> None:
    os.write(descriptor, b"one\n")
    read_until(descriptor, b"echo: one\n")
    if end:
        os.write(descriptor, b"\x04")


def test_a_terminal_of_its_own_has_what_was_said_before_somebody_came() -> None:
    with echo("-serial", "pty") as process:
        assert process.stderr is not None
        assert select.select([process.stderr], [], [], PATIENCE_S)[0]
        told = re.fullmatch(r"emu: COM1 is at (/dev/pts/\d+)\n", process.stderr.readline())
        assert told
        terminal = os.open(told[1], os.O_RDWR | os.O_NOCTTY)
        try:
            assert read_until(terminal, b"ready\n") == b"ready\n"
            talk(terminal, end=True)
            assert process.wait(PATIENCE_S) == 0
        finally:
            os.close(terminal)
        assert process.communicate() == ("", "")


def test_a_terminal_that_nobody_opens_holds_nobody_up(tmp_path: Path) -> None:
    pool = f"file={tmp_path}/pool,size=2M"
    # 8 to 11 bytes a record, several times what the kernel keeps.
    result = emu("run", "count", "--nvdimm", pool, "--append", "3000 1", "-serial", "pty", "--timeout", "50")
    assert (result.status, result.out) == (0, "")
    assert emu("run", "verify", "--nvdimm", pool).out == "3000 records, no gap\n"


def test_a_socket_waits_for_somebody_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "com1"
    with echo("-serial", f"unix:{path},server=on") as process, connected(path) as client:
        assert read_until(client.fileno(), b"ready\n") == b"ready\n", "the guest had not begun without me"
        talk(client.fileno(), end=True)
        assert process.wait(PATIENCE_S) == 0
        assert process.communicate() == ("", f"emu: waiting for somebody at unix:{path}, which is COM1\n")
    assert not path.exists()


def test_one_comes_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "com1"
    with echo("-serial", f"unix:{path},server,nowait") as process:
        with connected(path) as client:
            talk(client.fileno(), end=False)
        with connected(path) as client:
            talk(client.fileno(), end=True)
            assert process.wait(PATIENCE_S) == 0
        assert process.communicate() == ("", "")


def test_a_socket_at_which_somebody_listens(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with echo("-serial", f"unix:{path}") as process:
            client, _ = listener.accept()
            with client:
                talk(client.fileno(), end=True)
            assert process.wait(PATIENCE_S) == 0
    assert path.exists(), "it is not emu's"


@pytest.mark.parametrize(
    ("place", "status", "words"),
    [
        ("unix:absent", 4, "nobody listens there"),
        ("unix:", 2, "not a socket's path"),
        ("unix:s,server=maybe", 2, "unknown option 'server=maybe'"),
        ("unix:s,reconnect=1", 2, "unknown option 'reconnect=1'"),
        ("unix:absent/s,server=on", 4, "-serial"),
        ("ptty", 2, "'ptty' is not a place for characters"),
    ],
)
def test_what_cannot_be_had_is_refused(place: str, status: int, words: str, tmp_path: Path) -> None:
    result = emu("run", "echo", "-serial", place)
    assert result.status == status, result
    assert words in result.errors[0]
    assert len(result.errors) <= 2


def test_only_com1_has_a_line() -> None:
    assert emu("run", "echo", "-debugcon", "pty").status == 2
    assert emu("run", "linux", "-serial", "pty", "--exec", "true").status == 2
    fails = emu("run", "hello", "--nvdimm", "file=x,size=2M", "--power-fail-at", "1", "-serial", "pty")
    assert (fails.status, "pty and unix:PATH" in fails.errors[1]) == (2, True)
