"""A machine that runs beside the test: what is typed at it, what it prints, its monitor, and its move to another."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from emu.testing.commands import EMU, TIMEOUT_S
from emu.testing.results import EmuRefused, last_lines

if TYPE_CHECKING:
    from emu.monitor.client import QmpClient

_PIECE = 1 << 16
_POLL_S = 0.02


class NotSeen(AssertionError):
    """The guest did not print what was waited for. The text says what it printed instead, and how it ended."""


class RunningMachine:
    """``emu run WORDS`` as a process of its own, whose COM1 is talked to. Times are seconds of real time.

    With ``qmp``, ``qmp`` is a client of its monitor. End it with ``close``, or as a context manager.
    """

    def __init__(self, *words: str | Path, qmp: bool = False) -> None:
        __tracebackhide__ = True
        self.words = ("run", *map(str, words))
        self._folder = Path(tempfile.mkdtemp(prefix="emu-"))  # a socket's path must be short
        self._monitor: QmpClient | None = None
        self._printed = bytearray()
        self._seen = 0
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        more = ["-qmp", f"unix:{self.socket},server=on,wait=off"] if qmp else []
        self._process = subprocess.Popen(
            [*EMU, *self.words, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        try:
            if qmp:
                self._monitor = self._connect()
        except BaseException:
            self.close()
            raise

    @property
    def command(self) -> str:
        """The command that starts such a machine, for a shell."""
        return shlex.join(("emu", *self.words))

    @property
    def socket(self) -> Path:
        """Where the monitor is."""
        return self._folder / "qmp"

    @property
    def qmp(self) -> QmpClient:
        """The monitor: ``machine.qmp.execute("query-status")``."""
        __tracebackhide__ = True
        if self._monitor is None:
            raise EmuRefused("this machine has no monitor: start it with emu_qmp, or qmp=True")
        return self._monitor

    # -- talking to it ----------------------------------------------------------------------------------------------

    @property
    def serial(self) -> str:
        """All that the guest has printed on COM1 so far; what is not UTF-8 becomes U+FFFD."""
        self._read(0)
        return self._printed.decode(errors="replace")

    def type(self, text: str) -> None:
        """Type ``text`` at COM1; the guest gets it when it reads. EmuRefused when the machine has ended."""
        __tracebackhide__ = True
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
        except BrokenPipeError:
            raise EmuRefused(f"nobody reads what is typed\n{self.report}") from None

    def wait_for(self, what: str | re.Pattern[str], timeout: float = TIMEOUT_S) -> str:
        """Wait until the guest prints ``what``, a text or a compiled pattern, behind all that was waited for before.

        Returns what was printed up to the end of it. NotSeen when the guest ends, or ``timeout`` seconds pass, without.
        """
        __tracebackhide__ = True
        pattern = re.compile(re.escape(what)) if isinstance(what, str) else what
        until = time.monotonic() + timeout
        more = True
        while True:
            text = self._printed[self._seen :].decode(errors="replace")
            found = pattern.search(text)
            if found is not None:
                self._seen += len(text[: found.end()].encode())
                return text[: found.end()]
            left = until - time.monotonic()
            if not more or left <= 0:
                why = f"it was not printed within {timeout:g} s" if more else "the machine ended without printing it"
                raise NotSeen(f"waited for {pattern.pattern if what is pattern else what!r}: {why}\n{self.report}")
            more = self._read(left)

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """The exit status of ``emu run``, when it has ended. NotSeen when it does not within ``timeout`` seconds."""
        __tracebackhide__ = True
        until = time.monotonic() + timeout
        while self._read(max(until - time.monotonic(), 0)):
            if time.monotonic() >= until:
                raise NotSeen(f"the machine did not end within {timeout:g} s\n{self.report}")
        return self._process.wait(max(until - time.monotonic(), _POLL_S))

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """kill -9: what is in the NVDIMM's file survives it, what the mapping does not promise may not."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and leave nothing behind. Harmless when closed; what it printed can still be read."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._read(0)
        if self._monitor is not None:
            self._monitor.__exit__()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> RunningMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what it came to --------------------------------------------------------------------------------------------

    @property
    def stderr(self) -> str:
        """What emu itself has said."""
        return os.pread(self._errors.fileno(), _PIECE, 0).decode(errors="replace")

    @property
    def report(self) -> str:
        """The command, the last lines that were printed, and whether it runs."""
        end = "it still runs" if self.status is None else f"ended with status {self.status}"
        return "\n".join([f"$ {self.command}", *last_lines(self.serial), *last_lines(self.stderr), end])

    def __repr__(self) -> str:
        return f"<emu machine {self.words[1]}: {'running' if self.status is None else f'status {self.status}'}>"

    def _read(self, seconds: float) -> bool:
        """Take what is printed within ``seconds``, at once when something is; whether more can come."""
        output = self._process.stdout
        if output is None or output.closed:
            return False
        if not select.select([output], [], [], seconds)[0]:
            return True
        data = os.read(output.fileno(), _PIECE)
        self._printed += data
        if not data:
            self._process.wait()
        return bool(data)

    def _connect(self) -> QmpClient:
        from emu.errors import HostError
        from emu.monitor.client import QmpClient

        __tracebackhide__ = True
        until = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return QmpClient(str(self.socket))
            except HostError:
                if self.status is not None or time.monotonic() >= until:
                    raise EmuRefused(self.stderr.strip() or self.report) from None
                time.sleep(_POLL_S)


def migrate(source: RunningMachine, *words: str | Path, timeout: float = TIMEOUT_S) -> RunningMachine:
    """Move ``source``, which has a monitor, to a new machine ``emu run --incoming ... WORDS``, which is returned.

    EmuRefused with emu's words when the move fails; then the new machine is closed, and ``source`` runs on.
    """
    __tracebackhide__ = True
    with _rendezvous() as address:
        destination = RunningMachine("--incoming", address, *words, qmp=True)
        try:
            source.qmp.execute("query-status")
            # Not --json: so the reason that the source was given, which the destination may not have said yet, is told.
            command = [*EMU, "migrate", "--qmp", str(source.socket), address]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
            )
            if done.returncode:
                raise EmuRefused(f"{done.stderr.strip()}\n{destination.report}")
        except BaseException:
            destination.close()
            raise
    return destination


@contextmanager
def _rendezvous() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="emu-") as folder:
        yield f"unix:{folder}/move"
