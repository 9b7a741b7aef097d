"""Memory backends: a config becomes a mapping that knows what it guarantees; guest memory is made of such mappings."""

from emu.memory.address_space import GuestMemory, GuestMemoryError, HostMemory, Listener, Region, Registers
from emu.memory.backend import Backend, open_backend
from emu.memory.durability import Durability, Granularity, Survives
from emu.memory.mapping import Mapping

__all__ = [
    "Backend",
    "Durability",
    "Granularity",
    "GuestMemory",
    "GuestMemoryError",
    "HostMemory",
    "Listener",
    "Mapping",
    "Region",
    "Registers",
    "Survives",
    "open_backend",
]
