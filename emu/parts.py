"""What a machine is made of. A board fills it, the machine runs it, and it grows when an NVDIMM is plugged."""

from __future__ import annotations

from collections.abc import Sequence

from emu.cpu import Cpu
from emu.devices.bus import PortBus
from emu.devices.contract import Device, PortDevice, Timed, WindowedDevice
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.pic import PicPair
from emu.hints import Any
from emu.host import faults
from emu.memory import Backend, GuestMemory
from emu.record import NamedTuple


class PluggedNvdimm(NamedTuple):
    """An NVDIMM in its slot: the device model and the backend that holds its bytes."""

    device: NvdimmDevice
    backend: Backend
    hotplugged: bool = False

    def describe(self) -> dict[str, Any]:
        """What the NVDIMM is and what its mapping truly guarantees (an item of ``nvdimms`` in emu.run/1)."""
        durability = self.backend.mapping.durability
        return {
            "id": self.device.config.id,
            "file": self.backend.config.path,
            "size": self.device.size,
            "label_size": self.device.config.label_size,
            "gpa": self.device.gpa,
            "slot": self.device.slot,
            "unarmed": self.device.unarmed,
            "sync": {
                "requested": str(durability.requested),
                "effective": durability.effective,
                "why": durability.why,
            },
            "granularity": durability.granularity,
            "survives": {
                "guest_crash": durability.survives.guest_crash,
                "emulator_kill": durability.survives.emulator_kill,
                "host_power_loss": durability.survives.host_power_loss,
            },
        }


class Parts:
    """CPU, memory, port bus, interrupt controller and devices; ``backends`` hold the memory's bytes, ``spares``, by
    their id, those of memory that is not plugged yet.

    ``devices`` are those that take part in reset and saved state, by name. ``timed`` take part in time, and a guest
    programs them through ``clock_ports``.
    """

    def __init__(self, cpu: Cpu, memory: GuestMemory) -> None:
        self.cpu = cpu
        self.memory = memory
        self.bus = PortBus()
        self.pic = PicPair(self._interrupt_line)
        self.devices: dict[str, Device] = {"pic": self.pic}
        self.timed: list[Timed] = []
        self.clock_ports: set[int] = set()
        self.nvdimms: list[PluggedNvdimm] = []
        self.backends: list[Backend] = []
        self.spares: dict[str, Backend] = {}
        self._group = faults.new_group()

    def _interrupt_line(self, level: bool) -> None:
        if level:
            self.cpu.request_stop()

    def add_device(self, name: str, device: PortDevice, ports: range) -> None:
        """Put ``device`` at ``ports``; ValueError when they are another device's or do not exist."""
        self.bus.add(ports.start, len(ports), device)
        self.devices[name] = device

    def add_windowed(self, name: str, device: WindowedDevice, places: Sequence[range]) -> None:
        """Put each window of ``device`` at its ports; ValueError as above."""
        self.bus.attach(device, places)
        self.devices[name] = device

    def add_timed(self, device: Timed, places: Sequence[range]) -> None:
        """Let ``device``, programmed through the ports ``places``, take part in time."""
        self.timed.append(device)
        self.clock_ports.update(*places)

    def add_backend(self, backend: Backend) -> None:
        """Take ``backend``, freed by ``close``. After a store that one of them loses, none gets another."""
        backend.mapping.join(self._group)
        self.backends.append(backend)

    def close(self, *, discard: bool) -> None:
        """Free the CPU and unmap every backend. ``discard``: remove the files that they made."""
        self.cpu.close()
        for spare in self.spares.values():
            spare.close()
        for backend in self.backends:
            if discard:
                backend.discard()
            else:
                backend.close()
