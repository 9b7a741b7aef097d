"""The board's ACPI tables: what each device says of itself at its place in the map, RAM, and the NVDIMMs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from emu.acpi.dsdt import isa_device
from emu.acpi.srat import MemoryAffinity
from emu.acpi.tables import Tables, TablesSpec, build
from emu.board import map as at
from emu.boot.plan import LEGACY_END
from emu.config import MachineConfig
from emu.devices import pic, pit, rtc, uart16550
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.nvdimm.nfit import nfit_table
from emu.devices.nvdimm.placement import split_ram
from emu.devices.nvdimm.ssdt import hotplug_handler, ssdt
from emu.memory import Region
from emu.units import KIB

_MANY_SLOTS = 128
_MORE = 256 * KIB
"""Enough for 256 slots with an NVDIMM in each: about 160 KiB."""


def room_in_ram(config: MachineConfig) -> range:
    """The end of the RAM below 4 GiB, where many slots need it for tables that the BIOS area has no room for."""
    below, _ = split_ram(config.ram_size)
    if config.slots <= _MANY_SLOTS or below < LEGACY_END + 2 * _MORE:
        return range(0)
    return range(below - _MORE, below)


def tables(config: MachineConfig, regions: Iterable[Region], dimms: Sequence[NvdimmDevice]) -> Tables:
    """The tables of a machine with these memory regions and NVDIMMs; UsageError when they do not fit in their area."""
    memory = [MemoryAffinity(region.gpa, region.size) for region in regions if region.kind == "ram"]
    memory += [MemoryAffinity(dimm.gpa, dimm.size, dimm.config.node, non_volatile=True) for dimm in dimms]
    has_slots = config.nvdimm_enabled and config.slots > 0
    spec = tables_spec(
        memory=tuple(memory) if config.slots or config.numa_nodes else (),
        nvdimm_ssdt=partial(ssdt, config.slots, ports=at.DSM) if has_slots else None,
        nfit=nfit_table([dimm.nfit_entry for dimm in dimms], config.persistence) if dimms else None,
    )
    return build(spec, room_in_ram(config))


def tables_spec(
    *,
    memory: tuple[MemoryAffinity, ...] = (),
    nvdimm_ssdt: Callable[[int], bytes] | None = None,
    nfit: bytes | None = None,
) -> TablesSpec:
    """What the tables of any machine on this board say, with what differs from one to another."""
    events = hotplug_handler(at.NVDIMM_GPE) if nvdimm_ssdt is not None else b""
    return TablesSpec(at.FIXED_HARDWARE, _devices(), events, memory, nvdimm_ssdt, nfit)


def _devices() -> bytes:
    """The DSDT's devices. Ports that systems must leave alone, but need no driver for, are the board's own."""
    counters, timer_control = at.PIT
    acpi = range(at.PM1_EVENT.start, at.GPE0.stop)
    return b"".join(
        (
            pic.dsdt_device(at.PIC, at.CASCADE_IRQ),
            pit.dsdt_device(counters, at.PIT_IRQ),
            rtc.dsdt_device(at.RTC, at.RTC_IRQ),
            uart16550.dsdt_device(at.COM1, at.COM1_IRQ),
            isa_device("SYSR", "PNP0C02", (timer_control, acpi)),
        )
    )
