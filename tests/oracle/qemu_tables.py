"""Reads the ACPI tables of a real QEMU: start it with the given options, let its firmware run, follow the RSDP.

Nothing is booted: the firmware builds the tables within about a second, and ``pmemsave`` copies guest memory out.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from tests.oracle.requirements import require

QEMU = "qemu-system-x86_64"
_DEADLINE_S = 60.0


class Qemu:
    """A running QEMU with a QMP socket: commands and reads of guest physical memory."""

    def __init__(self, options: Sequence[str], scratch: Path) -> None:
        self.errors = ""
        self._scratch = scratch
        address = scratch / "qmp"
        self.process = subprocess.Popen(
            [
                require(QEMU, "qemu-system-x86"),
                *options,
                "-nodefaults",
                "-display",
                "none",
                "-qmp",
                f"unix:{address},server=on,wait=off",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: TextIO | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + _DEADLINE_S
        while True:
            try:
                self._socket.connect(str(address))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None or time.monotonic() > end:
                    self.close()
                    raise AssertionError(f"QEMU did not start: {self.errors}") from None
                time.sleep(0.01)
        self._socket.settimeout(_DEADLINE_S)
        self._lines = self._socket.makefile("r")
        self._answer()
        self.command("qmp_capabilities")

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self._socket.close()
        self.process.kill()
        self.errors = self.process.communicate()[1]

    def command(self, execute: str, **arguments: Any) -> Any:
        self._socket.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = self._answer()
            if "error" in answer:
                raise AssertionError(f"{execute}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def _answer(self) -> Any:
        assert self._lines is not None
        return json.loads(self._lines.readline())

    def memory(self, gpa: int, size: int) -> bytes:
        target = self._scratch / "memory"
        self.command("pmemsave", val=gpa, size=size, filename=str(target))
        return target.read_bytes()

    def tables(self) -> list[bytes]:
        """All tables the RSDT names, in its order, behind the RSDT itself; waits for the firmware to finish them."""
        end = time.monotonic() + _DEADLINE_S
        while (rsdt_address := self._rsdt_address()) is None:
            assert time.monotonic() < end, "the firmware did not publish an RSDP"
            time.sleep(0.05)
        rsdt = self._table(rsdt_address)
        return [rsdt, *(self._table(entry) for (entry,) in struct.iter_unpack("<I", rsdt[36:]))]

    def _rsdt_address(self) -> int | None:
        area = self.memory(0xE0000, 0x20000)
        for at in range(0, len(area), 16):
            rsdp = area[at : at + 20]
            if rsdp.startswith(b"RSD PTR ") and sum(rsdp) & 0xFF == 0:
                return int(struct.unpack_from("<I", rsdp, 16)[0])
        return None

    def _table(self, gpa: int) -> bytes:
        return self.memory(gpa, struct.unpack("<I", self.memory(gpa + 4, 4))[0])


@contextlib.contextmanager
def running_qemu(options: Sequence[str], scratch: Path) -> Iterator[Qemu]:
    """QEMU with ``options``, killed at the end; ``scratch`` is a directory of its own."""
    qemu = Qemu(options, scratch)
    try:
        yield qemu
    finally:
        qemu.close()


def qemu_tables(options: Sequence[str], scratch: Path) -> list[bytes]:
    """The tables of QEMU started with ``options``, the RSDT first."""
    with running_qemu(options, scratch) as qemu:
        return qemu.tables()


def table_of(tables: Sequence[bytes], signature: bytes, table_id: bytes | None = None) -> bytes | None:
    """The one table with ``signature`` (and OEM table id), or None."""
    found = [
        table
        for table in tables
        if table[:4] == signature and (table_id is None or table[16:24].rstrip(b" \0") == table_id)
    ]
    assert len(found) <= 1, f"several {signature!r} tables"
    return found[0] if found else None
