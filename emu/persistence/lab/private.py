"""A machine's configuration with NVDIMMs that nobody else sees: the laboratory changes no file."""

from __future__ import annotations

from dataclasses import replace

from emu.config import BackendConfig, BackendKind, Clock, MachineConfig, OnOffAuto


def private(config: MachineConfig) -> MachineConfig:
    """``config`` with every NVDIMM on a private mapping: no store reaches a file, and a missing file is not made."""
    dimms = tuple(replace(dimm, backend=_private_backend(dimm.backend)) for dimm in config.nvdimms)
    return replace(config, nvdimms=dimms, clock=Clock.VIRTUAL)


def _private_backend(backend: BackendConfig) -> BackendConfig:
    if backend.kind is BackendKind.RAM:
        return BackendConfig(id=backend.id, kind=BackendKind.RAM, size=backend.size)
    return replace(
        backend, keep_blank=True, share=False, sync=OnOffAuto.OFF, pmem=False, prealloc=False, discard_data=False
    )
