"""Slots and guest physical addresses, as QEMU's pc machines give them: a window above 4 GiB, first fit in plug order.

Sources: QEMU's documentation of memory hotplug, and the tables of a running QEMU that the oracle tests compare.
"""

from __future__ import annotations

from emu.config import MachineConfig, NvdimmConfig
from emu.devices.nvdimm import options
from emu.errors import UsageError
from emu.record import NamedTuple
from emu.units import GIB, align_up

FOUR_GIB = 4 * GIB
_SPLIT_ABOVE = 0xB000_0000
_SPLIT_AT = 0x8000_0000
_PHYSICAL_END = 1 << 40


def split_ram(ram_size: int) -> tuple[int, int]:
    """Bytes of RAM below and above 4 GiB on a q35 machine: all below, unless there are 2.75 GiB or more."""
    below = ram_size if ram_size < _SPLIT_ABOVE else _SPLIT_AT
    return below, ram_size - below


class Placement(NamedTuple):
    """Where an NVDIMM is: its slot, the guest physical address of its first byte and the bytes that the guest sees."""

    id: str | None
    slot: int
    gpa: int
    size: int

    @property
    def end(self) -> int:
        return self.gpa + self.size


class DeviceMemory:
    """The window of guest physical addresses that NVDIMMs are plugged into.

    ``base`` is the first address, ``size`` the window's length in bytes: maxmem minus RAM, and a GiB for each slot to
    make up for alignment. Without maxmem (emu's short options) the window reaches to the end of 40-bit addresses.
    """

    def __init__(self, machine: MachineConfig) -> None:
        self._machine = machine
        self._placed: list[Placement] = []
        self.base = align_up(FOUR_GIB + split_ram(machine.ram_size)[1], GIB)
        if machine.max_memory is None:
            self.size = self.capacity = _PHYSICAL_END - self.base
        else:
            self.capacity = machine.max_memory - machine.ram_size
            self.size = self.capacity + machine.slots * GIB

    @property
    def placed(self) -> tuple[Placement, ...]:
        """What is plugged, by address."""
        return tuple(sorted(self._placed, key=lambda item: item.gpa))

    def plug(self, config: NvdimmConfig, backend_size: int, alignment: int) -> Placement:
        """Check ``config`` as QEMU does when a device is plugged, in its order, and give it a slot and an address.

        ``backend_size`` and ``alignment`` in bytes are the mapping's. UsageError when a rule is broken; then nothing
        has changed.
        """
        options.check_id(config, {item.id for item in self._placed})
        options.check_label_size(config)
        options.check_enabled(self._machine)
        slot = options.choose_slot(config, self._machine.slots, {item.slot for item in self._placed})
        size = options.pmem_size(config, backend_size, alignment)
        options.check_unarmed(config)
        used = sum(item.size for item in self._placed)
        if used + size > self.capacity:
            raise UsageError(
                f"{options.label(config)}: not enough space, currently 0x{used:x} in use of total space for memory"
                f" devices 0x{self.capacity:x}",
                "raise maxmem= in -m",
            )
        gpa = self._address(config, size, alignment)
        options.check_node(config, self._machine.numa_nodes)
        placement = Placement(config.id, slot, gpa, size)
        self._placed.append(placement)
        return placement

    def give_back(self, placement: Placement) -> None:
        """Free slot and address of an NVDIMM that could not be plugged after all."""
        self._placed.remove(placement)

    def _address(self, config: NvdimmConfig, size: int, alignment: int) -> int:
        wanted = config.addr
        end = self.base + self.size
        if wanted:
            if wanted % alignment:
                raise UsageError(
                    f"{options.label(config)}: address must be aligned to 0x{alignment:x} bytes", "give another addr="
                )
            if wanted < self.base or wanted + size > end:
                raise UsageError(
                    f"{options.label(config)}: can't add memory device [0x{wanted:x}:0x{size:x}], usable range for"
                    f" memory devices [0x{self.base:x}:0x{self.size:x}]",
                    "give an addr= in that range, or leave it away",
                )
            for other in self._placed:
                if wanted < other.end and other.gpa < wanted + size:
                    raise UsageError(
                        f"{options.label(config)}: address range conflicts with memory device id='{other.id or ''}'",
                        "give another addr=, or leave it away",
                    )
            return wanted
        gpa = align_up(self.base, alignment)
        for other in self.placed:
            if gpa < other.end and other.gpa < gpa + size:
                gpa = align_up(other.end, alignment)
        if gpa + size > end:
            raise UsageError(
                f"{options.label(config)}: could not find position in guest address space for memory device",
                "raise maxmem= or slots= in -m",
            )
        return gpa
