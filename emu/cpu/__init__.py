"""The CPU room: the only one that knows Unicorn (in ``engine``) and Capstone (in ``sites``)."""

from emu.cpu.cpu import Cpu
from emu.cpu.stop import DEBUG_STOPS, ExceptionRecord, Stop, StopKind

__all__ = ["DEBUG_STOPS", "Cpu", "ExceptionRecord", "Stop", "StopKind"]
