"""Who may use a backing file: an open-file-description lock that ends with the emulator, however it ends.

    a writer               alone
    a sharing writer       with other sharing users (``share_lock``), readers among them
    a reader               with other readers (a read-only or a private mapping: it must not see the file change)
    a sharing reader       with readers and with sharing users

Every user locks the whole file, for reading or writing; so a program that knows nothing of emu and locks files with
fcntl is kept out too. Two single bytes far behind any data tell the users that hold it for reading apart.
"""

from __future__ import annotations

from emu.errors import FileInUse
from emu.host import kernel
from emu.host.kernel import Lock

_END = 1 << 62
_SHARING_WRITERS = _END + 1
_UNSHARING_READERS = _END + 2


class FileLock:
    """The lock of one backend on its open file ``fd``; ``name`` is for errors. ``held`` tells whether it has it."""

    def __init__(self, fd: int, *, write: bool, share: bool, name: str) -> None:
        self.fd = fd
        self.name = name
        self.held = False
        self._write = write
        self._share = share

    @property
    def kind(self) -> Lock:
        """Whether the whole file is locked for writing (nobody else) or for reading."""
        return Lock.WRITE if self._write and not self._share else Lock.READ

    def acquire(self) -> None:
        """Take the lock; FileInUse naming the file when another emulator's is in the way. Harmless when held."""
        if not self._take() or self._mixed():
            self.release()
            raise FileInUse(
                f"{self.name} is in use by another emulator",
                "end that one first, or say share-lock=on on both sides if they know how to share the file",
            )
        self.held = True

    def release(self) -> None:
        """Give the lock up (for a hand-over). Harmless when not held."""
        kernel.lock(self.fd, Lock.NONE, what=self.name)
        self.held = False

    def _take(self) -> bool:
        return kernel.lock(self.fd, self.kind, what=self.name, length=_END)

    def _mixed(self) -> bool:
        """Announce which reading user this is, then look for the kind it cannot live with: of two, the later one sees
        it."""
        if self._write and self._share:
            mine, theirs = _SHARING_WRITERS, _UNSHARING_READERS
        elif not self._write and not self._share:
            mine, theirs = _UNSHARING_READERS, _SHARING_WRITERS
        else:
            return False
        if not kernel.lock(self.fd, Lock.READ, what=self.name, start=mine, length=1):
            return True
        return self._seen(theirs)

    def _seen(self, byte: int) -> bool:
        return kernel.lock_conflicts(self.fd, Lock.WRITE, what=self.name, start=byte, length=1)
