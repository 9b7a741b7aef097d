"""Finds libunicorn and its functions without importing the Python package.

``import unicorn`` costs more time than a whole small guest run; its Python half (constants of every architecture, a
wrapper for each call) is not needed here. The package still ships and pins the library.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from emu.errors import HostError
from emu.host import hooks, system

MAJOR, MINOR = 2, 1


@cache
def _library() -> hooks.Library:
    spec = PathFinder.find_spec("unicorn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder, "lib").glob("libunicorn.so*")):
            system.publish()
            library = _checked(_load_copy(path) if system.loaded(path) else hooks.Library(str(path)))
            system.bind({name: _internal(library, name) for name in system.FUNCTIONS})
            return library
    raise HostError("the CPU library unicorn is not installed", "pip install unicorn")


def _load_copy(path: Path) -> hooks.Library:
    """Load what somebody (``import unicorn``) loaded before a second time: the first knows nothing of ``system``."""
    descriptor = os.memfd_create(path.name)
    try:
        with path.open("rb") as source:
            size = path.stat().st_size
            while size > 0 and (sent := os.sendfile(descriptor, source.fileno(), None, size)):
                size -= sent
        return hooks.Library(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _internal(library: hooks.Library, name: str) -> int:
    address = library.symbol(f"{name}_x86_64")
    if not address:
        raise HostError(f"libunicorn has no function {name}_x86_64", "install the release that emu pins")
    return address


def _checked(library: hooks.Library) -> hooks.Library:
    version = library.function("uc_version", "unsigned int(*)(uintptr_t, uintptr_t)")(0, 0)
    if (version >> 24, version >> 16 & 0xFF) != (MAJOR, MINOR):
        raise HostError(
            f"unicorn {version >> 24}.{version >> 16 & 0xFF} is installed, emu needs {MAJOR}.{MINOR}",
            "install the release that emu pins",
        )
    return library


def function(name: str) -> int:
    """The address of Unicorn's function ``name``, written with its prefix (``uc_hook_add``)."""
    address = _library().symbol(name)
    if not address:
        raise HostError(f"libunicorn has no function {name}", "install the release that emu pins")
    return address


@cache
def functions() -> dict[str, int]:
    """What ``emu.host.hooks.Engine`` asks for."""
    return {name: function(f"uc_{name}") for name in hooks.FUNCTIONS}


def describe(error: int) -> str:
    """Unicorn's text for one of its error numbers."""
    return hooks.text(_library().function("uc_strerror", "const char *(*)(int)")(error)) or f"error {error}"
