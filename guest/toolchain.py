"""How programs become guests: the flags that the host's compiler needs to build against the guest library.

The library (``lib/libguest.a``, its sources beside it and in ``libc``, its headers in ``include``) is built by
``make -C guest`` and committed, so that a compiler for x86-64 is all that is needed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from emu.errors import HostError, UsageError

__all__ = ["HEADERS", "Compiler", "find_compiler"]

_FOLDER = Path(__file__).resolve().parent
HEADERS = _FOLDER / "include"
"""What a guest has of the C library."""

_CPLUSPLUS = (".cc", ".cp", ".cpp", ".cxx", ".c++", ".C", ".CPP")
_NOT_LINKED = ("-c", "-S", "-E", "-M", "-MM", "-fsyntax-only")

# No red zone: interrupts use the stack. A frame pointer: call stacks are read by it. Code below 2 GiB at a fixed
# address, no protector and no landing pads: nothing of the kind is set up in a guest.
_CODE = [
    "-g",
    "-fno-omit-frame-pointer",
    "-fno-pic",
    "-fno-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-mno-red-zone",
    "-mcmodel=small",
    "-mno-avx",
]
_CODE_CPLUSPLUS = ["-fno-exceptions"]
_LINK = [
    "-nostdlib",
    "-static",  # and no PIE; clang warns of a -no-pie beside it
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
    "-Wl,-z,max-page-size=4096",
]


class Compiler:
    """A C or C++ compiler for x86-64, by its command; asks it once for its own headers."""

    def __init__(self, command: str) -> None:
        self.command = command

    def c_flags(self) -> list[str]:
        """What compiles a file of C or assembly."""
        return [*_CODE, *self.header_flags()]

    def cplusplus_flags(self) -> list[str]:
        """What compiles a file of C++: as C, with the compiler's own templates in front."""
        return [*_CODE, *_CODE_CPLUSPLUS, *_isystem(self._templates()), *self.header_flags()]

    def link_flags(self) -> list[str]:
        """What links objects to a guest; stands behind them."""
        script, library = _FOLDER / "lib" / "link.ld", _FOLDER / "lib" / "libguest.a"
        return [*_LINK, f"-Wl,-T,{script}", str(library), "-lgcc"]

    def build(self, words: Sequence[str]) -> list[str]:
        """The command that does what ``words`` (of a compiler's command line) say."""
        cplusplus = any(word.endswith(_CPLUSPLUS) for word in words) or "c++" in words
        flags = self.cplusplus_flags() if cplusplus else self.c_flags()
        link = [] if any(word in _NOT_LINKED for word in words) else self.link_flags()
        # The library is no source, whatever language the user's -x says that files are in.
        ended = ["-x", "none"] if link and any(word.startswith("-x") for word in words) else []
        return [self.command, *flags, *words, *ended, *link]

    def header_flags(self) -> list[str]:
        """Which headers there are: the guest library's and the compiler's own."""
        own = self._ask("-print-file-name=include")
        return ["-nostdinc", *_isystem([str(HEADERS), own])]

    def _templates(self) -> list[str]:
        """The folders in which the compiler looks for C++ headers that are its own."""
        text = self._ask("-E", "-v", "-x", "c++", os.devnull)
        return [line.strip() for line in text.splitlines() if line.startswith(" /") and "/c++" in line]

    def _ask(self, *words: str) -> str:
        done = subprocess.run(
            [self.command, *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
        if done.returncode:
            first = next(iter(done.stdout.splitlines()), f"status {done.returncode}")
            raise HostError(f"{self.command} does not answer as a compiler does: {first}", "name another with CC=...")
        return done.stdout.strip()


def find_compiler() -> Compiler:
    """``$CC``, or the first compiler for x86-64 that there is.

    HostError when there is none, UsageError when ``$CC`` names none.
    """
    chosen = os.environ.get("CC")
    if chosen:
        if shutil.which(chosen) is None:
            raise UsageError(f"CC={chosen}: there is no such program", "name a compiler for x86-64, or unset CC")
        return Compiler(chosen)
    native = platform.machine() in ("x86_64", "AMD64")
    names = ("gcc", "cc", "clang") if native else ("x86_64-linux-gnu-gcc",)
    for name in names:
        if shutil.which(name):
            return Compiler(name)
    package = "gcc" if native else "gcc-x86-64-linux-gnu"
    raise HostError(f"there is no C compiler for x86-64 ({', '.join(names)})", f"on Debian: apt-get install {package}")


def _isystem(folders: Sequence[str]) -> list[str]:
    return [word for folder in folders for word in ("-isystem", folder)]
