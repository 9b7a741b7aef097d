"""Our own instructions in place of Unicorn's, over the C of ``_float`` and ``_translate``.

Unicorn's library calls its internals through global symbols, so definitions of the same names in a library that was
loaded before, and is visible, are used instead: nothing is patched. ``offer`` must come before the library is loaded,
``bind`` after.
"""

from __future__ import annotations

from typing import Any

from emu.errors import HostError
from emu.host import _float, _translate

_float_lib: Any = _float.lib
_translate_lib: Any = _translate.lib


def offer() -> None:
    """Make our definitions visible to libraries that are loaded from now on."""
    if not (_float_lib.emu_float_offer() and _translate_lib.emu_translate_offer()):
        raise HostError("emu's own instructions cannot be loaded", "install emu again")


def bind(library: int) -> None:
    """Find in ``library`` (a handle of dlopen) what our definitions need; measured, in well under a millisecond."""
    for ffi, function in (
        (_float.ffi, _float_lib.emu_float_bind),
        (_translate.ffi, _translate_lib.emu_translate_bind),
    ):
        missing = function(ffi.cast("void *", library))
        if missing:
            raise HostError(
                f"this build of Unicorn is not as emu knows it ({ffi.string(missing).decode()})",
                "install the release of unicorn that emu pins",
            )


def active() -> bool:
    """Whether an engine that was opened uses our definitions; not when the library was loaded by somebody before."""
    return bool(_translate_lib.emu_translate_active())
