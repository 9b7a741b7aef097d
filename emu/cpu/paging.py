"""Guest-linear addresses: the page walk, and reads and writes through it (Intel SDM volume 3, chapter 4)."""

from __future__ import annotations

from emu.cpu import registers as r
from emu.cpu.memory import PhysicalMemory
from emu.record import NamedTuple
from emu.units import PAGE

PRESENT, WRITABLE, USER, ACCESSED, DIRTY, LARGE, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
_ADDRESS = (1 << 52) - PAGE

# Shift and mask of the index into each level's table, from the root.
_FIVE_LEVELS = ((48, 511), (39, 511), (30, 511), (21, 511), (12, 511))
_FOUR_LEVELS = _FIVE_LEVELS[1:]
_PAE_LEVELS = ((30, 3), (21, 511), (12, 511))
_TWO_LEVELS = ((22, 1023), (12, 1023))


class PageFault(Exception):
    """A linear address that cannot be used so; ``error_code`` as the CPU would push it."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"page fault at {address:#x}, error code {error_code:#x}")
        self.address = address
        self.error_code = error_code


class Paging(NamedTuple):
    """The registers that decide how linear addresses are translated. ``long`` is EFER.LMA."""

    cr0: int
    cr3: int
    cr4: int
    long: bool

    def canonical(self, address: int) -> bool:
        """Whether the upper bits of a 64-bit address are copies of its top implemented bit."""
        top = 56 if self.cr4 & r.CR4_LA57 else 47
        return address >> top in (0, (1 << 64 - top) - 1)

    def _levels(self) -> tuple[tuple[int, int], ...]:
        if self.long:
            return _FIVE_LEVELS if self.cr4 & r.CR4_LA57 else _FOUR_LEVELS
        return _PAE_LEVELS if self.cr4 & r.CR4_PAE else _TWO_LEVELS

    def translate(
        self, memory: PhysicalMemory, address: int, *, write: bool = False, user: bool = False, mark: bool = True
    ) -> int:
        """The physical address behind ``address``. If ``mark`` the CPU looks for it: accessed, dirty bits are set."""
        if not self.long:
            address &= 0xFFFFFFFF
        if not self.cr0 & r.CR0_PG:
            return address
        wide = self.long or bool(self.cr4 & r.CR4_PAE)
        size = 8 if wide else 4
        table = self.cr3 & (_ADDRESS if self.long else 0xFFFFFFE0 if wide else 0xFFFFF000)
        allowed = WRITABLE | USER
        cause = (2 if write else 0) | (4 if user else 0)
        for shift, mask in self._levels():
            at = table + (address >> shift & mask) * size
            entry = int.from_bytes((memory.read if mark else memory.look_at)(at, size), "little")
            if not entry & PRESENT:
                raise PageFault(address, cause)
            root_of_pae = wide and not self.long and shift == 30
            if not root_of_pae:
                allowed &= entry
            large = not root_of_pae and entry & LARGE and shift in (21, 22, 30) and (wide or self.cr4 & r.CR4_PSE)
            last = bool(large) or shift == 12
            read_only = not allowed & WRITABLE and (user or self.cr0 & r.CR0_WP)
            if last and ((user and not allowed & USER) or (write and read_only)):
                raise PageFault(address, cause | 1)
            marked = entry | (0 if root_of_pae else ACCESSED) | (DIRTY if last and write else 0)
            if mark and marked != entry:
                memory.write(at, marked.to_bytes(size, "little"))
            if last:
                offset = address & (1 << shift) - 1
                if not wide and large:  # PSE-36 keeps address bits 32-39 in bits 13-20
                    return entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32 | offset
                return entry & _ADDRESS & ~((1 << shift) - 1) | offset
            table = entry & _ADDRESS if wide else entry & 0xFFFFF000
        raise AssertionError("the last level returns")

    def read(self, memory: PhysicalMemory, address: int, size: int, *, mark: bool = True) -> bytes:
        """``size`` bytes at linear ``address``, over page borders, with the rights of the kernel."""
        data = b""
        while len(data) < size:
            at = self._wrap(address + len(data))
            step = min(size - len(data), PAGE - at % PAGE)
            data += (memory.read if mark else memory.look_at)(self.translate(memory, at, mark=mark), step)
        return data

    def write(self, memory: PhysicalMemory, address: int, data: bytes, *, user: bool = False) -> None:
        """Write ``data`` at linear ``address``: all of it, or nothing and a PageFault."""
        pieces = []
        done = 0
        while done < len(data):
            at = self._wrap(address + done)
            step = min(len(data) - done, PAGE - at % PAGE)
            pieces.append((self.translate(memory, at, write=True, user=user), data[done : done + step]))
            done += step
        for gpa, piece in pieces:
            memory.write(gpa, piece)

    def _wrap(self, address: int) -> int:
        return address & ((1 << 64) - 1 if self.long else 0xFFFFFFFF)
