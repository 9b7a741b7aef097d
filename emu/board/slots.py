"""The slots that NVDIMMs go into, before the start and while the guest runs."""

from __future__ import annotations

from emu.board import map as at
from emu.config import MachineConfig, NvdimmConfig, RunOptions
from emu.devices.nvdimm.device import NvdimmDevice
from emu.devices.nvdimm.dsm import DsmPort
from emu.devices.nvdimm.placement import DeviceMemory
from emu.devices.power import Power
from emu.memory import Backend, Region, open_backend
from emu.memory.incomplete import check_not_incomplete
from emu.parts import Parts, PluggedNvdimm


class Slots:
    """Puts NVDIMMs among ``parts`` and behind ``dsm``; ``power`` tells the guest of those that come later."""

    def __init__(self, config: MachineConfig, options: RunOptions, parts: Parts, power: Power, dsm: DsmPort) -> None:
        self._options = options
        self._parts = parts
        self._power = power
        self._dsm = dsm
        self.window = DeviceMemory(config)

    def plug(self, config: NvdimmConfig, *, hot: bool = False) -> PluggedNvdimm:
        """Open the backend of ``config`` and plug the NVDIMM. ``hot``: the guest is told through its GPE.

        UsageError or HostError when it does not fit or cannot be had; then nothing has changed.
        """
        # A machine that waits for a migration may be given a file that the source still uses, or an unfinished one.
        incoming = self._options.incoming is not None and not hot
        accepted = self._options.accept_incomplete and not hot
        if config.backend.path is not None and not incoming and not accepted:
            check_not_incomplete(config.backend.path)
        backend = open_backend(config.backend, lock_later=incoming)
        try:
            return self.plug_backend(config, backend, hot=hot)
        except BaseException:
            backend.discard()
            raise

    def plug_backend(self, config: NvdimmConfig, backend: Backend, *, hot: bool) -> PluggedNvdimm:
        """Plug an NVDIMM on a backend that is open already (and stays open when this fails)."""
        mapping = backend.mapping
        placement = self.window.plug(config, mapping.size, mapping.alignment)
        try:
            device = NvdimmDevice(config, mapping, gpa=placement.gpa, slot=placement.slot)
            name = config.id or f"nvdimm-slot{device.slot}"
            self._parts.memory.add(Region(gpa=device.gpa, size=device.size, mapping=mapping, kind="nvdimm",
                                          readonly=device.drops_stores, name=name))  # fmt: skip
        except BaseException:
            self.window.give_back(placement)
            raise
        self._dsm.plug(device)
        plugged = PluggedNvdimm(device, backend, hot)
        self._parts.add_backend(backend)
        self._parts.nvdimms.append(plugged)
        self._parts.devices[f"nvdimm{device.slot}"] = device
        if hot:
            self._power.raise_gpe(at.NVDIMM_GPE)
        return plugged
