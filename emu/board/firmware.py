"""What a PC's firmware would do before the guest's first instruction: ACPI tables, image, the state of the CPU."""

from __future__ import annotations

import os
import stat

from emu import boot
from emu.acpi.tables import Tables
from emu.board.tables import room_in_ram, tables
from emu.boot.plan import LEGACY_END, LOW_END, MemoryRange, MemoryType
from emu.config import MachineConfig, module_texts
from emu.devices.nvdimm.dsm import DsmPort
from emu.devices.nvdimm.placement import FOUR_GIB, split_ram
from emu.entry import Entry
from emu.errors import UsageError
from emu.host import kernel
from emu.memory import GuestMemory
from emu.units import GIB, MIB, human_size

# The largest image that is read at all; a guest of hundreds of megabytes is a mistake, not a guest.
_IMAGE_LIMIT = 256 * MIB
_INITRD_LIMIT = 1 * GIB


class PcFirmware:
    """The board's ``emu.machine.Firmware``. The tables name what is plugged into ``dsm`` when they are made. One that
    starts ``once`` then forgets the image, which for a kernel that was unpacked is a quarter of the guest's memory.

    UsageError when the machine's tables do not fit in their area.
    """

    def __init__(
        self,
        config: MachineConfig,
        image: bytes | None,
        memory: GuestMemory,
        dsm: DsmPort,
        modules: tuple[boot.Module, ...] = (),
        *,
        once: bool = False,
    ) -> None:
        self._config = config
        self._once = once
        self._image = image
        self.bootable = image is not None
        self._modules = modules
        self._memory = memory
        self._dsm = dsm
        self._tables = self._make()

    def _make(self) -> Tables:
        self._described = self._dsm.dimms
        return tables(self._config, self._memory.regions, self._described)

    @property
    def tables(self) -> dict[str, bytes]:
        return {item.name: item.data for item in self._tables.placed}

    def start(self) -> Entry:
        """Clear RAM, put tables and image into it; where the CPU starts."""
        if self._image is None:
            raise UsageError("this machine has no image to boot", "start it with an image")
        image, modules = self._image, self._modules
        if self._once:
            self._image, self._modules = None, ()
        if self._dsm.dimms != self._described:
            self._tables = self._make()
        regions = self._memory.regions
        for region in regions:
            if region.kind == "ram":
                kernel.advise(region.host_address, region.size, kernel.Advice.DONTNEED, what="guest RAM")
        for gpa, data in self._tables.segments:
            self._memory.write(gpa, data)
        plan = boot.load(
            image,
            name=self._config.image or "",
            cmdline=self._config.cmdline,
            memory_map=_memory_map(self._config),
            rsdp_address=self._tables.rsdp,
            highest_address=max(region.end for region in regions),
            modules=modules,
        )
        for segment in plan.segments:
            self._memory.write(segment.gpa, segment.data)  # RAM is zero, so what follows the data is too
        return plan.entry


def _memory_map(config: MachineConfig) -> tuple[MemoryRange, ...]:
    """What the loaders tell the guest: NVDIMMs are not in it, as in QEMU only the NFIT names them."""
    below, above = split_ram(config.ram_size)
    tables_too = room_in_ram(config)
    ranges = [
        MemoryRange(0, LOW_END),
        MemoryRange(LOW_END, LEGACY_END - LOW_END, MemoryType.RESERVED),
        MemoryRange(LEGACY_END, below - LEGACY_END - len(tables_too)),
    ]
    if tables_too:
        ranges.append(MemoryRange(tables_too.start, len(tables_too), MemoryType.ACPI))
    if above:
        ranges.append(MemoryRange(FOUR_GIB, above))
    return tuple(ranges)


def read_image(path: str) -> bytes:
    """The guest image at ``path``; UsageError when it is not an ordinary file of a sensible size."""
    return _read(path, "image", "give the path of a guest image", largest=_IMAGE_LIMIT)


def read_modules(initrd: str | bytes | None, image: bytes | None) -> tuple[boot.Module, ...]:
    """What ``-initrd`` names: for a Multiboot ``image`` a list as QEMU takes it, "FILE TEXT,FILE TEXT" with ",," for a
    comma in one, else the one initial RAM disk. UsageError as for an image."""
    if initrd is None:
        return ()
    if isinstance(initrd, bytes):
        return (boot.Module(initrd),)
    texts = [initrd]
    if image is not None and boot.find_header(image) is not None:
        texts = module_texts(initrd)
    whole = len(texts) == 1 and os.path.exists(initrd)  # noqa: PTH110 - Path.exists raises for impossible names
    remedy = "give -initrd the path of an initial RAM disk"
    return tuple(
        boot.Module(_read(text if whole else text.split(" ")[0], "initrd", remedy, largest=_INITRD_LIMIT), text)
        for text in texts
    )


def _read(path: str, what: str, remedy: str, *, largest: int) -> bytes:
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a FIFO would wait for a writer that may never come

    try:
        with open(path, "rb", opener=opener) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path}: the {what} is not a regular file", remedy)
            if status.st_size > largest:
                raise UsageError(f"{path}: the {what} is larger than {human_size(largest)}", remedy)
            data = file.read(largest) if status.st_size else b""
            if len(data) != status.st_size or not data:  # what /proc and /sys show as files
                raise UsageError(f"{path}: the {what} is no ordinary file, or empty", remedy)
            return data
    except OSError as error:
        raise UsageError(f"{path}: cannot read the {what}: {error.strerror}", remedy) from None
