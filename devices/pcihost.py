"""PCI's configuration mechanism 1 (PCI Local Bus Specification 3.0, section 3.2.2.3.2), with a host bridge only.

The bridge is the one of QEMU's q35, by name: there is nothing to be set up in it. An operating system that looks for
PCI finds a bus that is in order, and empty; and a system that insists on one is content.
"""

from __future__ import annotations

import struct

_ENABLE = 1 << 31
_WRITABLE = 0x80FF_FFFC
_UNCLAIMED = 0xFFFF_FFFF
# Vendor and device, class (host bridge) with revision, subsystem; all else reads 0.
_BRIDGE = struct.pack("<HH4xBBBB32xHH208x", 0x8086, 0x29C0, 0, 0, 0x00, 0x06, 0x1AF4, 0x1100)


class PciHost:
    """The address register and what it selects: bytes of the 256 of a device's configuration space."""

    WRITABLE = _WRITABLE
    """Bits of ``address`` that hold a value."""

    def __init__(self) -> None:
        self.address = 0

    def select(self, value: int) -> None:
        """A 32-bit write to the address register."""
        self.address = value & _WRITABLE

    def read(self, offset: int, size: int) -> int:
        """A read of the data register, ``size`` bytes from byte ``offset`` of it; ones where there is no device."""
        bus_device_function, register = self.address >> 8 & 0xFFFF, (self.address & 0xFC) + offset
        if not self.address & _ENABLE or bus_device_function != 0:
            return _UNCLAIMED
        return int.from_bytes(_BRIDGE[register : register + size], "little")
