"""What a program needs to start: its interpreter, its libraries and theirs, found as ld.so finds them (ld.so(8)).

Only files are read; nothing of a program is executed, as ``ldd`` would.
"""

from __future__ import annotations

import contextlib
import glob
import os
import posixpath
import re
import shlex
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from emu.errors import UsageError
from emu.linux import shell as shells
from emu.linux.cpio import Tree
from emu.units import MIB

X86_64, _LITTLE_ENDIAN_64 = 62, b"\x7fELF\x02\x01"
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_RPATH, _DT_RUNPATH = 1, 5, 15, 29
_HEADER_SIZE = 56
_SYSTEM_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_CONFIGURATION = "/etc/ld.so.conf"
CACHE = "/etc/ld.so.cache"
_LARGEST = 512 * MIB
_MOST_SCRIPTS = 5
"""Interpreters of interpreters that Linux follows (fs/exec.c)."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EXECUTABLE, _SHARED = 2, 3
ARCHITECTURES = {3: "i386", 40: "ARM", 183: "AArch64", 243: "RISC-V", 21: "PowerPC", 22: "S/390", 8: "MIPS"}
_SHELL_SIGNS = set("|&;<>()$`*?[]{}~#\n=!")


class Dynamic(NamedTuple):
    """What an ELF file asks of ld.so: libraries, and where to look for them."""

    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def dynamic(data: bytes, name: str) -> Dynamic | None:
    """The dynamic section of an ELF file, None for other files. UsageError for another architecture, or damage."""
    if not data.startswith(b"\x7fELF"):
        return None
    machine = struct.unpack_from("<H", data, 18)[0] if len(data) >= 64 else 0
    if not data.startswith(_LITTLE_ENDIAN_64) or machine != X86_64:
        what = ARCHITECTURES.get(machine, f"ELF machine {machine}") if len(data) >= 64 else "a cut-short ELF file"
        raise UsageError(f"{name} is a program for another architecture: {what}", "give one for x86-64")
    try:
        return _read_dynamic(data)
    except (struct.error, ValueError, OverflowError):
        raise UsageError(f"{name}: the ELF file is damaged", "build or copy it again") from None


def _headers(data: bytes) -> list[tuple[int, ...]]:
    """The program headers: type, flags, offset, address, physical address, sizes in file and memory, alignment."""
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return [struct.unpack_from("<IIQQQQQQ", data, table + size * n) for n in range(count)]


def _read_dynamic(data: bytes) -> Dynamic:
    headers = _headers(data)
    loads = [(vaddr, offset, length) for kind, _, offset, vaddr, _, length, _, _ in headers if kind == _PT_LOAD]
    interpreter, entries = None, []
    for kind, _, offset, _, _, length, _, _ in headers:
        if kind == _PT_INTERP:
            interpreter = _text(data, offset)
        elif kind == _PT_DYNAMIC:
            raw = data[offset : offset + length]
            entries = list(struct.iter_unpack("<qQ", raw[: len(raw) // 16 * 16]))
    strings = next((value for tag, value in entries if tag == _DT_STRTAB), 0)
    start = next((offset + strings - vaddr for vaddr, offset, length in loads if 0 <= strings - vaddr < length), None)

    def texts(wanted: int) -> tuple[str, ...]:
        return tuple(_text(data, start + value) for tag, value in entries if tag == wanted and start is not None)

    def folders(wanted: int) -> tuple[str, ...]:
        return tuple(folder for text in texts(wanted) for folder in text.split(":") if folder)

    return Dynamic(interpreter, texts(_DT_NEEDED), folders(_DT_RPATH), folders(_DT_RUNPATH))


def _text(data: bytes, at: int) -> str:
    return os.fsdecode(data[at : data.index(0, at)])


def check_program(data: bytes, name: str) -> None:
    """UsageError unless Linux can execute the file: a whole ELF program for x86-64, or a script that says by what."""
    if data.startswith(b"#!"):
        if not _script_words(data):
            raise UsageError(f"{name}: its '#!' names no interpreter", "begin it with #!/bin/sh, or so")
        return
    if dynamic(data, name) is None:
        raise UsageError(
            f"{name} is no program: neither an ELF file nor a script that begins with '#!'",
            "begin it with #!/bin/sh, or give it to its interpreter",
        )
    (kind,) = struct.unpack_from("<H", data, 16)
    if kind not in (_EXECUTABLE, _SHARED):
        raise UsageError(f"{name} is no program: an ELF file of type {kind}, which is not linked", "link it")
    (size,) = struct.unpack_from("<H", data, 54)
    ends = [header[2] + header[5] for header in _headers(data) if header[0] == _PT_LOAD]
    if size != _HEADER_SIZE or not ends or max(ends) > len(data):
        raise UsageError(f"{name}: the ELF file is damaged or cut short", "build or copy it again")


def check_interpreters(data: bytes, name: str) -> None:
    """UsageError for a script whose interpreter is a script, and so on, more often than Linux follows, or for ever."""
    first = name
    for _ in range(_MOST_SCRIPTS + 1):
        words = _script_words(data) if data.startswith(b"#!") else []
        if not words:
            return
        name = words[0]
        data, _executable = read_file(name)
    raise UsageError(
        f"{first}: its '#!' leads from script to script, more than {_MOST_SCRIPTS} times or in a circle",
        "let it name a program, such as #!/bin/sh",
    )


def _script_words(data: bytes) -> list[str]:
    return os.fsdecode(data[2 : data.find(b"\n") if b"\n" in data else len(data)]).split()


class Closure:
    """Puts programs and what they load into a ``Tree``, at the places that they have on the host."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._done: set[str] = set()
        self._programs: set[str] = set()
        self._folders: tuple[str, ...] | None = None

    def add(self, path: str, place: str | None = None) -> None:
        """The file or folder ``path`` of the host, at ``place`` of the guest (default: the same absolute path).

        UsageError when it cannot be read, is for another architecture, or needs a library that is not there. What is
        in a folder may be for others: it is taken as it is, with what it needs where the host has that.
        """
        source = os.path.abspath(path)
        if os.path.isdir(source):
            for folder, _, names in os.walk(source):
                inside = os.path.relpath(folder, source)
                goal = posixpath.normpath(posixpath.join(place or source, inside))
                self._tree.directory(goal)
                for name in sorted(names):
                    self._add_member(os.path.join(folder, name), posixpath.join(goal, name))
            return
        self._put(source, place, *read_file(source))

    def _put(self, source: str, place: str | None, data: bytes, executable: bool) -> None:
        self._tree.file(place or self._mirror(source), data, executable=executable)
        self._needs(source, data, ())

    def program(self, path: str) -> None:
        """A program that is to be executed. UsageError as for ``add``, and when Linux could not execute it.

        A shell script brings the programs that its words name, as a line of ``--exec`` does.
        """
        if path in self._programs:
            return
        data, executable = read_file(path)
        check_program(data, path)
        self._put(os.path.abspath(path), None, data, executable)
        check_interpreters(data, path)
        self._programs.add(path)
        if data.startswith(b"#!") and any(
            posixpath.basename(word) in shells.SHELLS for word in _script_words(data)[:2]
        ):
            found = shells.programs_of(os.fsdecode(data), _program_or_none)
            for program in (*found.run.values(), *found.named.values()):
                self.optional(program)

    def optional(self, path: str) -> None:
        """What a command's words name and may do without, or may take as data: with what it needs if that is there."""
        try:
            self.program(path)
        except UsageError:
            with contextlib.suppress(UsageError):
                self.add(path)

    def _add_member(self, path: str, place: str) -> None:
        if os.path.islink(path) and not os.path.exists(path):
            self._tree.link(place, os.readlink(path))
            return
        data, executable = read_file(path)
        self._tree.file(place, data, executable=executable)
        with contextlib.suppress(UsageError):
            self._needs(path, data, ())

    def _mirror(self, path: str) -> str:
        """Give the guest the symbolic links on the way to ``path``; where its file really is."""
        here = "/"
        left = [part for part in path.split("/") if part][::-1]
        followed = 0
        while left:
            part = left.pop()
            if part in (".", ".."):
                here = os.path.dirname(here) if part == ".." else here
                continue
            step = os.path.join(here, part)
            if os.path.islink(step) and (followed := followed + 1) < 40:
                target = os.readlink(step)
                self._tree.link(step, target)
                left += [piece for piece in target.split("/") if piece][::-1]
                here = "/" if target.startswith("/") else here
            else:
                here = step
        return here

    def _needs(self, path: str, data: bytes, rpath: tuple[str, ...], scripts: int = 0) -> None:
        """What the file ``path`` needs; ``rpath`` are the folders of those who load it, as DT_RPATH is handed down."""
        if path in self._done:
            return
        self._done.add(path)
        if data.startswith(b"#!"):
            self._needs_interpreter(path, data, scripts)
            return
        asked = dynamic(data, path)
        if asked is None:
            return
        if asked.interpreter is not None:
            self._add_found(asked.interpreter, path, "its interpreter", ())
        here = os.path.dirname(os.path.realpath(path))
        own = _expand(asked.rpath, here) if not asked.runpath else ()
        for name in asked.needed:
            found = self._find(name, (*own, *rpath, *_expand(asked.runpath, here)))
            if found is None:
                raise UsageError(
                    f"{path} needs the library {name}, which is not on this host",
                    "install its package, or name its folder in LD_LIBRARY_PATH",
                )
            self._add_found(found, path, f"the library {name}", (*own, *rpath))

    def _needs_interpreter(self, path: str, data: bytes, scripts: int) -> None:
        words = _script_words(data)
        if not words or scripts >= _MOST_SCRIPTS:
            return
        self._add_found(words[0], path, "its interpreter", (), scripts + 1)
        if posixpath.basename(words[0]) == "env":
            program = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), None)
            if program is not None:
                self._add_found(find_program(program), path, "its interpreter", (), scripts + 1)

    def _add_found(self, found: str, by: str, what: str, rpath: tuple[str, ...], scripts: int = 0) -> None:
        if found in self._done:
            return
        try:
            data, executable = read_file(found)
            check_program(data, found)
        except UsageError as error:
            raise UsageError(f"{by} needs {what}: {error.what}", error.remedy) from None
        self._tree.file(self._mirror(found), data, executable=executable)
        self._needs(found, data, rpath, scripts)

    def _find(self, name: str, first: tuple[str, ...]) -> str | None:
        if "/" in name:
            return name if os.path.exists(name) else None
        by_user = tuple(folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder)
        for folder in (*first, *by_user, *self._configured(), *_SYSTEM_FOLDERS):
            candidate = os.path.join(folder, name)
            if os.path.isfile(candidate) and _is_ours(candidate):
                return candidate
        return None

    def _configured(self) -> tuple[str, ...]:
        if self._folders is None:
            self._folders = tuple(configured_folders(_CONFIGURATION))
            if os.path.exists(CACHE):  # the guest's ld.so knows these folders by it alone
                self._tree.file(CACHE, Path(CACHE).read_bytes())
        return self._folders


