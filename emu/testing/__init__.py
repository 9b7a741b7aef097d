"""Public help for tests of persistent-memory code: the pytest plugin and the results it hands out."""

from emu.testing.results import CrashResult, EmuRefused, RunResult

__all__ = ["CrashResult", "EmuRefused", "RunResult"]
