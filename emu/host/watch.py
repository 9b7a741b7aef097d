"""Notices who writes to open files by system calls: write(2), truncate(2), fallocate(2) and their relatives.

Stores through a mapping are not noticed, those of this process (the guest's) included. Source: inotify(7), IN_MODIFY.
"""

from __future__ import annotations

import os
import struct

from emu.host import kernel
from emu.host._kernel import lib

_EVENT = struct.Struct("<iIII")  # watch, what, cookie, length of the name behind it (none for a file)
_ROOM = 64 * 1024
_REMEDY = "raise fs.inotify.max_user_instances or fs.inotify.max_user_watches (sysctl)"


class Watch:
    """The files that are watched, each under a name of the caller's."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._fd = lib.emu_watch()
        if self._fd < 0:
            raise kernel.host_error("cannot watch files for changes", -self._fd, _REMEDY)

    def add(self, descriptor: int, name: str) -> None:
        """Watch the file that is open as ``descriptor``, whatever becomes of its path. HostError where none can be."""
        number = lib.emu_watch_writes(self._fd, f"/proc/self/fd/{descriptor}".encode())
        if number < 0:
            raise kernel.host_error(f"cannot watch {name} for changes", -number, _REMEDY)
        self._names[number] = name

    def changed(self) -> list[str]:
        """The names of the files that were written to since the last call."""
        try:
            told = os.read(self._fd, _ROOM)
        except BlockingIOError:
            return []
        found = {watch for watch, _, _, _ in _EVENT.iter_unpack(told)}
        # An overflow of the kernel's list has a number that is no file's: then any may have been.
        return [name for number, name in self._names.items() if number in found or not found <= self._names.keys()]

    def close(self) -> None:
        os.close(self._fd)
