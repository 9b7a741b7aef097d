"""``emu`` commands as processes of their own, forked from one that has imported ``emu`` before.

A command's start is mostly Python's imports, several times its work, and the suite starts thousands. A fork has them
done; everything else is as in a process that the shell has started: arguments, environment, working directory, standard
streams, signals, ``emu.cli.start`` and how it exits. What tests about the start itself need they start themselves.
"""

from __future__ import annotations

import array
import contextlib
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple


class Done(NamedTuple):
    """How a command ended: its status as subprocess has it, and all that it wrote."""

    status: int
    out: bytes
    errors: bytes


class Forge:
    """The process that has ``emu`` imported, and forks; one for a worker of pytest, and gone with it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )

    def run(self, words: list[str], *, stdin: bytes | None, timeout: float) -> Done:
        """``emu WORDS`` with the environment and the working directory of this process. Like ``subprocess.run``, but no
        process is left when the time is up (TimeoutExpired).
        """
        reply, theirs = socket.socketpair()
        out, its_out = os.pipe()
        errors, its_errors = os.pipe()
        its_in, into = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), -1)
        given = its_in, its_out, its_errors, theirs.fileno()
        with reply:
            request = pickle.dumps((words, dict(os.environ), Path.cwd()))
            self._socket.sendall(len(request).to_bytes(4, "little"))
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))
            sent = self._socket.sendmsg([request], [rights])
            self._socket.sendall(request[sent:])
            theirs.close()
            for descriptor in given[:3]:
                os.close(descriptor)
            process = _number(reply)
            try:
                written = _exchange({out: bytearray(), errors: bytearray()}, into, stdin or b"", reply, timeout)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                if isinstance(error, TimeoutError):
                    raise subprocess.TimeoutExpired(words, timeout) from None
                raise
            return Done(_number(reply), *written)


def _number(reply: socket.socket) -> int:
    data = reply.recv(4, socket.MSG_WAITALL)
    assert len(data) == 4, "the process that forks has ended"
    return int.from_bytes(data, "little", signed=True)


def _exchange(
    outputs: dict[int, bytearray], into: int, data: bytes, ended: socket.socket, timeout: float
) -> list[bytes]:
    """Write ``data``, and read ``outputs`` to their ends and until ``ended`` has something. TimeoutError when late."""
    until, left = time.monotonic() + timeout, memoryview(data)
    with selectors.DefaultSelector() as waiting:
        for descriptor in outputs:
            waiting.register(descriptor, selectors.EVENT_READ)
        waiting.register(ended, selectors.EVENT_READ)
        if into >= 0:
            os.set_blocking(into, False)
            waiting.register(into, selectors.EVENT_WRITE)
        try:
            while waiting.get_map():
                ready = waiting.select(until - time.monotonic())
                if not ready and time.monotonic() > until:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fileobj is ended:
                        waiting.unregister(ended)
                    elif key.fd == into:
                        try:
                            left = left[os.write(into, left) :]
                        except BrokenPipeError:
                            left = left[:0]
                        if not left:
                            waiting.unregister(into)
                            os.close(into)
                    elif piece := os.read(key.fd, 1 << 16):
                        outputs[key.fd] += piece
                    else:
                        waiting.unregister(key.fd)
        finally:
            for descriptor in outputs:
                os.close(descriptor)
            if into in [key.fd for key in waiting.get_map().values()]:
                os.close(into)
    return [bytes(written) for written in outputs.values()]


_forge: Forge | None = None
_lock = threading.Lock()


def run(words: list[str], *, stdin: bytes | None, timeout: float) -> Done:
    """``emu WORDS``, see ``Forge.run``. One at a time."""
    global _forge  # noqa: PLW0603 - as long as this process
    with _lock:
        if _forge is None:
            _forge = Forge()
        return _forge.run(words, stdin=stdin, timeout=timeout)


# -- in the process that forks -----------------------------------------------------------------------------------------


def _serve(connection: socket.socket) -> None:
    while length := connection.recv(4, socket.MSG_WAITALL):
        size = int.from_bytes(length, "little")
        request, rights, _, _ = connection.recvmsg(size, socket.CMSG_SPACE(4 * 4))
        request += connection.recv(size - len(request), socket.MSG_WAITALL)
        given = array.array("i")
        given.frombytes(rights[0][2])
        process = os.fork()
        if process == 0:
            connection.close()
            os.close(given[3])
            words, environment, folder = pickle.loads(request)
            _become(words, environment, folder, given[:3])
        for descriptor in given[:3]:
            os.close(descriptor)
        with socket.socket(fileno=given[3]) as reply, contextlib.suppress(BrokenPipeError):
            reply.sendall(process.to_bytes(4, "little"))
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            reply.sendall(status.to_bytes(4, "little", signed=True))


def _become(words: list[str], environment: dict[str, str], folder: Path, streams: Any) -> None:
    """Go on as ``emu WORDS``."""
    from types import ModuleType

    from emu.cli.start import entry

    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["emu", *words]
    sys.modules["__main__"] = ModuleType("__main__")  # what a worker of --jobs would read again
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    entry()


def _import_all() -> None:
    """Also what is imported, and found out about Unicorn, when the first guest runs."""
    import importlib
    import pkgutil

    import emu
    from emu.cpu import store_log

    for module in pkgutil.walk_packages(emu.__path__, "emu."):
        if not module.name.startswith(("emu.testing", "emu.cli.projects", "emu.__main__")):
            importlib.import_module(module.name)
    importlib.import_module("capstone")
    store_log.is_available()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the commands' business, and that of pytest
    sys.path.remove(str(Path(__file__).parent))
    import gc

    _import_all()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
