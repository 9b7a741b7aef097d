"""The initial RAM disk of a Linux guest: emu's init and its plan, the modules that it loads, the user's programs."""

from __future__ import annotations

import enum
import os
import posixpath
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from emu import guest
from emu.errors import HostError, UsageError
from emu.linux import programs
from emu.linux.cpio import Tree, files
from emu.linux.kernel import Modules, name_of
from emu.linux.namespaces import FileSystem
from emu.linux.programs import Command
from emu.linux.protocol import Role
from emu.units import KIB

_INIT = Path(guest.__file__).resolve().with_name("images") / "linux-init"
_FOLDER = "/emu"
_PLAN = f"{_FOLDER}/plan"
_BASIC_MODULES = ("nfit", "nd_pmem")
_USE_MODULES = {
    FileSystem.EXT4: ("ext4",),
    FileSystem.XFS: ("xfs",),
    FileSystem.DEVDAX: ("dax_pmem", "device_dax"),
    FileSystem.NONE: ("dax_pmem", "device_dax"),
}
_TOOLS = ("ndctl", "daxctl")
_MERGED = ("/bin", "/sbin", "/lib", "/lib64")
"""Folders that are symbolic links into /usr where the distribution has merged them."""
_ACCOUNTS = (("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"), ("/etc/group", b"root:x:0:\n"))
"""Unless the user has others."""
_MOST_ARGUMENTS, _LARGEST_PLAN = 1024, 256 * KIB - 1
"""What init takes (guest/linux/init.c)."""


class Input(enum.StrEnum):
    """Where the command's standard input comes from (guest/linux/init.c has the letters)."""

    NONE = "n"
    FRAMED = "f"
    RECOVERY = "r"  # framed for the command of Role.RECOVERY, none for the others
    TERMINAL = "t"


class Plan(NamedTuple):
    """What init is to do. ``uses`` has one item for each NVDIMM, in the order of their addresses."""

    uses: Sequence[FileSystem]
    commands: Mapping[Role, Command]
    added: Sequence[str] = ()
    input: Input = Input.NONE


def build(plan: Plan, modules: Modules) -> bytes:
    """The archive. UsageError or HostError when something that it needs is not there."""
    tree = Tree()
    for folder in filter(os.path.islink, _MERGED):
        tree.link(folder, os.readlink(folder))
    for folder in ("/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/etc", "/bin", _FOLDER, "/pmem"):  # noqa: S108 - the guest's
        tree.directory(folder)
    tree.node("/dev/console", 5, 1)
    tree.node("/dev/null", 1, 3)
    for folder in ("/proc", "/sys", "/dev", *_mount_points(plan)):
        tree.hide(folder)
    tree.file("/init", _init(), executable=True)
    closure = programs.Closure(tree)
    for command in plan.commands.values():
        for program in command.programs:
            closure.program(program)
        for path in command.named:
            closure.optional(path)
    if Role.EXEC in plan.commands and plan.input is Input.TERMINAL:
        _add_tools(closure)
    for text in plan.added:
        _add(closure, text)
    _link_shell(tree, plan)
    for path, content in _ACCOUNTS:
        if path not in tree:
            tree.file(path, content)
    directory = os.getcwd()
    if directory not in tree:
        tree.directory(directory)
    records = [
        *_modules(tree, plan, modules),
        *_mounts(tree, plan),
        f"w{directory}",
        f"i{plan.input}",
        *_environment(plan),
    ]
    for role, command in plan.commands.items():
        records += [chr(role) + argument for argument in command.arguments]
        if len(command.arguments) > _MOST_ARGUMENTS:
            raise UsageError(
                f"the command {command.arguments[0]} has {len(command.arguments)} words, and {_MOST_ARGUMENTS} go",
                "put it into a script",
            )
    written = b"".join(os.fsencode(record) + b"\0" for record in records)
    if len(written) > _LARGEST_PLAN:
        raise UsageError(f"the commands have {len(written)} bytes, and {_LARGEST_PLAN} go", "put them into scripts")
    tree.file(_PLAN, written)
    return tree.archive()


