"""Public help for tests of persistent-memory code: the pytest plugin, and the same as plain functions."""

from emu.testing.commands import cc, crash, run
from emu.testing.machine import NotSeen, RunningMachine, migrate
from emu.testing.results import CrashResult, EmuRefused, NotRecovered, RunResult

__all__ = [
    "CrashResult",
    "EmuRefused",
    "NotRecovered",
    "NotSeen",
    "RunResult",
    "RunningMachine",
    "cc",
    "crash",
    "migrate",
    "run",
]
