"""Everything that a Linux machine needs, made ready before anything is written: kernel, initial RAM disk, NVDIMMs."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from emu.config import MachineConfig
from emu.errors import EmuError, UsageError
from emu.linux import initramfs, kernel
from emu.linux.initramfs import Input, Plan
from emu.linux.namespaces import FileSystem, Planner, Step
from emu.linux.programs import command, shell
from emu.linux.protocol import Role
from emu.units import MIB, align_up

if TYPE_CHECKING:
    from emu.host.claims import Claims
    from emu.machine import Machine

NAME = "linux"
"""What stands in the place of an image."""
COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off init_on_alloc=0 "
    "cryptomgr.notests noapic nolapic nosmp"
)
"""A panic ends the run and an oops is one; the kernel lies where its symbols say; what a machine of one CPU without
secrets needs no time for is left away."""

_LONGEST_COMMAND_LINE = 2047
"""COMMAND_LINE_SIZE of Linux on x86 (asm/setup.h), without the zero byte."""


_LEAST_RAM = 256 * MIB
"""A distribution's kernel and its modules need more than other guests."""
_RAM_PER_DISK = 8
"""For each byte of the initial RAM disk: Linux gives what it unpacks there half of what is left."""


_OWN_DISK = "with an initial RAM disk of your own give the kernel as IMAGE; --add puts files into the guest"
_OPTIONS = {Role.EXEC: "--exec", Role.SETUP: "--setup", Role.RECOVERY: "--recover"}


class Request(NamedTuple):
    """What a user asks for. ``commands`` are command lines by role, none of EXEC for a shell. ``default_memory``: the
    machine gets as much RAM as all that needs, whatever its description says.
    """

    kernel: str | None = None
    file_system: FileSystem | None = None
    added: Sequence[str] = ()
    commands: Mapping[Role, str] = {}
    input: Input = Input.NONE
    default_memory: bool = False

    def claim(self, claims: Claims) -> None:
        """Say in ``claims`` which files are read: kernel, programs of the commands, what is added."""
        # What cannot be found is refused by `prepare`, in better words.
        name = self.kernel
        if name is None:
            with contextlib.suppress(EmuError):
                name = kernel.find(None).path
        if name is not None:
            claims.reads(name, "the kernel")
        for role, text in self.commands.items():
            programs: Collection[str] = ()
            with contextlib.suppress(EmuError):
                programs = command(text, _OPTIONS[role]).programs
            for program in programs:
                claims.reads(program, f"the program of {_OPTIONS[role]}")
        for text in self.added:
            source, _ = initramfs.added(text)
            if os.path.isdir(source):
                claims.reads_below(source, "--add")
            else:
                claims.reads(source, "--add")


class Prepared(NamedTuple):
    """``config`` boots the kernel; ``steps`` are what is still missing on its NVDIMMs, in their order. ``role`` is what
    init is to do."""

    config: MachineConfig
    kernel: kernel.Kernel
    steps: tuple[Step, ...]
    role: Role = Role.EXEC

    def format(self, machine: Machine) -> None:
        """Write what is missing to the NVDIMMs of ``machine``, which was built and has not run.

        Durable when it returns. UsageError when they do not lie as init expects them; then nothing was written.
        """
        places = [dimm.device.gpa for dimm in machine.nvdimms]
        if places != sorted(places):
            raise UsageError("the NVDIMMs do not lie in the order that they are given in", "order them by addr=")
        for step, dimm in zip(self.steps, machine.nvdimms, strict=bool(self.steps)):
            if step.writes:
                device = dimm.device
                step.carry_out(dimm.backend.mapping, device.label_size, device.gpa, device.slot)


def prepare(
    request: Request,
    config: MachineConfig,
    scratch: contextlib.ExitStack,
    identity: Callable[[], uuid.UUID] = uuid.uuid4,
) -> Prepared:
    """Find the kernel, look at the NVDIMMs of ``config``, make new file systems in scratch files that live as long as
    ``scratch``, and build the initial RAM disk. ``identity`` gives new namespaces and file systems their UUIDs.

    UsageError or HostError, one for each thing that can be missing; no file of the user's is written.
    """
    found = kernel.find(request.kernel)
    if isinstance(config.initrd, str):
        return _prepared_before(found, config, config.initrd, default_memory=request.default_memory)
    commands = {role: command(text, _OPTIONS[role]) for role, text in request.commands.items()}
    if Role.EXEC not in commands:
        commands[Role.EXEC] = shell()
    planner = Planner(request.file_system, scratch, identity)
    steps = tuple(planner.examine(dimm) for dimm in config.nvdimms)
    plan = Plan([step.use for step in steps], commands, request.added, request.input)
    disk = initramfs.build(plan, kernel.Modules(found))
    return Prepared(_booting(found, disk, config, default_memory=request.default_memory), found, steps)


def _prepared_before(found: kernel.Kernel, config: MachineConfig, path: str, *, default_memory: bool) -> Prepared:
    """A machine with the initial RAM disk in the file ``path``, which another one of ours had; its NVDIMMs stay as they
    are. It recovers, where that is what the disk is for.
    """
    try:
        disk = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the initial RAM disk: {error.strerror}", _OWN_DISK) from None
    roles = initramfs.roles(disk)
    if not roles:
        raise UsageError(f"{path} is not an initial RAM disk that emu made", _OWN_DISK)
    role = Role.RECOVERY if Role.RECOVERY in roles else Role.EXEC
    return Prepared(_booting(found, disk, config, default_memory=default_memory), found, (), role)


def own_words(cmdline: str) -> str:
    """What is the user's of the command line of a machine that was prepared."""
    return cmdline.removeprefix(COMMAND_LINE).lstrip()


def _booting(found: kernel.Kernel, disk: bytes, config: MachineConfig, *, default_memory: bool) -> MachineConfig:
    """``config`` with the kernel, and as much memory as that needs."""
    cmdline = f"{COMMAND_LINE} {config.cmdline}".rstrip()
    length = len(cmdline.encode("utf-8", "surrogateescape"))
    if length > _LONGEST_COMMAND_LINE:
        raise UsageError(
            f"the kernel's command line has {length} bytes with what emu adds, and Linux takes {_LONGEST_COMMAND_LINE}",
            f"shorten --append to {_LONGEST_COMMAND_LINE - len(COMMAND_LINE) - 1}",
        )
    if default_memory:
        config = replace(config, ram_size=max(_LEAST_RAM, align_up(_RAM_PER_DISK * len(disk), MIB)))
    return replace(config, image=found.path, initrd=disk, cmdline=cmdline)
