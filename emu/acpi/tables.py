"""Builds all tables and places them in the BIOS area, where guests find the RSDP by scanning; if need be in RAM too."""

from __future__ import annotations

from collections.abc import Callable

from emu.acpi import fadt, root
from emu.acpi.dsdt import dsdt
from emu.acpi.hardware import TABLES_END, TABLES_START
from emu.acpi.madt import madt
from emu.acpi.srat import MemoryAffinity, srat
from emu.acpi.structures import Rsdp
from emu.errors import UsageError
from emu.record import NamedTuple
from emu.units import PAGE, align_up

_ALIGNMENT = 16


class TablesSpec(NamedTuple):
    """What the tables describe.

    ``devices`` and ``events`` are the AML of the DSDT (see ``dsdt``). ``memory`` gives the SRAT, none when it is empty.
    ``nvdimm_ssdt`` makes the SSDT of the NVDIMM devices for the address of the page through which their _DSM talks to
    the machine; with it comes that page. ``nfit`` is the finished NFIT, if there is one.
    """

    hardware: fadt.FixedHardware
    devices: bytes
    events: bytes = b""
    memory: tuple[MemoryAffinity, ...] = ()
    nvdimm_ssdt: Callable[[int], bytes] | None = None
    nfit: bytes | None = None


class Placed(NamedTuple):
    """One table: its signature (``RSDP`` for the root pointer), guest physical address and bytes."""

    name: str
    address: int
    data: bytes


class Tables(NamedTuple):
    """All tables in the order of their addresses. ``dsm_page`` is the address of the 4 KiB page for _DSM, if any."""

    placed: tuple[Placed, ...]
    rsdp: int
    dsm_page: int | None

    def get(self, name: str) -> bytes | None:
        """The bytes of the table ``name``, None when there is no such table."""
        return next((item.data for item in self.placed if item.name == name), None)

    @property
    def segments(self) -> tuple[tuple[int, bytes], ...]:
        """What belongs into guest memory: (guest physical address, bytes), the zeroed _DSM page included."""
        tables = tuple((item.address, item.data) for item in self.placed)
        return tables if self.dsm_page is None else (*tables, (self.dsm_page, bytes(PAGE)))


class _Area:
    """Hands out the BIOS area from below, whose last page goes to _DSM where there is one; then ``more``."""

    def __init__(self, end: int, more: range) -> None:
        self._rooms = [[TABLES_START, end], [more.start, more.stop]]
        self._size = end - TABLES_START + len(more)
        self.placed: list[Placed] = []

    def reserve(self, size: int, alignment: int = _ALIGNMENT) -> int:
        for room in self._rooms:
            address = align_up(room[0], alignment)
            if address + size <= room[1]:
                room[0] = address + size
                return address
        raise UsageError(
            f"the ACPI tables need more than the {self._size} bytes that are theirs",
            "give the machine more RAM, or ask for fewer memory slots or NVDIMMs",
        )

    def put(self, name: str, data: bytes, alignment: int = _ALIGNMENT) -> int:
        address = self.reserve(len(data), alignment)
        self.placed.append(Placed(name, address, data))
        return address


def build(spec: TablesSpec, more: range = range(0)) -> Tables:
    """All tables for ``spec``; UsageError when they do not fit in 0xE0000 to 0xFFFFF and ``more``, which is RAM."""
    dsm_page = TABLES_END - PAGE if spec.nvdimm_ssdt is not None else None
    area = _Area(TABLES_END if dsm_page is None else dsm_page, more)
    rsdp_at = area.reserve(Rsdp.SIZE)
    facs_at = area.put("FACS", fadt.facs(), fadt.FACS_ALIGNMENT)
    dsdt_at = area.put("DSDT", dsdt(spec.devices, spec.events))

    listed = [area.put("FACP", fadt.fadt(spec.hardware, facs=facs_at, dsdt=dsdt_at)), area.put("APIC", madt())]
    if spec.memory:
        listed.append(area.put("SRAT", srat(spec.memory)))
    if spec.nvdimm_ssdt is not None and dsm_page is not None:
        listed.append(area.put("SSDT", spec.nvdimm_ssdt(dsm_page)))
    if spec.nfit is not None:
        listed.append(area.put("NFIT", spec.nfit))

    rsdt_at = area.put("RSDT", root.rsdt(listed))
    xsdt_at = area.put("XSDT", root.xsdt(listed))
    rsdp = Placed("RSDP", rsdp_at, root.rsdp(rsdt=rsdt_at, xsdt=xsdt_at))
    placed = sorted(area.placed, key=lambda item: item.address)
    return Tables((rsdp, *placed), rsdp_at, dsm_page)
