"""Linux as the guest of the laboratory: brought to where the laboratory begins, and how its commands end.

The kernel boots once: to the moment before the file systems are mounted, from which first ``--setup`` and then the
recorded command start. That moment is kept (``booted``). What the NVDIMMs hold when the command begins is what they
hold for good; a recovery starts at the kept moment of the same boot, with a crash state in place of it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu import board
from emu.config import BackendKind, MachineConfig, RunOptions
from emu.cpu.sites import describe_instruction
from emu.cpu.snapshot import Snapshot
from emu.devices.contract import ExitRequest, Sink
from emu.errors import Status, UsageError
from emu.linux.protocol import Message, Role, Stage, ended, failure
from emu.persistence.lab.booted import Booted, keep, write_content
from emu.persistence.lab.undo import Undo
from emu.units import PAGE

if TYPE_CHECKING:
    from emu.linux.prepare import Prepared
    from emu.machine import Exit, Machine

EXIT_STATUS, SIGNAL, OOPS = "exit-status", "signal", "oops"
"""Reasons of an ``Exit`` made here: the command ended with a status, or by a signal; the kernel's own code failed."""
_STAGES = {
    Stage.PLAN: "init-failed",
    Stage.MODULE: "init-failed",
    Stage.DEVICE: "no-device",
    Stage.MOUNT: "mount-failed",
}
_OOPS = re.compile(rb"(?:\[[ \d.]+\] ?)?((?:BUG: |kernel BUG at |general protection fault|Oops: ).{1,160})")
_LONGEST_LINE = 1024
KERNEL_CODE = 1 << 47
"""Code at this address and above is the kernel's."""
_X86_LONGEST = 15


class Talk:
    """emu's side of the talk with init: ends the machine as the command ends, and stops it at a message.

    All that the guest prints, the kernel included, goes to ``sink``. Give it its ``machine`` before that runs.
    ``input_wanted`` is called for each frame of standard input that init asks for.
    """

    def __init__(self, sink: Sink, role: Role) -> None:
        self.machine: Machine | None = None
        self._sink = sink
        self._role = role
        self._line = bytearray()
        self._wanted: Message | None = None
        self.reached: list[int] = []
        self.input_wanted: Callable[[], None] = lambda: None
        self.outputs = board.Outputs(serial=self._write_serial, debugcon=sink, errors=sink, init=self)

    def await_message(self, message: Message, role: Role) -> list[int]:
        """Play ``role`` and stop at ``message``; the list has something in it then."""
        self._role, self._wanted = role, message
        self.reached = []
        return self.reached

    def play(self, role: Role) -> None:
        """Play ``role`` to the end."""
        self._role, self._wanted = role, None
        self._line.clear()

    @property
    def line(self) -> bytes:
        """What the kernel has printed of a line that goes on."""
        return bytes(self._line)

    @line.setter
    def line(self, begun: bytes) -> None:
        self._line[:] = begun

    def _write_serial(self, data: bytes) -> None:
        self._sink(data)
        for byte in data:
            if byte != 0x0A:
                if len(self._line) < _LONGEST_LINE:
                    self._line.append(byte)
                continue
            if match := _OOPS.match(self._line):
                self._end(OOPS, Status.GUEST_CRASHED, None, match[1].decode(errors="replace").rstrip())
            self._line.clear()

    def role(self) -> int:
        return self._role

    def said(self, message: int, argument: int) -> None:
        assert self.machine is not None
        if message == self._wanted:
            self.reached.append(argument)
            self.machine.cpu.request_stop()
        elif message == Message.INPUT:
            self.input_wanted()
        elif message == Message.FAILED:
            stage, error = failure(argument)
            what = f"init ended with error {error} at stage {stage.name.lower()}"
            self._end(_STAGES[stage], Status.GUEST_CRASHED, error, what)
        elif message == Message.ENDED and self._role is not Role.SETUP:  # its file systems are still to be unmounted
            self.command_ended(argument)

    def command_ended(self, argument: int) -> None:
        """The command ended as ``argument`` of ENDED says."""
        end = ended(argument)
        if end.signal is not None:
            name = str(end.signal)
            with suppress(ValueError):
                name = signal.Signals(end.signal).name
            self._end(SIGNAL, Status.GUEST_CRASHED, end.signal, f"the command was ended by {name}")
        elif end.status == 0:
            self._end(EXIT_STATUS, Status.OK, 0)
        else:
            detail = f"the command ended with status {end.status}"
            self._end(EXIT_STATUS, end.status << 1 & 0xFF | 1, end.status, detail)

    def _end(self, reason: str, status: int, code: int | None, detail: str = "") -> None:
        assert self.machine is not None
        self.machine.end(ExitRequest(reason, status, code, detail))


class Scene(NamedTuple):
    """A Linux workload: what to boot, whether there is a ``--setup``, and a folder for the NVDIMMs' contents, which
    lives as long as the investigation.
    """

    prepared: Prepared
    has_setup: bool
    folder: Path


Drive = Callable[[list[int]], "Exit | None"]
"""Runs the machine to its end, or until something is in the list; how it ended."""


