"""What a lesson needs of the host, and what to install where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from emu.errors import EmuError, HostError
from emu.learn.lesson import Lesson

__all__ = ["missing"]


def missing(lesson: Lesson) -> list[EmuError]:
    """What ``lesson`` lacks here, each with what to do about it.

    A need is ``compiler`` (for guests), ``linux`` (a kernel), ``libpmem`` (headers and library of the host), or the
    name of a program, after which a Debian package may stand: ``mkfs.ext4:e2fsprogs``.
    """
    return [lack for need in lesson.needs if (lack := _lacks(need)) is not None]


def _lacks(need: str) -> EmuError | None:
    if need == "compiler":
        from emu.guest.toolchain import find_compiler

        return _refusal(find_compiler)
    if need == "linux":
        from emu.linux import kernel

        return _refusal(lambda: kernel.find(None))
    if need == "libpmem":
        return _refusal_of_libpmem()
    program, _, package = need.partition(":")
    if shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin"):
        return None
    return HostError(f"there is no program {program}", f"on Debian: apt-get install {package or program}")


def _refusal(find: Callable[[], object]) -> EmuError | None:
    try:
        find()
    except EmuError as error:
        return error
    return None


def _refusal_of_libpmem() -> EmuError | None:
    import subprocess

    compiler = shutil.which("gcc")
    words = [str(compiler), "-x", "c", "-", "-o", "/dev/null", "-lpmem"]
    program = "#include <libpmem.h>\nint main(void) { return pmem_is_pmem(0, 0); }\n"
    if compiler and subprocess.run(words, input=program.encode(), capture_output=True, check=False).returncode == 0:
        return None
    return HostError("there is no libpmem to compile with", "on Debian: apt-get install gcc libc6-dev libpmem-dev")
