"""What a loader hands over, and the guest memory it may use."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Sequence

from emu.entry import Entry
from emu.enumeration import IntEnum, StrEnum
from emu.errors import UsageError
from emu.record import NamedTuple
from emu.units import PAGE, align_down, align_up, human_size

LOW_START, LOW_END = 0x1000, 0x9F000
"""Where the loaders put their own structures: conventional memory without its first page and its last 4 KiB."""
LEGACY_START, LEGACY_END = 0xA0000, 0x100000
"""Video memory, option ROMs and the area in which guests look for the RSDP."""
LONGEST_COMMAND_LINE = 4095


class Kind(StrEnum):
    """The boot protocols."""

    MULTIBOOT = "multiboot"
    PVH = "pvh"
    FLAT = "flat"
    LINUX = "linux"


class MemoryType(IntEnum):
    """Kinds of address ranges (ACPI 6.4, table 15.4), as Multiboot and PVH number them too."""

    RAM = 1
    RESERVED = 2
    ACPI = 3
    NVS = 4
    UNUSABLE = 5
    PERSISTENT = 7


class MemoryRange(NamedTuple):
    """``size`` bytes of ``kind`` at guest-physical ``base``."""

    base: int
    size: int
    kind: MemoryType = MemoryType.RAM

    @property
    def end(self) -> int:
        return self.base + self.size


class LoadSegment(NamedTuple):
    """``size`` bytes at guest-physical ``gpa``: ``data``, then zeros, which must be written too.

    ``data`` looks into the image: a hostile file that names the same bytes a thousand times costs nothing.
    """

    gpa: int
    data: memoryview
    size: int

    @property
    def end(self) -> int:
        return self.gpa + self.size


class Module(NamedTuple):
    """A file that the loader puts into memory for the image: the initial RAM disk of a kernel, or a Multiboot module
    with the ``text`` that goes with it."""

    data: bytes
    text: str = ""


class LoadPlan(NamedTuple):
    """What to write into guest memory, and the state to enter. ``kind`` is the boot protocol."""

    kind: Kind
    segments: tuple[LoadSegment, ...]
    entry: Entry


class LowMemory:
    """Hands out space in conventional memory that no segment of the image uses."""

    def __init__(self, name: str, memory_map: Sequence[MemoryRange], taken: Iterable[LoadSegment]) -> None:
        self._name = name
        self._ram = [item for item in memory_map if item.kind is MemoryType.RAM]
        self._taken = sorted((segment.gpa, segment.end) for segment in taken)
        self.segments: list[LoadSegment] = []

    def reserve(self, size: int, *, alignment: int = 16, at_least: int = LOW_START) -> int:
        """The lowest free address for ``size`` bytes; UsageError when the image leaves no room."""
        for item in sorted(self._ram):
            at = align_up(max(item.base, at_least), alignment)
            for begin, end in self._taken:
                if begin < at + size and at < end:
                    at = align_up(end, alignment)
            if at + size <= min(item.end, LOW_END):
                self._taken = sorted([*self._taken, (at, at + size)])
                return at
        raise UsageError(
            f"{self._name}: the image leaves no room below {LOW_END:#x} for the loader's {size} bytes",
            "link the image at 1 MiB or above",
        )

    def place(self, data: bytes, *, alignment: int = 16, at_least: int = LOW_START) -> int:
        """Put ``data`` somewhere and return its address."""
        at = self.reserve(len(data), alignment=alignment, at_least=at_least)
        self.segments.append(LoadSegment(at, memoryview(data), len(data)))
        return at

    def fill(self, at: int, data: bytes) -> None:
        """Give contents to what was reserved at ``at``."""
        self.segments.append(LoadSegment(at, memoryview(data), len(data)))


def check_segments(name: str, segments: Sequence[LoadSegment], memory_map: Sequence[MemoryRange]) -> None:
    """UsageError unless every segment lies in RAM and none overlaps another."""
    ram = [item for item in memory_map if item.kind is MemoryType.RAM]
    for segment in segments:
        if segment.gpa < LEGACY_END and segment.end > LEGACY_START:
            raise UsageError(
                f"{name}: bytes {segment.gpa:#x}-{segment.end - 1:#x} fall into the area {LEGACY_START:#x}-"
                f"{LEGACY_END - 1:#x} of video memory, ROMs and ACPI tables",
                "link the image at 1 MiB or above",
            )
        if not any(item.base <= segment.gpa and segment.end <= item.end for item in ram):
            top = max((item.end for item in ram if item.base < 1 << 32), default=0)
            raise UsageError(
                f"{name}: bytes {segment.gpa:#x}-{segment.end - 1:#x} are not in RAM, which ends at {top:#x}",
                "give the machine more memory (-m) or link the image lower",
            )
    ordered = sorted(segments, key=lambda segment: segment.gpa)
    for first, second in itertools.pairwise(ordered):
        if second.gpa < first.end:
            raise UsageError(f"{name}: two parts of the image both load at {second.gpa:#x}", "link the image again")


def place_high(
    name: str,
    data: bytes | None,
    memory_map: Sequence[MemoryRange],
    taken: Sequence[LoadSegment],
    *,
    below: int = 1 << 32,
) -> LoadSegment | None:
    """Where ``data``, an initial RAM disk or a module, goes: the highest free pages of the RAM that ends ``below``.

    None for no or empty data, which there is nothing to load of. UsageError when there is no room above 1 MiB.
    """
    if not data:
        return None
    borders = sorted((segment.gpa, segment.end) for segment in taken)
    for item in sorted(memory_map, reverse=True):
        at = align_down(min(item.end, below) - len(data), PAGE)
        for begin, end in reversed(borders):
            if begin < at + len(data) and at < end:
                at = align_down(begin - len(data), PAGE)
        if item.kind is MemoryType.RAM and at >= max(item.base, LEGACY_END):
            return LoadSegment(at, memoryview(data), len(data))
    raise UsageError(
        f"{name}: the {human_size(len(data))} of the initial RAM disk or module do not fit in RAM beside the image",
        "give the machine more memory (-m)",
    )


def check_entry(name: str, entry: int, segments: Sequence[LoadSegment]) -> None:
    """UsageError unless a 32-bit entry at ``entry`` reaches something that was loaded."""
    if entry >= 1 << 32 or not any(segment.gpa <= entry < segment.end for segment in segments):
        raise UsageError(f"{name}: the entry point {entry:#x} is outside what the image loads", "link the image again")


def command_line(cmdline: str) -> bytes:
    """``cmdline`` as a C string."""
    raw = cmdline.encode("utf-8", "surrogateescape")
    if len(raw) > LONGEST_COMMAND_LINE or 0 in raw:
        raise UsageError(
            f"the command line has {len(raw)} bytes or contains a zero byte", f"keep it under {LONGEST_COMMAND_LINE}"
        )
    return raw + b"\0"


START_INFO_MAGIC, START_INFO_SIZE = 0x336EC578, 56


def start_info(
    low: LowMemory,
    cmdline: str,
    memory_map: Sequence[MemoryRange],
    rsdp_address: int,
    module: LoadSegment | None = None,
) -> int:
    """Place a PVH start-info structure, version 1 (Xen's public header arch-x86/hvm/start_info.h); its address.

    ``module`` is the one entry of its list of modules, which Linux takes as the initial RAM disk.
    """
    modules = 0 if module is None else low.place(struct.pack("<4Q", module.gpa, module.size, 0, 0))
    entries = b"".join(struct.pack("<QQII", item.base, item.size, item.kind, 0) for item in sorted(memory_map))
    text = low.place(command_line(cmdline))
    table = low.place(entries)
    return low.place(
        struct.pack(
            "<4I4QII", START_INFO_MAGIC, 1, 0, int(modules != 0), modules, text, rsdp_address, table, len(memory_map), 0
        )
    )
