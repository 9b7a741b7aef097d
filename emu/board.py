"""The board: which devices sit where, and how a configuration becomes a machine.

The physical map is that of QEMU's q35 with little RAM: RAM from 0 (split at 2 GiB when it reaches 0xB000_0000, the rest
from 4 GiB), the ACPI tables in 0xE0000-0xFFFFF, the device window with the NVDIMMs at the next GiB above.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from functools import partial

from emu import boot
from emu.acpi import hardware
from emu.acpi.srat import MemoryAffinity
from emu.acpi.tables import Tables, TablesSpec
from emu.acpi.tables import build as build_tables
from emu.boot.plan import LEGACY_END, LOW_END, MemoryRange, MemoryType
from emu.config import BackendConfig, BackendKind, Clock, MachineConfig, NvdimmConfig
from emu.cpu import Cpu
from emu.devices.contract import PortDevice, Sink, WindowedDevice
from emu.devices.debugcon import DebugConsole
from emu.devices.debugexit import DebugExit
from emu.devices.kbdreset import KeyboardReset
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.nvdimm.dsm import DsmPort
from emu.devices.nvdimm.nfit import nfit_table
from emu.devices.nvdimm.placement import FOUR_GIB, DeviceMemory, split_ram
from emu.devices.nvdimm.ssdt import ssdt
from emu.devices.pit import Pit
from emu.devices.power import Power
from emu.devices.pvpanic import PanicPort
from emu.devices.rtc import Rtc, memory_bytes
from emu.devices.uart16550 import Uart16550
from emu.entry import Entry
from emu.errors import UsageError
from emu.host import kernel
from emu.machine import Machine, PluggedNvdimm
from emu.memory import Backend, GuestMemory, Region, open_backend
from emu.memory.incomplete import check_not_incomplete
from emu.units import MIB, human_size

COM1, COM1_IRQ = 0x3F8, 4
DEBUG_CONSOLE = 0xE9
PIT_IRQ = 0
RTC, RTC_IRQ = 0x70, 8
PANIC = 0x505
DSM = 0xA18
# Where a guest programs the timed devices: PIT, port 0x61, RTC, and the ACPI block whose PM timer can interrupt.
CLOCK_PORTS = frozenset(
    {*range(0x40, 0x44), 0x61, RTC, RTC + 1, *range(hardware.PM1_EVENT, hardware.PM1_EVENT + hardware.PM1_EVENT_LENGTH)}
)

# 2000-01-01 00:00:00 UTC
_VIRTUAL_EPOCH = 946_684_800
# The largest image that is read at all; a guest of hundreds of megabytes is a mistake, not a guest.
_IMAGE_LIMIT = 256 * MIB


def _nowhere(_data: bytes) -> None:
    """Drops what it gets."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the character devices' bytes go."""

    serial: Sink = _nowhere
    debugcon: Sink = _nowhere


def build(config: MachineConfig, outputs: Outputs, *, accept_incomplete: bool = False) -> Machine:
    """The machine that ``config`` describes, ready to run; every resource it opened is closed when anything fails.

    UsageError or HostError say what does not fit or cannot be had. ``accept_incomplete`` uses a backing file that an
    unfinished migration marked; the mark is the caller's to clear, once the guest surely runs.
    """
    image = None if config.image is None else _read_image(config.image)
    machine = Machine(config, Cpu(real_time=config.clock is Clock.REAL), GuestMemory())
    machine.memory.on_write.append(machine.cpu.wrote)
    try:
        _add_ram(machine)
        slots = _add_devices(machine, outputs)
        for dimm in config.nvdimms:
            slots.plug(dimm, accept_incomplete=accept_incomplete)
        machine.slots = slots
        _tables(machine, slots)
        if image is not None:
            machine.start = partial(_start, machine, slots, image)
    except BaseException:
        machine.close()
        raise
    return machine


