"""System-level behaviour that stands before Unicorn's internal functions (``_system``): what is in it, its C file says.

``loader`` puts it there; the places in the CPU state come as numbers from ``layout`` and ``offsets``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emu.cpu.engine._system import ffi, lib
from emu.errors import UsageError
from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.cpu.engine._system import emu_system

READ, WRITE = 1, 2

LAYOUT: tuple[str, ...] = tuple(name for name, _ in ffi.typeof("emu_system_layout").fields)
"""The offsets that ``know`` needs."""


def know(offsets: Mapping[str, int]) -> None:
    """Name the offsets in the CPU state. No engine may be attached before."""
    lib.emu_system_know(ffi.new("emu_system_layout *", {name: offsets[name] for name in LAYOUT}))


_attached: set[System] = set()
"""Kept alive: the C side knows them until they are detached."""


class System:
    """What one engine has of it: the state of its random numbers, its breakpoints, its pages of code."""

    def __init__(self) -> None:
        self._s: emu_system = ffi.new("emu_system *")

    def attach(self, engine: int, cpu: int, state: int, *, cr4_bits: int) -> None:
        """From now on that engine behaves; addresses of its structure, its CPU object and its CPU state.

        ``cr4_bits`` are those that a guest may set.
        """
        self.detach()
        _attached.add(self)
        self._s.cr4_bits = cr4_bits
        lib.emu_system_attach(self._s, ffi.cast("void *", engine), ffi.cast("void *", cpu), ffi.cast("void *", state))

    def detach(self) -> None:
        """Before the engine is closed."""
        lib.emu_system_detach(self._s)
        _attached.discard(self)

    @property
    def random(self) -> int:
        """From which RDRAND makes its next number; 64 bits."""
        return self._s.random

    @random.setter
    def random(self, value: int) -> None:
        self._s.random = value

    def breakpoints_off(self) -> None:
        """Before the debug registers are written from outside."""
        lib.emu_system_debug_off(self._s)

    def breakpoints_on(self) -> None:
        """Afterwards: make them work."""
        lib.emu_system_debug_on(self._s)

    def debug(self, met: int, restarts: int, spans: int, argument: int) -> None:
        """C functions at these addresses hear from now on, with ``argument``, of an access to what is watched
        (``met``), and of an instruction that is given up and begins again at once (``restarts``); a third says where
        the code of the block lies that is executed instruction by instruction (``spans``).
        """
        self._s.met, self._s.restarts, self._s.spans, self._s.argument = met, restarts, spans, argument

    @property
    def instruction_blocks(self) -> int:
        """Host address of the 32-bit word that, unless zero, makes each instruction a block when it is translated."""
        return int(ffi.cast("uintptr_t", ffi.addressof(self._s, "instruction_blocks")))

    def set_watches(self, watches: Sequence[tuple[int, int, int]]) -> None:
        """Watch these and no others: linear address, size, and READ, WRITE or both. UsageError for too many."""
        if len(watches) > lib.EMU_WATCHES:
            raise UsageError(f"{len(watches)} watchpoints are too many", f"use at most {lib.EMU_WATCHES}")
        lib.emu_system_set_watches(self._s, ffi.new("emu_watch[]", list(watches)), len(watches))

    def accessed(self, address: int, size: int, access: int) -> None:
        """The processor itself has read or stored there, in no instruction's code."""
        lib.emu_system_accessed(self._s, address, size, access)

    @property
    def met(self) -> tuple[int, int]:
        """The watched linear address that was accessed last, and whether by READ or WRITE."""
        return self._s.met_address, self._s.met_access

    @property
    def code_check(self) -> tuple[int, int]:
        """Addresses of a C function and its first argument that do what ``has_code`` does."""
        function = ffi.cast("uintptr_t", ffi.addressof(lib, "emu_system_has_code"))
        return int(function), int(ffi.cast("uintptr_t", self._s))

    def take_code_change(self) -> bool:
        """Since it was last asked, code was translated from a page that had none, or a page with code stored to."""
        changed, self._s.code_changed = self._s.code_changed, 0
        return bool(changed)

    def has_code(self, address: int, size: int) -> bool:
        """Code was translated from a page of these ``size`` bytes of guest memory at host ``address``."""
        return bool(lib.emu_system_has_code(self._s, ffi.cast("void *", address), size))

    def host_wrote(self, address: int, size: int) -> None:
        """The host stored ``size`` bytes at host ``address`` of guest memory, within a page: forget code from there."""
        lib.emu_system_host_wrote(self._s, ffi.cast("void *", address), size)
