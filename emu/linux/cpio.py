"""A tree of files as the kernel unpacks it: a cpio archive of the "newc" format (buffer-format.rst of its manual).

Everything belongs to root and has no time, and entries come in a fixed order: the same tree is the same bytes.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterator
from typing import NamedTuple

from emu.errors import UsageError

_MAGIC, _TRAILER = b"070701", "TRAILER!!!"
_HEAD = 6 + 13 * 8
"""Bytes of a header: the magic number and 13 fields of 8 hexadecimal digits."""
_MOST_LINKS = 40
_DIRECTORY_MODE = 0o755


class Entry(NamedTuple):
    """A file, directory (no data), symbolic link (``data`` is where to) or device node (``device``)."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


class Tree:
    """Files by absolute path. Directories on the way are made; symbolic links on the way are followed."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._hidden: list[str] = []

    def hide(self, path: str) -> None:
        """Something is mounted over the directory ``path``: no file may be put below it from now on."""
        self._hidden.append(self.place(path))

    def __contains__(self, path: str) -> bool:
        return self.place(path) in self._entries

    def file(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """A regular file. UsageError when there is another one at ``path``, or nobody could see it there."""
        place = self.place(path)
        over = next((hidden for hidden in self._hidden if place.startswith(f"{hidden}/")), None)
        if over is not None:
            raise UsageError(
                f"{path} would not be seen: the guest has something else mounted on {over}", "choose another path"
            )
        before = self._entries.get(place)
        if before is not None and stat.S_ISREG(before.mode):
            if before.data != data:
                raise UsageError(f"{path} would be two different files of the guest", "choose another path for one")
            executable = executable or bool(before.mode & 0o100)
        self._add(path, Entry(stat.S_IFREG | (0o755 if executable else 0o644), data))

    def directory(self, path: str, *, mode: int = _DIRECTORY_MODE) -> None:
        """A directory, and those above it. UsageError when something else is there."""
        place = self.place(path)
        if place == "/":
            return
        entry = self._entries.get(place)
        if entry is None:
            self._add(path, Entry(stat.S_IFDIR | mode))
        elif not stat.S_ISDIR(entry.mode):
            raise UsageError(f"{path} is a file of the guest already, and is to be a directory", "choose another path")

    def link(self, path: str, target: str) -> None:
        """A symbolic link, unless there is something already."""
        parent, name = posixpath.split(posixpath.normpath(path))
        place = posixpath.join(self.place(parent), name)
        if place not in self._entries:
            self.directory(parent)
            self._entries[place] = Entry(stat.S_IFLNK | 0o777, target.encode("utf-8", "surrogateescape"))

    def node(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self._add(path, Entry(stat.S_IFCHR | 0o600, device=(major, minor)))

    def place(self, path: str) -> str:
        """Where ``path`` leads, symbolic links of the tree followed."""
        left = [part for part in path.split("/") if part not in ("", ".")][::-1]
        here, followed = "/", 0
        while left:
            part = left.pop()
            if part == "..":
                here = posixpath.dirname(here)
                continue
            here = posixpath.join(here, part)
            entry = self._entries.get(here)
            if entry is not None and stat.S_ISLNK(entry.mode) and followed < _MOST_LINKS:
                followed += 1
                target = entry.data.decode("utf-8", "surrogateescape")
                left += [piece for piece in target.split("/") if piece not in ("", ".")][::-1]
                here = "/" if target.startswith("/") else posixpath.dirname(here)
        return here

    def _add(self, path: str, entry: Entry) -> None:
        place = self.place(path)
        if place == "/":
            raise UsageError(f"{path} is the guest's root directory", "choose another path")
        before = self._entries.get(place)
        if before is not None and stat.S_ISDIR(before.mode):
            raise UsageError(f"{path} is a directory of the guest already", "choose another path")
        self.directory(posixpath.dirname(place))
        self._entries[place] = entry

    def archive(self) -> bytes:
        """The whole tree; directories come before what is in them."""
        pieces: list[bytes] = []
        for inode, (path, entry) in enumerate(sorted(self._entries.items()), 1):
            _put(pieces, inode, path[1:], entry)
        _put(pieces, 0, _TRAILER, Entry(0))
        return b"".join(pieces)


def _put(pieces: list[bytes], inode: int, name: str, entry: Entry) -> None:
    raw = name.encode("utf-8", "surrogateescape") + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(raw), 0)
    head = _MAGIC + b"".join(b"%08X" % value for value in fields) + raw
    pieces += [head, bytes(-len(head) % 4), entry.data, bytes(-len(entry.data) % 4)]


def files(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the regular files of an archive that ``Tree.archive`` made."""
    at = 0
    while at < len(archive):
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, named = fields[1], fields[6], fields[11]
        start = at + _HEAD + named
        name = archive[at + _HEAD : start - 1].decode("utf-8", "surrogateescape")
        start += -start % 4
        if stat.S_ISREG(mode):
            yield f"/{name}", archive[start : start + size]
        at = start + size + -size % 4