def _read_image(path: str) -> bytes:
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a FIFO would wait for a writer that may never come

    try:
        with open(path, "rb", opener=opener) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: the image is not a regular file", "give the path of a guest image")
            if status.st_size > _IMAGE_LIMIT:
                raise UsageError(f"{path}: the image is larger than {human_size(_IMAGE_LIMIT)}", "give a guest image")
            image = file.read(_IMAGE_LIMIT) if status.st_size else b""
            if len(image) != status.st_size or not image:  # what /proc and /sys show as files
                raise UsageError(f"{path}: the image is no ordinary file, or empty", "give the path of a guest image")
            return image
    except OSError as error:
        raise UsageError(f"{path}: cannot read the image: {error.strerror}", "give the path of a guest image") from None


def _add_ram(machine: Machine) -> None:
    size = machine.config.ram_size
    # Not reserved: a guest may have more RAM than the host as long as it does not touch it all.
    ram = open_backend(BackendConfig(id="pc.ram", kind=BackendKind.RAM, size=size, reserve=False))
    machine.add_backend(ram)
    below, above = split_ram(size)
    for gpa, length, offset, name in ((0, below, 0, "ram-below-4g"), (FOUR_GIB, above, below, "ram-above-4g")):
        if length:
            _map(machine, Region(gpa=gpa, size=length, mapping=ram.mapping, offset=offset, kind="ram", name=name))


def _map(machine: Machine, region: Region) -> None:
    machine.memory.add(region)
    machine.cpu.map(region.gpa, region.size, region.host_address, writable=not region.readonly)


def _add_devices(machine: Machine, outputs: Outputs) -> Slots:
    cpu, bus, pic = machine.cpu, machine.bus, machine.pic
    pit = Pit(line=pic.line(PIT_IRQ), now=cpu.now)
    rtc = Rtc(
        line=pic.line(RTC_IRQ),
        now=cpu.now,
        epoch=_epoch(machine.config),
        cmos=memory_bytes(*split_ram(machine.config.ram_size)),
    )
    power = Power(sci=pic.line(hardware.SCI_IRQ), end=machine.end, reset=machine.reset, now=cpu.now)
    keyboard = KeyboardReset(machine.reset)
    windowed: list[tuple[str, WindowedDevice]] = [("pit", pit), ("power", power), ("keyboard-reset", keyboard)]
    for name, device in windowed:
        bus.attach(device)
        machine.add_device(name, device)
    for timed in (pit, rtc, power):
        machine.add_timed(timed)
    machine.clock_ports.update(CLOCK_PORTS)
    simple: list[tuple[str, int, int, PortDevice]] = [
        ("com1", COM1, 8, Uart16550(pic.line(COM1_IRQ), outputs.serial)),
        ("rtc", RTC, 2, rtc),
        ("debugcon", DEBUG_CONSOLE, 1, DebugConsole(outputs.debugcon)),
        ("panic", PANIC, 1, PanicPort(machine.end)),
    ]
    slots = Slots(machine, power)
    simple.append(("dsm", DSM, 4, slots.dsm))
    for number, (first, length) in enumerate(machine.config.exit_ports):
        simple.append((f"exit{number}", first, length, DebugExit(machine.end)))
    for name, first, length, port_device in simple:
        try:
            bus.add(first, length, port_device)
        except ValueError:
            raise UsageError(
                f"{name}: ports {first:#x} to {first + length - 1:#x} belong to another device or do not exist",
                "choose other ports with iobase= and iosize=",
            ) from None
        machine.add_device(name, port_device)
    return slots


def _epoch(config: MachineConfig) -> int:
    """Seconds since 1970 at power-on: with virtual time always the same, so that two runs are the same."""
    return int(time.time()) if config.clock is Clock.REAL else _VIRTUAL_EPOCH


