"""The boot room: turns an image into bytes for guest memory and a boot state. Pure: no memory, no CPU, no files."""

from emu.boot.load import carries_linux, is_linux, load, unpacked
from emu.boot.multiboot import find_header
from emu.boot.plan import Kind, LoadPlan, LoadSegment, MemoryRange, MemoryType, Module

__all__ = [
    "Kind",
    "LoadPlan",
    "LoadSegment",
    "MemoryRange",
    "MemoryType",
    "Module",
    "carries_linux",
    "find_header",
    "is_linux",
    "load",
    "unpacked",
]