class Again(NamedTuple):
    """What it takes to run the workload once more, from the moment before its mount: ``config`` has files with what the
    NVDIMMs held then.
    """

    booted: Booted
    config: MachineConfig

    def machine(
        self, talk: Talk, drive: Callable[[Machine, list[int]], Exit | None], role: Role = Role.WORKLOAD
    ) -> Machine:
        """A machine that stands where the command begins, as the first one did. As ``Role.EXEC`` it unmounts the file
        systems in the end.
        """
        machine = talk.machine = self.booted.machine(self.config, talk.outputs, RunOptions(no_reboot=True))
        try:
            drive(machine, talk.await_message(Message.BEGIN, role))
        except BaseException:
            machine.close()
            raise
        talk.play(role)
        return machine


class Begun(NamedTuple):
    """A machine that stands where the command begins. ``config`` is its configuration with what the NVDIMMs hold there,
    ``booted`` the moment before the mount, or how the run ended that did not come to it; ``ended`` is how it did.
    """

    config: MachineConfig
    booted: Booted | Exit
    again: Again | None
    ended: Exit | None


def begin(machine: Machine, scene: Scene, talk: Talk, drive: Drive) -> Begun:
    """Bring a machine that was built from ``scene`` to where the command begins.

    UsageError when the setup fails, or init cannot go on to the command: a file system does not mount, for one.
    """
    talk.machine = machine
    machine.boot()
    scene.prepared.format(machine)
    ended = drive(talk.await_message(Message.SNAPSHOT, Role.WORKLOAD))
    booted = keep(machine, scene.folder) if ended is None else ended
    if ended is None and scene.has_setup:
        ended = _set_up(machine, talk, drive)
    again = None
    if ended is None and isinstance(booted, Booted):
        again = Again(booted, with_contents(machine, scene.folder, "before"))
        ended = drive(talk.await_message(Message.BEGIN, Role.WORKLOAD))
    if ended is not None and ended.reason in _STAGES.values():
        raise UsageError(
            f"the guest did not come to its command: {ended.detail}", "'emu run linux' shows what the kernel says of it"
        )
    talk.play(Role.WORKLOAD)
    return Begun(with_contents(machine, scene.folder, "at-start"), booted, again, ended)


def _set_up(machine: Machine, talk: Talk, drive: Drive) -> Exit | None:
    """Run the setup, and go back to the moment before it with all but the NVDIMMs."""
    of_nvdimms = [dimm.backend for dimm in machine.nvdimms]
    undo = Undo(machine, [backend for backend in machine.backends if backend not in of_nvdimms])
    snapshot = Snapshot(machine.cpu)
    try:
        back = machine.rewinder({name: device.save() for name, device in machine.devices.items()})
        told = drive(talk.await_message(Message.ENDED, Role.SETUP))
        if told is not None:
            return told
        end = ended(talk.reached[0])
        if end != (0, None):
            what = f"by signal {end.signal}" if end.signal else f"with status {end.status}"
            raise UsageError(f"--setup ended {what}", "let it end with status 0; 'emu run linux' shows what it prints")
        talk.play(Role.SETUP)
        last = drive([])
        if last is not None and last.status != Status.OK:
            return last
        undo.undo()
        back()
        snapshot.rewind()
        machine.cpu.invalidate(0, 1)
    finally:
        snapshot.close()
        undo.close()
    return None


def with_contents(machine: Machine, folder: Path, name: str) -> MachineConfig:
    """The machine's configuration with NVDIMMs that begin with what they hold now, from files in ``folder``, whose
    names begin with ``name``.
    """
    dimms = []
    for number, (dimm, plugged) in enumerate(zip(machine.config.nvdimms, machine.nvdimms, strict=True)):
        path, view = folder / f"{name}{number}", plugged.backend.mapping.view
        write_content(view, path)
        backend = replace(
            dimm.backend,
            kind=BackendKind.FILE,
            path=str(path),
            size=len(view),
            offset=0,
            share=False,
            align=plugged.backend.mapping.alignment,  # of which the size that the guest sees is a multiple
        )
        dimms.append(replace(dimm, backend=backend))
    return replace(machine.config, nvdimms=tuple(dimms))


def is_user(pc: int) -> bool:
    """Whether code at ``pc`` is a program's, not the kernel's."""
    return pc < KERNEL_CODE


class CodePages:
    """The pages of programs' code that were executed, by address: what says which file they are from, and where.

    Address spaces follow each other, so an address may have had several contents; all are kept.
    """

    def __init__(self) -> None:
        self.pages: dict[int, set[bytes]] = {}

    def see(self, address: int, size: int, read: Callable[[int, int], bytes]) -> None:
        """Code of ``size`` bytes at ``address`` is about to be executed for the first time."""
        if not is_user(address):
            return
        for page in range(address & -PAGE, address + size, PAGE):
            with suppress(UsageError):  # nothing is mapped there: the block ends in a fault
                self.pages.setdefault(page, set()).add(read(page, PAGE))

    def instruction(self, pc: int) -> str:
        """The text of the instruction at ``pc``; empty where its address had several contents, or none."""
        contents = self.pages.get(pc & -PAGE, set())
        if len(contents) != 1:
            return ""
        (page,) = contents
        following = self.pages.get((pc & -PAGE) + PAGE, set())
        code = page + (next(iter(following)) if len(following) == 1 else b"")
        return describe_instruction(code[pc % PAGE :][:_X86_LONGEST], pc, 64)
