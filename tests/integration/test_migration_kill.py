"""kill -9 of either process at random moments of a migration: the guest loses nothing, and never runs twice."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emu.memory import incomplete

SIZE = "8M"
EMU = [sys.executable, "-m", "emu.cli.main"]


class Emu:
    """An ``emu run`` process with a QMP socket and its serial port in a file."""

    def __init__(self, folder: Path, name: str, words: list[str]) -> None:
        self.folder = folder
        self.name = name
        self.qmp = folder / f"{name}.qmp"
        self.serial = folder / f"{name}.serial"
        self.process = subprocess.Popen(
            [*EMU, "run", *words, "--quiet", "-m", "16M", "-serial", f"file:{self.serial}",
             "--nvdimm", f"file={folder}/{name}.img,size={SIZE},label-size=128K,id=nv1",
             "-qmp", f"unix:{self.qmp},server=on,wait=off"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until(self.qmp.exists, f"QMP socket of {name}")

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command on a connection of its own; None when the process is gone."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(str(self.qmp))
                lines = sock.makefile("rb")
                lines.readline()
                for execute, given in (("qmp_capabilities", {}), (command, arguments)):
                    sock.sendall(json.dumps({"execute": execute, "arguments": given}).encode())
                    while "event" in (reply := json.loads(lines.readline() or b'{"gone": 1}')):
                        pass
                return reply.get("return", reply)
        except OSError:
            return None

    def counted(self) -> list[int]:
        if not self.serial.exists():
            return []
        lines = self.serial.read_bytes().decode().split("\n")[:-1]
        return [int(line.split()[1]) for line in lines if line.startswith("count ")]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> str:
        """End the process; what it said on stderr."""
        if self.process.poll() is None:
            self.process.kill()
        return self.process.communicate(timeout=20)[1].decode()


def wait_until(condition: Any, what: str, timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.01)


def verify(path: Path) -> None:
    """The guest's own judgement of its log."""
    done = subprocess.run(
        [*EMU, "run", "verify", "--quiet", "--timeout", "60", "-m", "16M",
         "--nvdimm", f"file={path},size={SIZE},label-size=128K,id=nv1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "no gap" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def emus() -> Iterator[list[Emu]]:
    made: list[Emu] = []
    yield made
    for one in made:
        one.end()


def start(emus: list[Emu], folder: Path) -> tuple[Emu, Emu]:
    destination = Emu(folder, "b", ["--incoming", f"unix:{folder}/m.sock"])
    source = Emu(folder, "a", ["count", "--append", "0 20000"])
    emus += [destination, source]
    wait_until(source.counted, "counting guest")
    # Slow enough that a random moment falls into each phase: about half a second in all.
    assert source.ask("migrate-set-parameters", **{"max-bandwidth": 8 << 20, "downtime-limit": 50}) == {}
    return source, destination


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_destination_is_killed(emus: list[Emu], tmp_path: Path, seed: int) -> None:
    source, destination = start(emus, tmp_path)
    source.ask("migrate", uri=f"unix:{tmp_path}/m.sock")
    time.sleep(random.Random(seed).random() * 0.9)
    destination.kill()
    wait_until(lambda: source.ask("query-migrate")["status"] not in ("setup", "active", "device"), "end")
    status = source.ask("query-migrate")["status"]
    marked = incomplete.reason(tmp_path / "b.img") is not None
    if status == "failed":
        at = source.counted()[-1]
        wait_until(lambda: source.counted()[-1] > at, "guest that goes on")
        numbers = source.counted()
        assert numbers == list(range(20000, 20000 * (len(numbers) + 1), 20000))
    elif status == "x-emu-outcome-unknown":
        assert "error" in source.ask("cont")
        if marked:
            assert source.ask("cont", **{"x-emu-force": True}) == {}
    else:
        assert status == "completed"
        assert not marked
        assert "error" in source.ask("cont", **{"x-emu-force": True})
    source.kill()
    if marked:
        done = subprocess.run(
            [*EMU, "run", "verify", "--nvdimm", f"file={tmp_path}/b.img"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "incomplete" in done.stderr
    verify(tmp_path / ("b.img" if status == "completed" else "a.img"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_the_source_is_killed(emus: list[Emu], tmp_path: Path, seed: int) -> None:
    source, destination = start(emus, tmp_path)
    source.ask("migrate", uri=f"unix:{tmp_path}/m.sock")
    time.sleep(random.Random(100 + seed).random() * 0.9)
    source.kill()
    wait_until(
        lambda: destination.process.poll() is not None or (destination.ask("query-status") or {}).get("running"),
        "end of the destination's wait",
    )
    if destination.process.poll() is None:
        assert incomplete.reason(tmp_path / "b.img") is None
        wait_until(destination.counted, "guest that goes on")
        destination.kill()
        verify(tmp_path / "b.img")
    else:
        assert destination.process.returncode == 4
        assert "migration-failed" in destination.end()
        # Whatever the destination has is marked, unless nothing had been stored yet; the source's file is whole.
        image = tmp_path / "b.img"
        assert incomplete.reason(image) is not None or not any(image.read_bytes())
        verify(tmp_path / "a.img")


def test_an_incomplete_file_is_used_only_on_request(tmp_path: Path) -> None:
    image = tmp_path / "p.img"
    image.write_bytes(bytes(4 << 20))
    incomplete.mark(image, "a migration into it has not completed")
    words = [*EMU, "run", "hello", "--quiet", "--nvdimm", f"file={image}"]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--accept-incomplete" in refused.stderr
    accepted = subprocess.run([*words, "--accept-incomplete"], capture_output=True, text=True)
    assert accepted.returncode == 0
    assert subprocess.run(words, capture_output=True, text=True).returncode == 0
