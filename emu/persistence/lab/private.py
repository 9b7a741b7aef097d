"""A machine's configuration with NVDIMMs that nobody else sees: the laboratory changes no file."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

from emu.config import BackendConfig, BackendKind, Clock, MachineConfig, NvdimmConfig, OnOffAuto
from emu.host.kernel import KERNEL_FILE_SYSTEMS, file_system_name


def private(config: MachineConfig) -> MachineConfig:
    """``config`` with every NVDIMM on a private mapping: no store reaches a file, and a missing file is not made."""
    dimms = tuple(replace(dimm, backend=_private_backend(dimm)) for dimm in config.nvdimms)
    return replace(config, nvdimms=dimms, clock=Clock.VIRTUAL)


def _private_backend(dimm: NvdimmConfig) -> BackendConfig:
    backend = dimm.backend
    if backend.kind is BackendKind.RAM or (backend.size and backend.path is not None and _is_blank(backend.path)):
        return BackendConfig(id=backend.id, kind=BackendKind.RAM, size=backend.size)
    return replace(backend, share=False, sync=OnOffAuto.OFF, pmem=False, prealloc=False, discard_data=False)


def _is_blank(path: str) -> bool:
    """Whether an NVDIMM on the file would make it, or give it its size. Where neither can be, whoever opens it says so:
    a workload that is judged on zeros, because of a slip in the name, would be judged wrongly.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return Path(path).resolve().parent.is_dir()
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        regular = stat.S_ISREG(found.st_mode) and file_system_name(descriptor) not in KERNEL_FILE_SYSTEMS
        return regular and found.st_size == 0
    finally:
        os.close(descriptor)
