"""Destinations that wait: who else comes to the door ends nobody's wait, and a socket is removed by its owner alone."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.migration_processes import EMU, Emu, wait_until
from tests.integration.run_emu import PATIENCE_S


@pytest.fixture
def emus() -> Iterator[list[Emu]]:
    made: list[Emu] = []
    yield made
    for one in made:
        one.end()


def waiting(emus: list[Emu], folder: Path, name: str, uri: str) -> Emu:
    emus.append(Emu(folder, name, ["--incoming", uri]))
    return emus[-1]


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def second(folder: Path, uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EMU, "run", "--quiet", "-m", "16M", "--nvdimm", f"file={folder}/second.img,size=4M", "--incoming", uri],
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip


def move(emus: list[Emu], folder: Path, destination: Emu, uri: str) -> None:
    """A real source comes to ``destination`` and the guest goes on there."""
    emus.append(Emu(folder, "source", ["count", "--append", "0 20000"]))
    wait_until(emus[-1].counted, "counting guest")
    done = subprocess.run(
        [*EMU, "migrate", "--qmp", str(emus[-1].qmp), uri], capture_output=True, text=True, timeout=PATIENCE_S
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wait_until(destination.counted, "count at the destination")


def test_a_second_destination_is_refused_and_the_first_waits_on(emus: list[Emu], tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/m"
    first = waiting(emus, tmp_path, "b", uri)
    done = second(tmp_path, uri)
    assert done.returncode == 4
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/m")
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(f"{tmp_path}/m")
        move(emus, tmp_path, first, uri)
    assert not (tmp_path / "m").exists()


def test_the_same_over_tcp(emus: list[Emu], tmp_path: Path) -> None:
    first = Emu(tmp_path, "b", ["--incoming", "tcp:127.0.0.1:0"], quiet=False)
    emus.append(first)
    assert first.process.stderr is not None
    told = re.search(
        rb"waiting for a migration at (tcp:127\.0\.0\.1:(\d+))\n",
        b"".join(first.process.stderr.readline() for _ in range(2)),
    )
    assert told
    uri, port = told[1].decode(), int(told[2])
    done = second(tmp_path, uri)
    assert done.returncode == 4
    assert "in use" in done.stderr
    with socket.create_connection(("127.0.0.1", port)) as silent:
        silent.sendall(b"emu-m")
        move(emus, tmp_path, first, uri)


def test_a_destination_that_ends_leaves_the_socket_of_the_next(emus: list[Emu], tmp_path: Path) -> None:
    path = tmp_path / "m"
    first = waiting(emus, tmp_path, "b", f"unix:{path}")
    path.unlink()  # so that the next may listen there while the first still waits
    waiting(emus, tmp_path, "c", f"unix:{path}")
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(PATIENCE_S) == 130
    assert listens(path)
    assert emus[-1].process.poll() is None


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "timeout"])
def test_whatever_ends_the_wait_no_socket_stays(tmp_path: Path, how: str) -> None:
    process = subprocess.Popen(
        [*EMU, "run", "--quiet", "-m", "16M", "--incoming", f"unix:{tmp_path}/m",
         *(["--timeout", "0.5"] if how == "timeout" else [])],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        wait_until(lambda: (tmp_path / "m").exists() or process.poll() is not None, "socket")
        if how == "timeout":
            assert process.wait(PATIENCE_S) == 124
        else:
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    stack.enter_context(socket.socket(socket.AF_UNIX)).connect(f"{tmp_path}/m")
                process.send_signal(signal.Signals[how])
                assert process.wait(PATIENCE_S) == 130, process.communicate()
    finally:
        process.kill()
        process.communicate()
    assert list(tmp_path.iterdir()) == []
