"""Our own instructions in place of Unicorn's, over the C of ``_x87``, ``_sse`` and ``_translate``.

Unicorn's library calls its internals through global symbols, so definitions of the same names in a library that was
loaded before, and is visible, are used instead: nothing is patched. What these need to know about the library is
looked up and measured when it is loaded, in well under a millisecond.
"""

from __future__ import annotations

import os
from pathlib import Path

from emu.cpu.engine import _translate
from emu.cpu.engine._sse import ffi as _sse_ffi
from emu.cpu.engine._sse import lib as _sse_lib
from emu.cpu.engine._translate import ffi as _translate_ffi
from emu.cpu.engine._translate import lib as _translate_lib
from emu.cpu.engine._x87 import ffi as _x87_ffi
from emu.cpu.engine._x87 import lib as _x87_lib
from emu.cpu.engine.hooks import Library
from emu.errors import HostError


def load(path: str) -> Library:
    """Load the library at ``path`` with our definitions in it; HostError when it is not one that emu knows.

    What somebody else loaded before is bound already and stays as it is: then this process gets a copy of its own.
    """
    if not (_x87_lib.emu_x87_offer() and _sse_lib.emu_sse_offer() and _translate_lib.emu_translate_offer()):
        raise HostError("emu's own instructions cannot be loaded", "install emu again")
    loaded_before = _translate_lib.emu_translate_loaded(os.fsencode(path))
    library = _load_copy(path) if loaded_before else Library(path)
    _bind(library.handle)
    return library


BETWEEN = ("translator_loop", "cpu_ldub_code")
"""Internal functions of the library that ours are called in place of: who stands before them must call ours."""


def translation() -> Library:
    """The library that has ours."""
    return Library(_translate.__file__)


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
        (_x87_ffi, _x87_lib.emu_x87_bind),
        (_sse_ffi, _sse_lib.emu_sse_bind),
        (_translate_ffi, _translate_lib.emu_translate_bind),
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
