"""emu: a mini x86-64 machine with a virtual NVDIMM, and a crash-consistency laboratory.

    import emu
    with emu.Machine("hello", nvdimms=[emu.Nvdimm("pmem.img", size="64M")]) as machine:
        print(machine.run(timeout=10).reason, machine.serial)

The names below are the public API (docs/reference/python.md). Each is imported when it is first used, so that
``import emu`` costs nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing's, without its import: that costs more than everything here
if TYPE_CHECKING:
    from emu.api.capture import Capture
    from emu.api.crashes import crash
    from emu.api.description import Nvdimm
    from emu.api.machine import Machine
    from emu.api.moves import migrate
    from emu.errors import (
        EmuError,
        FileInUse,
        GuestError,
        HostError,
        IncompleteFile,
        MapSyncUnavailable,
        StateError,
        UsageError,
    )
    from emu.host.probe import probe_path as probe

__all__ = [
    "Capture",
    "EmuError",
    "FileInUse",
    "GuestError",
    "HostError",
    "IncompleteFile",
    "Machine",
    "MapSyncUnavailable",
    "Nvdimm",
    "StateError",
    "UsageError",
    "crash",
    "migrate",
    "probe",
]

_PLACES = {
    "Capture": "emu.api.capture",
    "Machine": "emu.api.machine",
    "Nvdimm": "emu.api.description",
    "crash": "emu.api.crashes",
    "migrate": "emu.api.moves",
    "probe": "emu.host.probe",
}


if not TYPE_CHECKING:  # else every name would be right

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'emu' has no attribute {name!r}")
        from importlib import import_module

        module = import_module(_PLACES.get(name, "emu.errors"))
        return getattr(module, "probe_path" if name == "probe" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
