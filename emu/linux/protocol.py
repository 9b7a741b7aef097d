"""What emu's init (guest/linux) and emu say to each other, over ports that QEMU has too or ignores.

    0xE9  the command's standard output, byte by byte (QEMU: -debugcon)
    0xEA  its standard error, and init's own complaints (QEMU: -device isa-debugcon,iobase=0xea)
    0xEC  control: 32-bit writes are messages, a 32-bit read is the role (QEMU: nobody answers)
    0xF4  the exit port: how a command with another status than 0 ends the machine; with 0 it is turned off
    COM1  the kernel's console until TERMINAL, then the command's terminal; on it arrive the frames of standard input

In order, a run is:

    init loads the modules and waits for the NVDIMMs' devices
    SNAPSHOT            a machine put back to behind this write may be given another role and other NVDIMM contents
    read of 0xEC        the role: what happens from here on
    MOUNTED             the file systems are mounted (nothing had read them before)
    BEGIN               roles exec and workload: the next thing is execve of the command
    INPUT               once for each frame of standard input that init is ready to take
    ENDED               the command has ended; its last bytes are out before. The argument is its exit status, or
                        KILLED and the number of the signal
    the end             exec and setup unmount first; workload and recovery end at once

FAILED instead of any of them: init could not go on; its argument is a ``Stage`` and, above it, the error number. What
a person should read has gone to 0xEA.

A frame of standard input is its length in two bytes, low one first, at most ``FRAME``, and as many bytes; length 0 is
the end. One is sent for each INPUT, so nothing is lost in the kernel's terminal, which has no flow control.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import NamedTuple

FRAME = 2048
INIT_FAILED = 125
"""The status of a run that did not come to its command, as containers use it."""
KILLED = 0x100


class Message(enum.IntEnum):
    """The low byte of what init writes to the control port; the argument is above it."""

    SNAPSHOT = ord("S")
    MOUNTED = ord("M")
    BEGIN = ord("B")
    ENDED = ord("E")
    FAILED = ord("F")
    INPUT = ord("I")
    TERMINAL = ord("T")


class Role(enum.IntEnum):
    """What init does behind SNAPSHOT, and which of the plan's commands it runs (``initramfs.Plan``)."""

    EXEC = ord("x")
    SETUP = ord("s")
    WORKLOAD = ord("w")  # the command of EXEC, with nothing behind its end
    RECOVERY = ord("r")


class Stage(enum.StrEnum):
    """What init could not do."""

    PLAN = "p"
    MODULE = "m"
    DEVICE = "d"
    MOUNT = "f"


class Failure(NamedTuple):
    """The argument of FAILED."""

    stage: Stage
    errno: int


class Ended(NamedTuple):
    """The argument of ENDED; ``signal`` is None for a command that ended by itself."""

    status: int
    signal: int | None


def ended(argument: int) -> Ended:
    """Read the argument of ENDED."""
    if argument & KILLED:
        return Ended(128 + (argument & 0x7F), argument & 0x7F)
    return Ended(argument & 0xFF, None)


def failure(argument: int) -> Failure:
    """Read the argument of FAILED."""
    return Failure(Stage(chr(argument & 0xFF)), argument >> 8)


def frames(data: bytes) -> Iterator[bytes]:
    """``data`` as frames of standard input, without the one that ends it."""
    for start in range(0, len(data), FRAME):
        piece = data[start : start + FRAME]
        yield len(piece).to_bytes(2, "little") + piece


END_OF_INPUT = bytes(2)
