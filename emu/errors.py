"""The error tree: one root, one branch per layer, each error saying what is wrong and what to do.

Every error carries the exit status of the command line (docs/reference/exit-status.md), so no layer above has to guess.
"""

from __future__ import annotations

from emu.enumeration import IntEnum


class Status(IntEnum):
    """Exit statuses of ``emu`` that are not the guest's own verdict (those are 0 or odd)."""

    OK = 0
    USAGE = 2
    CRASH_STATES_FAIL = 3
    HOST = 4
    GUEST_CRASHED = 6
    BUG = 8
    CRASH_STATES_UNTRIED = 10
    NOTHING_TO_JUDGE = 12
    WORKLOAD_FAILED = 14
    TIMEOUT = 124
    INTERRUPTED = 130


class EmuError(Exception):
    """Something went wrong that the user can understand: ``what`` is the cause, ``remedy`` what to do about it.

    ``str()`` gives one line, or two when there is a remedy.
    """

    status: Status = Status.BUG

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}\n{self.remedy}" if self.remedy else self.what


class UsageError(EmuError):
    """The request itself is wrong: an option, a value, an image, a file that is not what it should be."""

    status = Status.USAGE


class IncompleteFile(UsageError):
    """A backing file that an unfinished migration marked: its content is only part of a machine's."""


class HostError(EmuError):
    """The request is fine, but this host cannot do it (no MAP_SYNC, no permission, disk full, file in use).

    ``errno`` is the kernel's number where there was one, else 0.
    """

    status = Status.HOST

    def __init__(self, what: str, remedy: str = "", *, errno: int = 0) -> None:
        super().__init__(what, remedy)
        self.errno = errno


class MapSyncUnavailable(HostError):
    """``sync=on`` was asked for, and this file cannot be mapped with MAP_SYNC."""


class FileInUse(HostError):
    """Another emulator, or another program that locks its files, has the file."""


class GuestError(EmuError):
    """The guest did something no machine can go on after."""

    status = Status.GUEST_CRASHED


class StateError(EmuError):
    """Saved machine state that cannot be taken: unknown, left over, out of range, of another version."""

    status = Status.USAGE
