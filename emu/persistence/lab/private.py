"""A machine's configuration with NVDIMMs that nobody else sees: the laboratory changes no file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emu.config import BackendConfig, BackendKind, Clock, MachineConfig, NvdimmConfig, OnOffAuto


def private(config: MachineConfig) -> MachineConfig:
    """``config`` with every NVDIMM on a private mapping: no store reaches a file, and a missing file is not made."""
    dimms = tuple(replace(dimm, backend=_private_backend(dimm)) for dimm in config.nvdimms)
    return replace(config, nvdimms=dimms, clock=Clock.VIRTUAL)


def _private_backend(dimm: NvdimmConfig) -> BackendConfig:
    backend = dimm.backend
    if backend.kind is BackendKind.RAM or (backend.size and backend.path is not None and _is_blank(Path(backend.path))):
        return BackendConfig(id=backend.id, kind=BackendKind.RAM, size=backend.size)
    return replace(backend, share=False, sync=OnOffAuto.OFF, pmem=False, prealloc=False, discard_data=False)


def _is_blank(path: Path) -> bool:
    """Whether an NVDIMM on the file would make it, or give it its size."""
    return not path.exists() or (path.is_file() and path.stat().st_size == 0)
