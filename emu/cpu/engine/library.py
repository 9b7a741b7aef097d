"""Finds libunicorn and its functions without importing the Python package.

``import unicorn`` costs more time than a whole small guest run; its Python half (constants of every architecture, a
wrapper for each call) is not needed here. The package still ships and pins the library.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder

from emu.cpu.engine import hooks, loader
from emu.errors import HostError
from emu.hints import Any
from emu.units import GIB, MIB

MAJOR, MINOR = 2, 1
# What opening an engine maps: the buffer for translated code (tcg's DEFAULT_CODE_GEN_BUFFER_SIZE), and all the rest.
_CODE_BUFFER = GIB
_OTHER_NEEDS = 64 * MIB


@cache
def load() -> loader.Library:
    """The library, once per process."""
    spec = PathFinder.find_spec("unicorn")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        inside = os.path.join(folder, "lib")
        for name in sorted(name for name in _names(inside) if name.startswith("libunicorn.so")):
            library = loader.load(os.path.join(inside, name))
            _check_version(library)
            loader.bind_all(library)
            return library
    raise HostError("the CPU library unicorn is not installed", "pip install unicorn")


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _check_version(library: loader.Library) -> None:
    version = hooks.function_at(library.symbol("uc_version"), "unsigned int(*)(uintptr_t, uintptr_t)")(0, 0)
    if (version >> 24, version >> 16 & 0xFF) != (MAJOR, MINOR):
        raise HostError(
            f"unicorn {version >> 24}.{version >> 16 & 0xFF} is installed, emu needs {MAJOR}.{MINOR}",
            "install the release that emu pins",
        )


def _require_memory() -> None:
    """HostError when an engine would not get the memory it maps: Unicorn then ends the whole process, with status 1."""
    try:
        mmap.mmap(
            -1,
            _CODE_BUFFER + _OTHER_NEEDS,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        ).close()
    except OSError as error:
        raise HostError(
            f"the CPU needs {_CODE_BUFFER >> 30} GiB of address space for translated code: {error.strerror}",
            "raise the limit on virtual memory ('ulimit -v'), or the host's commit limit",
            errno=error.errno or 0,
        ) from None


def require_mended() -> None:
    """HostError unless an engine that was opened executes emu's corrections; see ``loader``."""
    if not loader.active():
        raise HostError(
            "another library in this process hides emu's own instructions; the guest would compute wrong results",
            "run emu in a process of its own",
        )


def function(name: str) -> int:
    """The address of Unicorn's function ``name``, written with its prefix (``uc_hook_add``)."""
    address = load().symbol(name)
    if not address:
        raise HostError(f"libunicorn has no function {name}", "install the release that emu pins")
    return address


def typed_function(name: str, signature: str) -> Callable[..., Any]:
    """As ``function``, to be called from here; ``signature`` is a C type such as ``int(*)(uintptr_t)``."""
    return hooks.function_at(function(name), signature)


def open_engine(model: int, ports: hooks.PortHandler) -> hooks.Engine:
    """A fresh engine. HostError when the host has no memory for one more."""
    _require_memory()
    load()
    return hooks.Engine(model, ports)
