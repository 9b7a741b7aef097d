"""Which kernel: the one that the user names, or the newest of the host that can be read; and its modules in order.

Files are where distributions put them: /boot/vmlinuz-RELEASE or /lib/modules/RELEASE/vmlinuz, the modules in
/lib/modules/RELEASE with depmod's tables (modules.dep(5)). A kernel unpacked somewhere else has its modules beside it.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from emu.errors import HostError, UsageError
from emu.linux.programs import ARCHITECTURES, X86_64

VARIABLE = "EMU_KERNEL"
_PLACES = ("/boot/vmlinuz-*", "/lib/modules/*/vmlinuz", "/usr/lib/modules/*/vmlinuz")
_REMEDY = (
    "install one (Debian: linux-image-amd64, Ubuntu: linux-image-generic, Fedora: kernel-core, Arch: linux), "
    f"or name one with --kernel or {VARIABLE}"
)
_X86_64 = "give a vmlinuz, or an uncompressed vmlinux, for x86-64"
_IMAGES = {b"ARM\x64": "AArch64", b"RSC\x05": "RISC-V"}
"""The magic number of an uncompressed Image, at offset 56 (Documentation/arch/arm64/booting.rst, riscv/boot.rst)."""
_HEAD = 1 << 16
_BANNER = re.compile(rb"Linux version (\S{1,64}) \(")


class Kernel(NamedTuple):
    """``release`` is what ``uname -r`` says; ``modules`` the folder of its modules, None for a kernel without."""

    path: str
    release: str
    modules: Path | None


def find(named: str | None) -> Kernel:
    """The kernel at ``named``, at EMU_KERNEL, or the newest one; UsageError or HostError when there is none to read."""
    chosen = named if named is not None else os.environ.get(VARIABLE) or None
    if chosen == "":
        raise UsageError("--kernel: the name is empty", _REMEDY)
    if chosen is not None:
        return _examine(chosen)
    found = [path for pattern in _PLACES for path in glob.glob(pattern) if "rescue" not in path]
    readable = [path for path in found if os.access(path, os.R_OK)]
    if not found:
        raise HostError("there is no Linux kernel on this host", _REMEDY)
    if not readable:
        newest = max(found, key=_version)
        raise HostError(
            f"{newest} cannot be read by this user", f"sudo chmod a+r {newest}, or copy it and give --kernel COPY"
        )
    return _examine(max(readable, key=_version))


def _version(path: str) -> tuple[tuple[int, str], ...]:
    """What sorts releases: numbers by value, the rest by letters. A plain "vmlinuz" has its release in its folder."""
    name = Path(path).name
    text = name.removeprefix("vmlinuz-") if name != "vmlinuz" else Path(path).parent.name
    return tuple((int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"[.-]", text))


def _examine(path: str) -> Kernel:
    release = release_of(path)
    root = Path(os.path.abspath(path))
    places = [
        Path("/lib/modules", release),
        *(parent / "lib/modules" / release for parent in root.parents),
        *(parent / "usr/lib/modules" / release for parent in root.parents),
    ]
    # Its own modules first, when it was unpacked with them.
    ordered = [place for place in [*places[1:], places[0]] if place.is_dir()]
    folder = next((place for place in ordered if (place / "modules.dep").is_file()), None)
    if folder is None and any((place / "kernel").is_dir() for place in ordered):
        raise HostError(
            f"{ordered[0]} has modules, and no modules.dep that says which need which",
            f"run 'depmod {release}' as root",
        )
    return Kernel(path, release, folder)


def release_of(path: str) -> str:
    """The release of the kernel at ``path``; UsageError when it cannot be read or is no kernel."""
    from emu.boot import is_linux, linux
    from emu.boot.elf import MAGIC

    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):
            raise UsageError(f"{path} is not a Linux kernel, but a FIFO", _X86_64)
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if is_linux(head):
                return linux.version(head) or "unknown"
            if other := _other_architecture(head):
                raise UsageError(f"{path} is a kernel or program for another architecture: {other}", _X86_64)
            if head.startswith(MAGIC):
                match = _BANNER.search(head + file.read())
                if match is not None:
                    return match[1].decode("ascii", "replace")
    except OSError as error:
        raise UsageError(f"{path}: cannot read the kernel: {error.strerror}", _REMEDY) from None
    except ValueError:
        raise UsageError(f"{path!r} is not a file name", _REMEDY) from None
    raise UsageError(f"{path} is not a Linux kernel", _X86_64)


def _other_architecture(head: bytes) -> str | None:
    """The architecture that the file with these first bytes is for, when it is a known one and not ours."""
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        machine = int.from_bytes(head[18:20], "big" if head[5] == 2 else "little")
        return None if machine == X86_64 else ARCHITECTURES.get(machine)
    return _IMAGES.get(head[56:60])


class Modules:
    """The modules of one kernel, by name, with what must be loaded before them."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._files: dict[str, str] = {}
        self._needs: dict[str, list[str]] = {}
        self._before: dict[str, list[str]] = {}
        self._aliases: dict[str, str] = {}
        self._built_in: set[str] = set()
        if kernel.modules is not None:
            self._read_tables(kernel.modules)

    def _read_tables(self, folder: Path) -> None:
        for words in _table(folder / "modules.dep"):
            file, needs = words[0].removesuffix(":"), words[1:]
            name = name_of(file)
            self._files[name] = file
            self._needs[name] = [name_of(need) for need in needs]
        self._built_in = {name_of(words[0]) for words in _table(folder / "modules.builtin")}
        for words in _table(folder / "modules.softdep"):
            if words[0] == "softdep" and "pre:" in words:
                start = words.index("pre:") + 1
                stop = words.index("post:") if "post:" in words[start:] else len(words)
                self._before.setdefault(_plain(words[1]), []).extend(words[start:stop])
        wanted = {alias for aliases in self._before.values() for alias in aliases}
        for words in _table(folder / "modules.alias"):
            if len(words) == 3 and words[1] in wanted:
                name = _plain(words[2])
                # The one that runs on every CPU, so that one initramfs does on all machines.
                if words[1] not in self._aliases or name.endswith("_generic"):
                    self._aliases[words[1]] = name

    def order(self, wanted: Sequence[str]) -> list[str]:
        """The files to load, in order, for the modules ``wanted``; what is built in needs none.

        A kernel without a folder of modules is taken to have everything built in. UsageError for a module that there
        is not.
        """
        ordered: dict[str, None] = {}
        for name in wanted:
            self._visit(_plain(name), ordered, (), required=True)
        return list(ordered)

    def _visit(self, name: str, ordered: dict[str, None], above: tuple[str, ...], *, required: bool) -> None:
        file = self._files.get(name)
        if name in above or file in ordered:
            return
        if file is None:
            if required and self._kernel.modules is not None and name not in self._built_in:
                raise UsageError(
                    f"the kernel {self._kernel.release} has no module {name}",
                    f"take a kernel with NVDIMM and DAX support; its modules are in {self._kernel.modules}",
                )
            return
        for soft in self._before.get(name, ()):  # what it can do without, or finds under an alias
            self._visit(self._aliases.get(soft, _plain(soft)), ordered, (*above, name), required=False)
        for need in reversed(self._needs.get(name, ())):  # modules.dep has the first to load last
            self._visit(need, ordered, (*above, name), required=True)
        ordered[file] = None

    def read(self, file: str) -> bytes:
        """The uncompressed bytes of a module's file."""
        assert self._kernel.modules is not None
        path = self._kernel.modules / file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"{path}: cannot read the kernel module: {error.strerror}", "install the kernel again"
            ) from None
        module = decompress(data, str(path))
        if not module.startswith(b"\x7fELF"):
            raise UsageError(f"{path}: the kernel module is damaged: it is no ELF file", "install the kernel again")
        return module


def decompress(data: bytes, name: str) -> bytes:
    """A module as the kernel takes it: .ko.xz and .ko.gz are unpacked here, .ko.zst by the host's zstd."""
    if name.endswith(".xz"):
        import lzma

        try:
            return lzma.decompress(data)
        except lzma.LZMAError:
            raise UsageError(f"{name}: the kernel module is damaged", "install the kernel again") from None
    if name.endswith(".gz"):
        import gzip
        import zlib

        try:
            return gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            raise UsageError(f"{name}: the kernel module is damaged", "install the kernel again") from None
    if name.endswith(".zst"):
        try:
            done = subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True)
        except FileNotFoundError:
            raise HostError(f"{name} is packed with zstd, which is not installed", "install the package zstd") from None
        except subprocess.CalledProcessError as error:
            words = error.stderr.decode(errors="replace").strip()
            raise UsageError(f"{name}: the kernel module is damaged: {words}", "install the kernel again") from None
        return done.stdout
    return data


def name_of(file: str) -> str:
    """The name of the module in ``file``, with the underscores of ``lsmod``."""
    return _plain(Path(file).name.partition(".ko")[0])


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _table(path: Path) -> Iterator[list[str]]:
    """The lines of one of depmod's tables as words; none when it is not there."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words
