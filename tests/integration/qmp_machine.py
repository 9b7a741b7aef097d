"""A guest under ``emu run -qmp`` in a process of its own, and a client that speaks QMP byte by byte."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from emu.testing.commands import EMU

TIMEOUT_S = 60


class QmpFailure(Exception):
    """An error answer; ``kind`` is its class."""

    def __init__(self, kind: str, description: str) -> None:
        super().__init__(description)
        self.kind = kind


class Client:
    """One connection. Sends without newlines; keeps the events that come between answers in ``events``."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert process.poll() is None, f"emu ended: {process.communicate()}"
                assert time.monotonic() < end, f"nobody listens at {path}"
                time.sleep(0.02)
        self.file = self.socket.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self.greeting = self.read()
        self.ask("qmp_capabilities")

    def read(self) -> dict[str, Any] | None:
        """The next message; None when the connection has ended."""
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line else None

    def ask(self, command: str, **arguments: Any) -> Any:
        """What ``command`` returns; in names of arguments ``_`` stands for ``-``."""
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.socket.sendall(json.dumps({"execute": command, "arguments": words}).encode())
        while True:
            message = self.read()
            assert message is not None, f"the connection ended during {command}"
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpFailure(message["error"]["class"], message["error"]["desc"])
            else:
                return message["return"]

    def refusal(self, command: str, **arguments: Any) -> str:
        """The description of the error that ``command`` must give."""
        try:
            answer = self.ask(command, **arguments)
        except QmpFailure as failure:
            return str(failure)
        raise AssertionError(f"{command} was accepted: {answer}")

    def wait_for(self, name: str) -> dict[str, Any]:
        """The first event ``name``, seen already or still to come; it is taken out of ``events``."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            message = self.read()
            assert message is not None, f"the connection ended before {name}"
            if "event" in message:
                self.events.append(message)

    def rest(self) -> list[str]:
        """Names of all events that are still to come until the server hangs up."""
        names = [event["event"] for event in self.events]
        while (message := self.read()) is not None:
            names.append(message.get("event", "answer"))
        return names

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class Emu:
    """``emu run`` with the given words and a QMP socket. A context manager: nothing is left running."""

    def __init__(self, folder: Path, *words: str, options: str = "server=on,wait=off") -> None:
        self.socket = folder / "qmp"
        command = [*EMU, "run", *words, "--quiet", "--timeout", str(TIMEOUT_S)]
        command += ["-qmp", f"unix:{self.socket},{options}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._clients: list[Client] = []

    def client(self) -> Client:
        self._clients.append(Client(self.socket, self.process))
        return self._clients[-1]

    def ended(self) -> tuple[int, str, str]:
        """Exit status, output and errors, when the process has ended by itself."""
        out, errors = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out.decode(), errors.decode()

    def __enter__(self) -> Emu:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self.process.kill()
        self.process.communicate()