def configured_folders(path: str) -> Iterator[str]:
    """The folders that ld.so.conf names, included files too. What cannot be read names none."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                for included in sorted(glob.glob(os.path.join(os.path.dirname(path), pattern))):
                    yield from configured_folders(included)
        elif words and words[0].startswith("/"):
            yield words[0]


def _is_ours(path: str) -> bool:
    """Whether ``path`` is a 64-bit x86 library; ld.so passes over others, of which a host may have several sets."""
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head.startswith(_LITTLE_ENDIAN_64) and head[18:20] == X86_64.to_bytes(2, "little")


def _expand(folders: tuple[str, ...], origin: str) -> tuple[str, ...]:
    """The dynamic string tokens of ld.so(8)."""
    tokens = {"ORIGIN": origin, "LIB": "lib/x86_64-linux-gnu", "PLATFORM": "x86_64"}
    for name, value in tokens.items():
        folders = tuple(folder.replace(f"${{{name}}}", value).replace(f"${name}", value) for folder in folders)
    return folders


def read_file(path: str) -> tuple[bytes, bool]:
    """The bytes of a regular file, and whether it is executable. UsageError when it cannot be read."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is not a regular file", "give the path of a file")
        if status.st_size > _LARGEST:
            raise UsageError(f"{path} is too large for an initial RAM disk", "put it on the NVDIMM")
        return Path(path).read_bytes(), bool(status.st_mode & 0o111)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "give a file that can be read") from None
    except ValueError:
        raise UsageError(f"{path!r} is not a file name", "give the path of a file") from None


