"""The CPU room: the only importers of Unicorn's library and of Capstone."""

from emu.cpu.cpu import Cpu
from emu.cpu.stop import ExceptionRecord, Stop, StopKind

__all__ = ["Cpu", "ExceptionRecord", "Stop", "StopKind"]
