"""How a machine ends and reboots, told over QMP: events, reasons and their place among the answers, as QEMU does it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from emu import guest
from emu.testing.commands import EMU
from tests.oracle.requirements import require

TIMEOUT_S = 60
# Until the commands that follow are sent; long enough for a guest that ends at once to have ended.
SETTLE_S = 0.5
LOAD = 0x100000
COUNT = guest.find("count")
GUESTS = {
    "powers off": "66ba0406 66b80020 66ef f4",  # PM1a control: SLP_EN
    "resets by 0xCF9": "66baf90c b006 ee f4",
    "resets by the keyboard controller": "b0fe e664 f4",
    "panics": "66ba0505 b001 ee f4",
    "triple faults": f"0f011d {struct.pack('<I', LOAD + 64).hex()} cc" + "00" * 64,
}  # all of them 32-bit code; the last loads an empty IDT


def multiboot(code: bytes) -> bytes:
    magic, flags, end = 0x1BADB002, 0x10000, LOAD + 32 + len(code)
    head = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, LOAD, LOAD, end, end, LOAD + 32)
    return head + code


class Run:
    """A paused machine of ``who``, asked by one client: ``told`` is events and answers in their order."""

    def __init__(self, who: str, folder: Path, *words: str) -> None:
        folder.mkdir()
        path = folder / "qmp"
        if who == "qemu":
            command = [require("qemu-system-x86_64", "qemu-system-x86"), "-accel", "tcg", "-device", "pvpanic"]
        else:
            command = [*EMU, "run", "--quiet"]
        command += [
            "-machine",
            "q35,nvdimm=on",
            "-m",
            "128M,slots=1,maxmem=1G",
            "-display",
            "none",
            "-nodefaults",
            "-serial",
            "none",
            "-S",
        ]
        command += ["-qmp", f"unix:{path},server=on,wait=off", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + TIMEOUT_S
        while self.socket.connect_ex(str(path)):
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        self.socket.settimeout(TIMEOUT_S)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.told: list[Any] = []
        self.ask("qmp_capabilities")
        self.told.clear()

    def read(self) -> bool:
        try:
            line = self.file.readline()
        except ConnectionResetError:
            return False
        if not line:
            return False
        message = json.loads(line)
        self.told.append((message["event"], message.get("data", {})) if "event" in message else "answer")
        return True

    def ask(self, command: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.socket.sendall(json.dumps({"execute": command}).encode())
        answers = self.told.count("answer")
        while self.told.count("answer") == answers and self.read():
            pass

    def rest(self) -> list[Any]:
        """All that was told, when the machine has ended by itself."""
        while self.read():
            pass
        self.process.wait(TIMEOUT_S)
        return self.told

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.file.close()
        self.socket.close()


def both(folder: Path, act: Any, *words: str) -> list[list[Any]]:
    """What QEMU and emu told."""
    told = []
    for who in ("qemu", "emu"):
        with contextlib.closing(Run(who, folder / who, *words)) as run:
            told.append(act(run))
    return told


def counting(*more: str) -> tuple[str, ...]:
    """Words for a guest that counts for ever in its NVDIMM."""
    assert COUNT is not None
    nvdimm = ("-object", "memory-backend-ram,id=m1,size=4M", "-device", "nvdimm,memdev=m1")
    return ("-kernel", str(COUNT.path), "-append", "0 20000", *nvdimm, *more)


@pytest.mark.parametrize("reboots", [True, False])
@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("command", ["quit", "system_reset", "stop"])
def test_what_a_command_causes_is_told_before_its_answer(
    tmp_path: Path, command: str, paused: bool, reboots: bool
) -> None:
    def act(run: Run) -> list[Any]:
        if not paused:
            run.ask("cont")
            time.sleep(SETTLE_S)
        run.ask(command)
        if command == "quit" or (command == "system_reset" and not reboots):
            return run.rest()
        assert run.process.poll() is None
        return list(run.told)

    qemu, emu = both(tmp_path, act, *counting(*([] if reboots else ["-no-reboot"])))
    assert emu == qemu


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    def act(run: Run) -> list[Any]:
        run.ask("cont")
        time.sleep(SETTLE_S)
        run.process.send_signal(number)
        return run.rest()

    qemu, emu = both(tmp_path, act, *counting())
    assert emu == qemu
    assert emu[-1] == ("SHUTDOWN", {"guest": False, "reason": "host-signal"})


@pytest.mark.parametrize("does", [name for name in GUESTS if name != "triple faults"])
def test_what_a_guest_does_at_once_is_told_behind_the_answer_that_let_it_run(tmp_path: Path, does: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(multiboot(bytes.fromhex(GUESTS[does])))

    def act(run: Run) -> list[Any]:
        run.ask("cont")
        return run.rest()

    qemu, emu = both(tmp_path, act, "-kernel", str(image), "-append", "", "-no-reboot")
    assert emu == qemu


@pytest.mark.parametrize("does", ["resets by 0xCF9", "resets by the keyboard controller"])
def test_a_guest_that_resets_itself_again_and_again(tmp_path: Path, does: str) -> None:
    image = tmp_path / "image"
    image.write_bytes(multiboot(bytes.fromhex(GUESTS[does])))

    def act(run: Run) -> list[Any]:
        run.ask("cont")
        while len(run.told) < 4:
            assert run.read()
        return run.told[:4]

    qemu, emu = both(tmp_path, act, "-kernel", str(image), "-append", "")
    assert emu == qemu


def test_a_triple_fault_ends_a_machine_where_qemu_reboots_it(tmp_path: Path) -> None:
    """The one difference, and it is documented: emu says that the guest is dead, and with what."""
    image = tmp_path / "image"
    image.write_bytes(multiboot(bytes.fromhex(GUESTS["triple faults"])))

    def act(run: Run) -> list[Any]:
        run.ask("cont")
        return run.rest()

    qemu, emu = both(tmp_path, act, "-kernel", str(image), "-append", "", "-no-reboot")
    assert qemu[:2] == emu[:2] == [("RESUME", {}), "answer"]
    assert qemu[2:] == [("SHUTDOWN", {"guest": True, "reason": "guest-reset"})]
    panicked, shutdown = emu[2:]
    assert panicked[0] == "GUEST_PANICKED"
    assert panicked[1]["action"] == "poweroff"
    assert "triple fault" in panicked[1]["x-emu-detail"]
    assert shutdown == ("SHUTDOWN", {"guest": True, "reason": "guest-panic"})
