"""The boot room: turns an image into bytes for guest memory and a boot state. Pure: no memory, no CPU, no files."""

from emu.boot.load import load
from emu.boot.plan import Kind, LoadPlan, LoadSegment, MemoryRange, MemoryType

__all__ = ["Kind", "LoadPlan", "LoadSegment", "MemoryRange", "MemoryType", "load"]
