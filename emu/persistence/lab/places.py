"""Where the words of the model (``model.events``) lie in the backends of a machine's NVDIMMs."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from emu.persistence.model.events import label_address

if TYPE_CHECKING:
    from emu.memory import Backend
    from emu.parts import PluggedNvdimm

_WHOLE = struct.Struct("<Q")


class Places:
    """The memory and the label areas of ``nvdimms``, whose order is that of the model."""

    def __init__(self, nvdimms: Iterable[PluggedNvdimm]) -> None:
        self._areas: list[tuple[int, int, int, Backend]] = [
            (start, size, offset, dimm.backend)
            for number, dimm in enumerate(nvdimms)
            for mapping, labels in ((dimm.backend.mapping, dimm.device.label_size),)
            for start, offset, size in (
                (dimm.device.gpa, 0, dimm.device.size),
                (label_address(number, 0), mapping.size - labels, labels),
            )
        ]

    def find(self, unit: int) -> tuple[Backend, int] | None:
        """The backend that holds ``unit``, and the offset in it; None for a word that is no memory."""
        for start, size, offset, backend in self._areas:
            if 0 <= unit - start < size:
                return backend, offset + unit - start
        return None

    def put(self, unit: int, mask: int, value: int) -> None:
        """Put the bytes of ``unit`` under ``mask`` into memory, where it is memory."""
        place = self.find(unit)
        if place is not None:
            backend, at = place
            view = backend.mapping.view
            (before,) = _WHOLE.unpack_from(view, at)
            _WHOLE.pack_into(view, at, before & ~mask | value)
