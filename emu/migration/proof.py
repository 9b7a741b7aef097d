"""The lock of a backing file as a proof that two processes opened the same file.

Device and inode numbers can agree by chance across hosts, containers and network mounts, and a nonce written to the
file would change what must not change. Locks do neither: the source locks a pattern of single bytes far behind any byte
of the file; each locked one is a set bit of a random secret. Only who opened the same file under the same lock manager
can ask for locks there (fcntl(2), F_OFD_GETLK) and read it.
"""

from __future__ import annotations

from emu.host import kernel
from emu.host.kernel import Lock
from emu.memory.lock import FileLock

# Behind the range and the two bytes that FileLock uses.
_PATTERN = (1 << 62) + 4096
_BITS = 64


class BackingFileLock:
    """The lock of a backend, with the power to show and to read a secret."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    @property
    def held(self) -> bool:
        return self._lock.held

    def take(self) -> None:
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def show(self, secret: int) -> None:
        """Show ``secret`` (64 bits) to whoever opened the same file, until ``hide``."""
        for bit in range(_BITS):
            if secret >> bit & 1:
                self._set(Lock.READ, bit)

    def hide(self) -> None:
        self._set(Lock.NONE, 0, _BITS)

    def look(self) -> int | None:
        """The secret that another user of the file shows; None when nobody shows one."""
        fd, name = self._lock.fd, self._lock.name
        secret = 0
        for bit in range(_BITS):
            seen = kernel.lock_conflicts(fd, Lock.WRITE, what=name, start=_PATTERN + bit, length=1)
            secret |= seen << bit
        return secret or None

    def _set(self, kind: Lock, bit: int, length: int = 1) -> None:
        kernel.lock(self._lock.fd, kind, what=self._lock.name, start=_PATTERN + bit, length=length)
