"""The one way to read a small file that a user names: whole, from a regular file or a pipe, and never for ever."""

from __future__ import annotations

import errno
import os
import select
import stat

PATIENCE_S = 10.0
"""A pipe from which nothing comes for so long is given up."""


def read_whole(name: str, largest: int) -> bytes:
    """All of the file ``name``, or ``largest`` + 1 bytes of one that has more than ``largest``.

    OSError when it cannot be read, when it is neither a regular file nor a pipe, and when nothing comes from a pipe.
    ValueError for what is no file name.
    """
    # Not to wait for a FIFO's writer, nor to let a terminal become ours.
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(kind) and not stat.S_ISFIFO(kind):
            raise OSError(errno.EINVAL, "Is not a regular file")
        # Regular files are always ready, but for some that only look so (/proc/kmsg).
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        found = bytearray()
        while len(found) <= largest:
            if not ready.poll(1000 * PATIENCE_S):
                raise OSError(errno.ETIMEDOUT, "Nobody writes into it")
            try:
                piece = os.read(descriptor, min(largest + 1 - len(found), 1 << 20))
            except BlockingIOError:
                continue
            if not piece:
                break
            found += piece
        return bytes(found)
    finally:
        os.close(descriptor)
