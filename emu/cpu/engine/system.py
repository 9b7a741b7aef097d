"""System-level behaviour that stands before Unicorn's internal functions (``_system``): what is in it, its C file says.

The functions come as addresses by their own names, the places in the CPU state as numbers. ``publish`` must come before
the library is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emu.cpu.engine._system import ffi, lib
from emu.errors import HostError

_ffi: Any = ffi
_lib: Any = lib

FUNCTIONS: tuple[str, ...] = tuple(
    name for name, _ in _ffi.typeof("emu_system_functions").fields if name != "peek_code"
)
"""The functions of the library that ``bind`` needs, by their plain names."""
LAYOUT: tuple[str, ...] = tuple(name for name, _ in _ffi.typeof("emu_system_layout").fields)
"""The offsets that ``know`` needs."""


def publish() -> None:
    """Let libraries that are loaded from now on find our functions in place of their own."""
    if not _lib.emu_system_publish():
        raise HostError("emu's own library cannot be made global", "install emu again")


def bind(functions: Mapping[str, int], between: Mapping[str, int]) -> None:
    """Name the addresses of the library's functions that ours stand before or call.

    ``between`` are functions of a third library, published after ours, that stand between some of them.
    """
    table = _ffi.new("emu_system_functions *")
    addresses = {**functions, **between, "peek_code": functions["cpu_ldub_code"]}
    for name in (*FUNCTIONS, "peek_code"):
        setattr(table, name, _ffi.cast("void *", addresses[name]))
    _lib.emu_system_bind(table)


def know(offsets: Mapping[str, int]) -> None:
    """Name the offsets in the CPU state. No engine may be attached before."""
    _lib.emu_system_know(_ffi.new("emu_system_layout *", {name: offsets[name] for name in LAYOUT}))


_attached: set[System] = set()
"""Kept alive: the C side knows them until they are detached."""


class System:
    """What one engine has of it: the state of its random numbers, its breakpoints, its pages of code."""

    def __init__(self) -> None:
        self._s: Any = _ffi.new("emu_system *")

    def attach(self, engine: int, cpu: int, state: int, *, cr4_bits: int) -> None:
        """From now on that engine behaves; addresses of its structure, its CPU object and its CPU state.

        ``cr4_bits`` are those that a guest may set.
        """
        self.detach()
        _attached.add(self)
        self._s.cr4_bits = cr4_bits
        _lib.emu_system_attach(
            self._s, _ffi.cast("void *", engine), _ffi.cast("void *", cpu), _ffi.cast("void *", state)
        )

    def detach(self) -> None:
        """Before the engine is closed."""
        _lib.emu_system_detach(self._s)
        _attached.discard(self)

    @property
    def random(self) -> int:
        """From which RDRAND makes its next number; 64 bits."""
        return int(self._s.random)

    @random.setter
    def random(self, value: int) -> None:
        self._s.random = value

    def breakpoints_off(self) -> None:
        """Before the debug registers are written from outside."""
        _lib.emu_system_debug_off(self._s)

    def breakpoints_on(self) -> None:
        """Afterwards: make them work."""
        _lib.emu_system_debug_on(self._s)

    def has_code(self, address: int, size: int) -> bool:
        """Code was translated from a page of these ``size`` bytes of guest memory at host ``address``."""
        return bool(_lib.emu_system_has_code(self._s, _ffi.cast("void *", address), size))

    def host_wrote(self, address: int, size: int) -> None:
        """The host stored ``size`` bytes at host ``address`` of guest memory, within a page: forget code from there."""
        _lib.emu_system_host_wrote(self._s, _ffi.cast("void *", address), size)