def roles(archive: bytes) -> set[Role]:
    """The roles that the archive has a command for; none of an archive that ``build`` did not make."""
    try:
        plan = dict(files(archive)).get(_PLAN, b"")
    except ValueError:
        return set()
    commands = (Role.EXEC, Role.SETUP, Role.RECOVERY)
    return {role for role in commands if any(record.startswith(bytes((role,))) for record in plan.split(b"\0"))}


def _init() -> bytes:
    try:
        return _INIT.read_bytes()
    except OSError as error:
        raise HostError(f"{_INIT}: {error.strerror}", "install emu again, or 'make guests'") from None


def _add_tools(closure: programs.Closure) -> None:
    """What one wants at hand in a shell, where the host has it."""
    for tool in _TOOLS:
        try:
            path = programs.find_program(tool)
        except UsageError:
            continue
        closure.program(path)


def added(text: str) -> tuple[str, str | None]:
    """The file or folder that ``--add FILE[:PATH]`` names and, where it says so, its place in the guest."""
    source, colon, place = text.rpartition(":")
    return (source, place) if colon and not os.path.exists(text) else (text, None)


def _add(closure: programs.Closure, text: str) -> None:
    """``--add FILE[:PATH]``; the whole text when a file is called so."""
    source, place = added(text)
    if not source:
        raise UsageError(f"--add {text[:64]!r}: there is no file in it", "write --add FILE, or --add FILE:/PATH")
    if place is None:
        closure.add(source)
        return
    if not place.startswith("/") or posixpath.normpath(place) == "/":
        raise UsageError(
            f"--add {text[:64]}: '{place[:64]}' is not an absolute path of the guest", "write --add FILE:/PATH"
        )
    closure.add(source, posixpath.normpath(place))


def _link_shell(tree: Tree, plan: Plan) -> None:
    """With busybox, its tools by their names in /bin; a script's ``#!/bin/sh`` finds it too."""
    shell = next((p for c in plan.commands.values() for p in c.programs if os.path.basename(p) == "busybox"), None)
    if shell is None:
        return
    try:
        listed = subprocess.run([shell, "--list"], capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        listed = ["sh"]
    for name in listed:
        if f"/bin/{name}" not in tree:
            tree.link(f"/bin/{name}", shell)


def _modules(tree: Tree, plan: Plan, modules: Modules) -> Iterator[str]:
    wanted = list(_BASIC_MODULES) if plan.uses else []
    for use in plan.uses:
        wanted += _USE_MODULES[use]
    try:
        files = modules.order(wanted)
    except UsageError:
        if FileSystem.NONE not in plan.uses:
            raise
        files = modules.order(wanted[: len(_BASIC_MODULES)])  # what is left alone needs no device DAX
    for file in files:
        path = f"{_FOLDER}/modules/{name_of(file)}.ko"
        tree.file(path, modules.read(file))
        yield f"m{path}"


def _mounts(tree: Tree, plan: Plan) -> Iterator[str]:
    for number, use in enumerate(plan.uses):
        match use:
            case FileSystem.NONE:
                pass
            case FileSystem.DEVDAX:
                yield f"d/dev/dax{number}.0"
            case _:
                place = mount_point(number)
                tree.directory(place)
                yield f"d/dev/pmem{number}"
                yield f"f/dev/pmem{number} {place} {use} dax"


def _mount_points(plan: Plan) -> list[str]:
    kinds = (FileSystem.DEVDAX, FileSystem.NONE)
    return [mount_point(number) for number, use in enumerate(plan.uses) if use not in kinds]


def mount_point(number: int) -> str:
    """Where the file system of NVDIMM ``number`` (by address) is mounted: /pmem, /pmem1, /pmem2, ..."""
    return "/pmem" if number == 0 else f"/pmem{number}"


def _environment(plan: Plan) -> Iterator[str]:
    yield f"ePATH={programs.guest_path(plan.commands.values())}"
    yield "eHOME=/root"
    if plan.input is Input.TERMINAL:
        yield f"eTERM={os.environ.get('TERM', 'linux')}"
    if folders := os.environ.get("LD_LIBRARY_PATH"):
        yield f"eLD_LIBRARY_PATH={folders}"
