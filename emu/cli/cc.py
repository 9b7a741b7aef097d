"""Compile C, C++ or assembly to a guest, with the host's compiler and the guest library.

All words are the compiler's own (FILE..., -o, -O2, -D, -I, -c, ...); what a guest needs is added: headers, start-up
code, library, addresses. The result boots as it is: emu run guest.elf.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import stat
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING

from emu.cli import output
from emu.errors import HostError, UsageError

if TYPE_CHECKING:
    from emu.guest.toolchain import Compiler

EPILOG = """\
The compiler is gcc or clang, or what CC names. C++ is without exceptions and dynamic_cast.

for make and CMake:
  --cflags, --cxxflags   print the flags that compile C, or C++
  --libs                 print the flags that link; they stand behind the objects

examples:
  emu cc log.c -o log.elf
  emu cc -O2 -DNO_PERSIST log.c -o broken.elf
  gcc $(emu cc --cflags) -c log.c && gcc log.o $(emu cc --libs) -o log.elf
"""

_PRINTED = ("--cflags", "--cxxflags", "--libs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "emu cc FILE... -o GUEST [compiler's options]\n       emu cc --cflags | --cxxflags | --libs"
    # Every word but these few belongs to the compiler, in the order given: argparse has no way to say that.
    parser.parse_known_args = functools.partial(_take, parser)  # type: ignore[assignment]  # of this one parser


def _take(
    parser: argparse.ArgumentParser, words: Sequence[str], namespace: argparse.Namespace | None = None
) -> tuple[argparse.Namespace, list[str]]:
    namespace = namespace or argparse.Namespace()
    if any(word in ("-h", "--help") for word in words):
        parser.print_help()
        parser.exit()
    namespace.traceback = "--traceback" in words
    namespace.given = [word for word in words if word != "--traceback"]
    namespace.run = run
    return namespace, []


def run(options: argparse.Namespace) -> int:
    from emu.guest.toolchain import HEADERS, find_compiler

    words: list[str] = options.given
    if not words:
        raise UsageError("there is nothing to compile", "give it a file: emu cc guest.c -o guest.elf")
    compiler = find_compiler()
    if any(word in _PRINTED for word in words):
        output.say(_flags(compiler, words))
        return 0
    _claim(words)
    for word in words:
        _refuse_stream(word.removeprefix("@"))
    command = compiler.build(words)
    try:
        done = subprocess.run(command, check=False, close_fds=False)  # a shell's <(...) is the compiler's to read
    except OSError as error:
        raise HostError(
            f"cannot run {compiler.command}: {error.strerror}", "name another compiler with CC=..."
        ) from None
    if done.returncode < 0:
        raise HostError(f"{compiler.command} was ended by signal {-done.returncode}", "try again")
    if done.returncode:
        # It has said what is wrong in its own words.
        raise UsageError(
            f"{compiler.command} refuses (status {done.returncode})",
            "what a guest has of the C library: the headers in " + str(HEADERS),
        )
    return 0


def _claim(words: list[str]) -> None:
    """UsageError where the guest would take the place of a file that it is made of."""
    from emu.host.claims import Claims

    claims, guest = Claims(), None
    rest = iter(words)
    for word in rest:
        if word == "-o":
            guest = next(rest, None)
        elif word.startswith("-o"):
            guest = word[2:]
        elif os.path.exists(word):  # noqa: PTH110 - any bytes a path may hold
            claims.reads(word, "what is compiled,")
    if guest is not None:
        claims.changes(guest, "-o")


def _refuse_stream(name: str) -> None:
    """UsageError where the compiler would wait for ever, or read without an end: a FIFO, a terminal, /dev/zero.

    Not for what a shell has opened: <(...) is /dev/fd/N.
    """
    from emu.host.files import resolve

    try:
        found = os.stat(name)  # noqa: PTH116 - any bytes a path may hold
    except (OSError, ValueError):
        return  # a flag, or the compiler says that no such file is there
    kind, null = found.st_mode, os.makedev(1, 3)
    ends = stat.S_ISREG(kind) or stat.S_ISDIR(kind) or (stat.S_ISCHR(kind) and found.st_rdev == null)
    if not ends and resolve(name).descriptor is None:
        raise UsageError(f"{name} is neither a file nor a folder", "give the source in a file, or behind '-x c -'")


def _flags(compiler: Compiler, words: list[str]) -> str:
    unknown = [word for word in words if word not in _PRINTED]
    if unknown:
        raise UsageError(f"{unknown[0]} does not go with options that print flags", "leave one of them out")
    ask = {"--cflags": compiler.c_flags, "--cxxflags": compiler.cplusplus_flags, "--libs": compiler.link_flags}
    return shlex.join(flag for word in words for flag in ask[word]())
