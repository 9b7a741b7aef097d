"""Unicorn's own contexts: a copy of an engine's state that goes back into the same engine, fast."""

from __future__ import annotations

from emu.cpu.engine import hooks, library
from emu.errors import HostError

# uc_ctl: UC_CTL_TLB_FLUSH as a write without arguments (unicorn/unicorn.h).
_FLUSH_TLB = 11 | 1 << 30


def _check(error: int, doing: str) -> None:
    if error:
        raise HostError(f"Unicorn cannot {doing}: {hooks.describe(error)}", "see that unicorn 2.1 is installed whole")


class Context:
    """The state of the engine with this handle as it is now, but for what ``offsets`` names ``not_in_context``."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._restore = library.typed_function("uc_context_restore", "int(*)(uintptr_t, uintptr_t)")
        self._control = library.typed_function("uc_ctl", "int(*)(uintptr_t, int, ...)")
        self._free = library.typed_function("uc_context_free", "int(*)(uintptr_t)")
        allocate = library.typed_function("uc_context_alloc", "int(*)(uintptr_t, uintptr_t)")
        made = bytearray(8)
        _check(allocate(engine, hooks.address_of(made)), "make a context")
        self._context = int.from_bytes(made, "little")
        save = library.typed_function("uc_context_save", "int(*)(uintptr_t, uintptr_t)")
        _check(save(engine, self._context), "save a context")

    def restore(self) -> None:
        """Put the state back. Translated code stays; cached translations of addresses go."""
        _check(self._restore(self._engine, self._context), "restore a context")
        _check(self._control(self._engine, _FLUSH_TLB), "drop translated addresses")

    def close(self) -> None:
        """Free it; before the engine is closed."""
        self._free(self._context)
