"""Real ``emu run`` processes for the tests of migration."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from emu.testing.commands import EMU
from tests.integration.run_emu import PATIENCE_S

SIZE = "8M"


class Emu:
    """An ``emu run`` process with a QMP socket and its serial port in a file."""

    def __init__(self, folder: Path, name: str, words: list[str], *, quiet: bool = True) -> None:
        self.folder = folder
        self.name = name
        self.qmp = folder / f"{name}.qmp"
        self.serial = folder / f"{name}.serial"
        self.process = subprocess.Popen(
            [*EMU, "run", *words, *(["--quiet"] if quiet else []), "-m", "16M", "-serial", f"file:{self.serial}",
             "--nvdimm", f"file={folder}/{name}.img,size={SIZE},label-size=128K,id=nv1",
             "-qmp", f"unix:{self.qmp},server=on,wait=off"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        wait_until(lambda: self.qmp.exists() or self.process.poll() is not None, f"QMP socket of {name}")
        assert self.process.poll() is None, self.end()

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command on a connection of its own; None when the process is gone."""
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE_S)
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
        return self.process.communicate(timeout=PATIENCE_S)[1].decode()


def wait_until(condition: Any, what: str, timeout: float = PATIENCE_S) -> None:
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
