"""The CPU room: the only one that knows Unicorn (in ``engine``) and Capstone (in ``sites``)."""

from emu.cpu.cpu import Cpu
from emu.cpu.stop import ExceptionRecord, Stop, StopKind

__all__ = ["Cpu", "ExceptionRecord", "Stop", "StopKind"]
