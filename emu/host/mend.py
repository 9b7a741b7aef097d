"""Our own instructions in place of Unicorn's, over the C of ``_float`` and ``_translate``.

Unicorn's library calls its internals through global symbols, so definitions of the same names in a library that was
loaded before, and is visible, are used instead: nothing is patched. ``offer`` must come before the library is loaded,
``bind`` after.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from emu.errors import HostError
from emu.host import _float, _translate
from emu.host.hooks import Library

_float_lib: Any = _float.lib
_translate_lib: Any = _translate.lib


def load(path: str) -> Library:
    """Load the library at ``path`` with our definitions in it; HostError when it is not one that emu knows.

    What somebody else loaded before is bound already and stays as it is: then this process gets a copy of its own.
    """
    if not (_float_lib.emu_float_offer() and _translate_lib.emu_translate_offer()):
        raise HostError("emu's own instructions cannot be loaded", "install emu again")
    if _translate_lib.emu_translate_loaded(os.fsencode(path)):
        library = _load_copy(path)
    else:
        library = Library(path)
    _bind(library.handle)
    return library


def _load_copy(path: str) -> Library:
    copy = os.memfd_create(Path(path).name, os.MFD_CLOEXEC)
    try:
        with Path(path).open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            while os.sendfile(copy, source.fileno(), None, size):
                pass
        return Library(f"/proc/self/fd/{copy}")
    except OSError as exc:
        raise HostError(f"no copy of {path} can be made in memory: {exc.strerror}", "free some memory") from None
    finally:
        os.close(copy)


def _bind(library: int) -> None:
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
    """Whether an engine that was opened uses our definitions; not when another library's come first."""
    return bool(_translate_lib.emu_translate_active())