def find_program(name: str) -> str:
    """The absolute path of the program ``name``, looked for in PATH as a shell does. UsageError when there is none."""
    if "/" in name:
        if not os.path.isfile(name):
            raise UsageError(f"there is no program {name}", "give the path of a program of this host")
        if not os.access(name, os.X_OK):
            raise UsageError(f"{name} is not executable", f"chmod +x {name}, or give it to its interpreter")
        return os.path.abspath(name)
    found = _in_path(name)
    if found is None:
        raise UsageError(f"there is no program '{name}' in PATH", "install it, or give its path")
    return found


def guest_path(commands: Iterable[Command]) -> str:
    """PATH of the guest: the folders of the host's PATH that ``commands`` have programs from, then the usual ones."""
    used = {os.path.dirname(program) for command in commands for program in command.programs}
    usual = DEFAULT_PATH.split(":")
    others = [folder for folder in os.environ.get("PATH", "").split(":") if folder in used and folder not in usual]
    return ":".join(dict.fromkeys((*others, *usual)))


def _in_path(name: str) -> str | None:
    for folder in (*os.environ.get("PATH", "").split(":"), *DEFAULT_PATH.split(":")):
        candidate = os.path.join(folder or ".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return os.path.abspath(candidate)
    return None


class Command(NamedTuple):
    """What the guest executes; the programs of the host that it takes for that; and those that its words name by a
    path, which it may execute too or only read."""

    arguments: tuple[str, ...]
    programs: tuple[str, ...]
    named: tuple[str, ...] = ()


def command(text: str, option: str) -> Command:
    """What ``text`` means: the words of one program, or, when it has signs of a shell in it, a line for ``sh``.

    The programs are those that it runs (``shell.programs_of``); others come with ``--add``.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error} in '{text[:64]}'", "close the quotation") from None
    if not words:
        raise UsageError(f"{option}: the command is empty", f"write {option} 'COMMAND'")
    if "\0" in text:
        raise UsageError(f"{option}: the command has a zero byte in it", "leave it away")
    found = shells.programs_of(text, _program_or_none)
    run, named = found.run.values(), tuple(dict.fromkeys(found.named.values()))
    if not _SHELL_SIGNS & set(text) and words[0] not in shells.WORDS:
        program = find_program(words[0])
        return Command((program, *words[1:]), tuple(dict.fromkeys((program, *run))), named)
    shell = _find_shell("sh", "busybox")  # busybox would run its own tools instead of the host's programs
    first = re.match(r"\s*([\w.+-]*/[\w./+-]+)(?=[\s;|&<>]|$)", text)
    if first is not None:
        find_program(first[1])  # refuses here what the shell would not find in the guest
    return Command((*_as_shell(shell), "-c", text), tuple(dict.fromkeys((shell, *run))), named)


def _program_or_none(word: str) -> str | None:
    if "/" in word:
        return os.path.abspath(word) if os.path.isfile(word) and os.access(word, os.X_OK) else None
    return _in_path(word)


def shell() -> Command:
    """A shell to work in: the host's busybox, which needs nothing else and brings the usual tools, or its ``sh``."""
    found = _find_shell("busybox", "sh")
    return Command(_as_shell(found), (found,))


def _find_shell(*names: str) -> str:
    found = next((path for name in names if (path := _in_path(name)) is not None), None)
    if found is None:
        raise UsageError("there is neither busybox nor sh on this host", "install busybox-static")
    return found


def _as_shell(path: str) -> tuple[str, ...]:
    return (path, "sh") if os.path.basename(path) == "busybox" else (path,)
