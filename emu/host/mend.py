"""Our own instructions in place of Unicorn's, over the C of ``_float``.

Unicorn's library calls its internals through global symbols, so definitions of the same names in a library that was
loaded before, and is visible, are used instead: nothing is patched. ``offer`` must come before the library is loaded,
``bind`` after.
"""

from __future__ import annotations

from typing import Any

from emu.errors import HostError
from emu.host import _float

_float_ffi: Any = _float.ffi
_float_lib: Any = _float.lib


def offer() -> None:
    """Make our definitions visible to libraries that are loaded from now on."""
    if not _float_lib.emu_float_offer():
        raise HostError("emu's own instructions cannot be loaded", "install emu again")


def bind(library: int) -> None:
    """Find in ``library`` (a handle of dlopen) what our definitions need; measured, in well under a millisecond."""
    missing = _float_lib.emu_float_bind(_float_ffi.cast("void *", library))
    if missing:
        what = _float_ffi.string(missing).decode()
        raise HostError(
            f"this build of Unicorn keeps {what} in a way emu does not know", "install the release of unicorn that emu pins"
        )