class Slots:
    """The slots that NVDIMMs go into, before the start and while the guest runs."""

    def __init__(self, machine: Machine, power: Power) -> None:
        self._machine = machine
        self._power = power
        self.window = DeviceMemory(machine.config)
        self.dsm = DsmPort(machine.memory, machine.config.persistence)

    def plug(self, config: NvdimmConfig, *, hot: bool = False, accept_incomplete: bool = False) -> PluggedNvdimm:
        """Open the backend of ``config`` and plug the NVDIMM. ``hot``: the guest is told through its GPE.

        UsageError or HostError when it does not fit or cannot be had; then nothing has changed.
        """
        # A machine that waits for a migration may be given a file that the source still uses, or an unfinished one.
        incoming = self._machine.config.incoming is not None and not hot
        if config.backend.path is not None and not incoming and not accept_incomplete:
            check_not_incomplete(config.backend.path)
        backend = open_backend(config.backend, lock_later=incoming)
        try:
            return self.plug_backend(config, backend, hot=hot)
        except BaseException:
            backend.discard()
            raise

    def plug_backend(self, config: NvdimmConfig, backend: Backend, *, hot: bool) -> PluggedNvdimm:
        """Plug an NVDIMM on a backend that is open already (and stays open when this fails)."""
        machine, mapping = self._machine, backend.mapping
        placement = self.window.plug(config, mapping.size, mapping.alignment)
        try:
            device = NvdimmDevice(config, mapping, gpa=placement.gpa, slot=placement.slot)
            name = config.id or f"nvdimm-slot{device.slot}"
            _map(machine, Region(gpa=device.gpa, size=device.size, mapping=mapping, kind="nvdimm",
                                 readonly=device.drops_stores, name=name))  # fmt: skip
        except BaseException:
            self.window.give_back(placement)
            raise
        self.dsm.plug(device)
        plugged = PluggedNvdimm(device, backend, hot)
        machine.add_backend(backend)
        machine.nvdimms.append(plugged)
        machine.add_device(f"nvdimm{device.slot}", device)
        if hot:
            self._power.raise_gpe(hardware.NVDIMM_GPE)
        return plugged


def _tables(machine: Machine, slots: Slots) -> Tables:
    """The ACPI tables for what is plugged now; ``machine.tables`` shows them too."""
    config = machine.config
    devices = slots.dsm.dimms
    memory = [MemoryAffinity(region.gpa, region.size) for region in machine.memory.regions if region.kind == "ram"]
    memory += [MemoryAffinity(dimm.gpa, dimm.size, dimm.config.node, non_volatile=True) for dimm in devices]
    has_slots = config.nvdimm_enabled and config.slots > 0
    spec = TablesSpec(
        memory=tuple(memory) if config.slots or config.numa_nodes else (),
        nvdimm_ssdt=partial(ssdt, config.slots) if has_slots else None,
        nfit=nfit_table([dimm.nfit_entry for dimm in devices], config.persistence) if devices else None,
    )
    tables = build_tables(spec)
    machine.tables = {item.name: item.data for item in tables.placed}
    return tables


def _start(machine: Machine, slots: Slots, image: bytes) -> Entry:
    """Clear RAM, put tables and image into it; where the CPU starts. Called at power-on and at every reset."""
    config = machine.config
    tables = _tables(machine, slots)
    for region in machine.memory.regions:
        if region.kind == "ram":
            kernel.advise(region.host_address, region.size, kernel.Advice.DONTNEED, what="guest RAM")
    for gpa, data in tables.segments:
        machine.memory.write(gpa, data)
    plan = boot.load(
        image,
        name=config.image or "",
        cmdline=config.cmdline,
        memory_map=_memory_map(config.ram_size),
        rsdp_address=tables.rsdp,
        highest_address=max(region.end for region in machine.memory.regions),
    )
    for segment in plan.segments:
        machine.memory.write(segment.gpa, segment.data)  # RAM is zero, so what follows the data is too
    return plan.entry


def _memory_map(ram_size: int) -> tuple[MemoryRange, ...]:
    """What the loaders tell the guest: NVDIMMs are not in it, as in QEMU only the NFIT names them."""
    below, above = split_ram(ram_size)
    ranges = [
        MemoryRange(0, LOW_END),
        MemoryRange(LOW_END, LEGACY_END - LOW_END, MemoryType.RESERVED),
        MemoryRange(LEGACY_END, below - LEGACY_END),
    ]
    if above:
        ranges.append(MemoryRange(FOUR_GIB, above))
    return tuple(ranges)
