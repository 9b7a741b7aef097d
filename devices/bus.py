"""The I/O port bus: finds the device of a port, splits wide accesses and joins their results."""

from __future__ import annotations

from collections.abc import Sequence

from emu.devices.contract import Ports, WindowedDevice

PORTS = 0x10000


class PortBus:
    """The 65,536 I/O ports. An unclaimed port reads all ones and drops writes, as an open ISA bus does.

    An access that a window cannot take whole is split into pieces of 1, 2 or 4 bytes from the lowest port upwards, so a
    16-bit write to two byte-wide registers writes the lower one first. Ports do not wrap: an access that reaches past
    0xFFFF meets unclaimed ports there.
    """

    def __init__(self) -> None:
        self._owner: dict[int, tuple[int, int, Ports]] = {}

    def add(self, first: int, length: int, device: Ports) -> None:
        """Give ``device`` the ports ``first`` .. ``first + length - 1``.

        ValueError when they are no ports, or when one is taken: that is a mistake of the board, not of a guest.
        """
        if not (0 <= first < PORTS and 0 < length <= PORTS - first):
            raise ValueError(f"ports {first:#x}+{length} are outside the I/O space")
        taken = next((port for port in range(first, first + length) if port in self._owner), None)
        if taken is not None:
            raise ValueError(f"port {taken:#x} is already taken by {self._owner[taken][2]!r}")
        for port in range(first, first + length):
            self._owner[port] = (first, first + length, device)

    def attach(self, device: WindowedDevice, places: Sequence[range]) -> None:
        """Give a device with several windows the ports of each, in their order."""
        for ports, window in zip(places, device.windows, strict=True):
            self.add(ports.start, len(ports), window)

    def read(self, port: int, size: int) -> int:
        """The ``size`` (1, 2 or 4) bytes at ``port``, little-endian."""
        owner = self._owner.get(port)
        if owner is not None and size <= owner[2].width and port + size <= owner[1]:
            return owner[2].read(port - owner[0], size) & ((1 << (8 * size)) - 1)
        value = done = 0
        while done < size:
            piece, owner = self._piece(port + done, size - done)
            mask = (1 << (8 * piece)) - 1
            part = mask if owner is None else owner[2].read(port + done - owner[0], piece) & mask
            value |= part << (8 * done)
            done += piece
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Write the low ``size`` (1, 2 or 4) bytes of ``value`` to ``port``."""
        owner = self._owner.get(port)
        if owner is not None and size <= owner[2].width and port + size <= owner[1]:
            owner[2].write(port - owner[0], size, value & ((1 << (8 * size)) - 1))
            return
        done = 0
        while done < size:
            piece, owner = self._piece(port + done, size - done)
            if owner is not None:
                mask = (1 << (8 * piece)) - 1
                owner[2].write(port + done - owner[0], piece, value >> (8 * done) & mask)
            done += piece

    def _piece(self, port: int, left: int) -> tuple[int, tuple[int, int, Ports] | None]:
        """How many bytes of the rest of an access go to the owner of ``port`` at once, and that owner."""
        owner = self._owner.get(port)
        if owner is None:
            return 1, None
        most = min(left, owner[2].width, owner[1] - port)
        return 1 << (most.bit_length() - 1), owner
