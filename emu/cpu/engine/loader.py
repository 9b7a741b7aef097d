"""Loads Unicorn's library with definitions of ours before its own.

Unicorn's library calls its internals through global symbols, so definitions of the same names in a library that was
loaded before, and is visible, are used instead: nothing is patched. Five modules have such definitions: ``_x87`` and
``_sse`` execute instructions on the host's own units, ``_translate`` sits between the translator and its code
generator, ``_system`` has what Unicorn leaves out, and ``_accesses`` tells of accesses to watched pages. What they need
to know about the library is looked up and measured when it is loaded, in well under a millisecond.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from emu.cpu.engine import _accesses, _hooks, _sse, _system, _translate, _x87
from emu.errors import HostError
from emu.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from emu.native import FFI, Pointer

_ffi, _lib = _hooks.ffi, _hooks.lib

_INTERPOSED = (_accesses.__file__, _system.__file__, _translate.__file__, _x87.__file__, _sse.__file__)
"""In the order in which a symbol is looked for. The first three have names in common, and call each other there."""


class Library:
    """A shared library loaded for its functions' addresses; HostError when it cannot be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle = _lib.emu_load_library(os.fsencode(path))
        if not self._handle:
            why = _ffi.string(_lib.emu_load_error()).decode(errors="replace")
            raise HostError(f"{path} cannot be loaded: {why}", "install the package it belongs to again")

    @property
    def handle(self) -> int:
        """What dlopen gave for it."""
        return int(_ffi.cast("uintptr_t", self._handle))

    def symbol(self, name: str) -> int:
        """The address of ``name``; 0 when the library has none."""
        return int(_ffi.cast("uintptr_t", _lib.emu_symbol(self._handle, name.encode())))


def load(path: str) -> Library:
    """Load the library at ``path`` so that it calls our definitions; ``bind_all`` before it runs.

    What somebody else loaded before is bound already and stays as it is: then this process gets a copy of its own.
    """
    for ours in _INTERPOSED:
        if not _lib.emu_show_library(os.fsencode(ours)):
            raise HostError("emu's own instructions cannot be loaded", "install emu again")
    return _load_copy(path) if _lib.emu_library_is_loaded(os.fsencode(path)) else Library(path)


def _load_copy(path: str) -> Library:
    copy = os.memfd_create(os.path.basename(path), os.MFD_CLOEXEC)
    try:
        with open(path, "rb") as source:
            size = os.fstat(source.fileno()).st_size
            while os.sendfile(copy, source.fileno(), None, size):
                pass
        return Library(f"/proc/self/fd/{copy}")
    except OSError as exc:
        raise HostError(f"no copy of {path} can be made in memory: {exc.strerror}", "free some memory") from None
    finally:
        os.close(copy)


def bind_all(library: Library) -> None:
    """Let every module that a plain run needs find what it calls; HostError when ``library`` is not as they know it."""
    between, system, accesses = Library(_translate.__file__), Library(_system.__file__), Library(_accesses.__file__)
    bind(_hooks.ffi, _hooks.lib.emu_hooks_bind, library)
    bind(_accesses.ffi, _accesses.lib.emu_accesses_bind, library, system, between)
    bind(_system.ffi, _system.lib.emu_system_bind, library, between, accesses)
    bind(_translate.ffi, _translate.lib.emu_translate_bind, library)
    bind(_x87.ffi, _x87.lib.emu_x87_bind, library)
    bind(_sse.ffi, _sse.lib.emu_sse_bind, library)


def bind(ffi: FFI, function: Callable[..., Pointer], *libraries: Library) -> None:
    """Let one module look up what it calls, by its C ``function``; HostError as for ``bind_all``."""
    missing = function(*(ffi.cast("void *", library.handle) for library in libraries))
    if missing:
        raise HostError(
            f"this build of Unicorn is not as emu knows it ({ffi.string(missing).decode()})",
            "install the release of unicorn that emu pins",
        )


def active() -> bool:
    """Whether an engine that was opened uses our definitions; not when another library's come first."""
    return bool(_translate.lib.emu_translate_active())
