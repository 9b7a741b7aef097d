"""Finds libunicorn and its functions without importing the Python package.

``import unicorn`` costs more time than a whole small guest run; its Python half (constants of every architecture, a
wrapper for each call) is not needed here. The package still ships and pins the library.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

from emu.errors import HostError
from emu.host import hooks

MAJOR, MINOR = 2, 1


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("unicorn")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for path in sorted(Path(folder, "lib").glob("libunicorn.so*")):
            try:
                library = ctypes.CDLL(str(path))
            except OSError as exc:
                raise HostError(f"{path} cannot be loaded: {exc}", "install unicorn again") from None
            version = library.uc_version(None, None)
            if (version >> 24, version >> 16 & 0xFF) != (MAJOR, MINOR):
                raise HostError(
                    f"unicorn {version >> 24}.{version >> 16 & 0xFF} is installed, emu needs {MAJOR}.{MINOR}",
                    "install the release that emu pins",
                )
            return library
    raise HostError("the CPU library unicorn is not installed", "pip install unicorn")


def function(name: str) -> int:
    """The address of Unicorn's function ``name``, written with its prefix (``uc_hook_add``)."""
    try:
        symbol = getattr(_library(), name)
    except AttributeError:
        raise HostError(f"libunicorn has no function {name}", "install the release that emu pins") from None
    return int(ctypes.cast(symbol, ctypes.c_void_p).value or 0)


@cache
def functions() -> dict[str, int]:
    """What ``emu.host.hooks.Engine`` asks for."""
    return {name: function(f"uc_{name}") for name in hooks.FUNCTIONS}


def describe(error: int) -> str:
    """Unicorn's text for one of its error numbers."""
    strerror = _library().uc_strerror
    strerror.restype = ctypes.c_char_p
    return str((strerror(error) or b"unknown error").decode("ascii", "replace"))
