"""Holds the log of a run against the memory that the run left: every byte must be what the log says.

A verdict about crashes is worth nothing if a store happened that is not in the log. So the initial content of the
NVDIMMs with the logged events applied is compared, label storage areas included, with what they hold. Only pages that
were written to are looked at: all are write-protected before the run, so the kernel vouches for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from emu.config import MachineConfig
from emu.cpu.engine.trace import Tracer
from emu.errors import EmuError
from emu.host.faults import DirtyLog
from emu.machine import Machine
from emu.memory import Backend, open_backend
from emu.persistence.lab.undo import Undo
from emu.persistence.model.events import UNIT, Event, LabelWrite, Store, label_address
from emu.units import PAGE


class UnexplainedMemory(EmuError):
    """The log and the memory differ, so there can be no verdict (status 8)."""


class _Part(NamedTuple):
    """``size`` bytes of NVDIMM ``number`` from ``offset`` of its backend, at ``address`` of the model."""

    name: str
    number: int
    address: int
    offset: int
    size: int


class MemoryCheck:
    """Watches the NVDIMMs of ``machine``, which was built from ``config`` (private mappings), as ``tracer`` does. The
    NVDIMMs must hold their initial content. An ``undo`` that watches them already tells what was written to.
    """

    def __init__(self, machine: Machine, config: MachineConfig, tracer: Tracer, undo: Undo | None = None) -> None:
        self._views = [dimm.backend.mapping.view for dimm in machine.nvdimms]
        self._parts: list[_Part] = []
        self._initial: list[Backend] = []
        self._logs: list[DirtyLog] = []
        self._written: list[tuple[int, Callable[[], list[tuple[int, int]]]]] = []
        try:
            for number, (plugged, dimm) in enumerate(zip(machine.nvdimms, config.nvdimms, strict=True)):
                self._initial.append(open_backend(dimm.backend))
                device, mapping = plugged.device, plugged.backend.mapping
                name = f"NVDIMM {device.config.id or device.slot}"
                self._parts.append(_Part(name, number, device.gpa, 0, device.size))
                tracer.set_initial(device.gpa, self._initial[-1].mapping.address)
                if device.label_size:
                    start = mapping.size - device.label_size
                    labels = f"the label area of {name}"
                    self._parts.append(_Part(labels, number, label_address(number, 0), start, device.label_size))
                if undo is not None and not mapping.readonly:
                    self._written.append((number, partial(undo.stored, plugged.backend)))
                elif not mapping.readonly:
                    log = mapping.dirty_log()
                    log.start()
                    self._logs.append(log)
                    self._written.append((number, log.collect))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Before the machine's memory goes away."""
        for log in self._logs:
            log.stop()
        for backend in self._initial:
            backend.close()
        self._logs, self._written, self._initial, self._views = [], [], [], []

    def verify(self, events: Iterable[Event], given: Mapping[int, tuple[int, int]] | None = None) -> None:
        """Compare what was written since the last call. ``given`` are bytes that the laboratory put into units before
        they were first read, as ``(mask, value)``. UnexplainedMemory names the first byte that differs.
        """
        events = events if isinstance(events, Sequence) else tuple(events)
        pages: dict[tuple[int, int], bytearray] = {}
        for unit, (mask, value) in (given or {}).items():
            for byte in range(UNIT):
                if mask >> 8 * byte & 0xFF:
                    self._put(pages, unit + byte, bytes([value >> 8 * byte & 0xFF]))
        for event in events:
            if isinstance(event, Store | LabelWrite):
                self._put(pages, event.address, event.data)
        for number, written in self._written:
            for first, count in written():
                for page in range(first, first + count):
                    self._page(pages, number, page)
        for (number, page), expected in sorted(pages.items()):
            found = bytes(self._views[number][page * PAGE : page * PAGE + PAGE])
            if found != expected:
                at = next(at for at in range(len(found)) if found[at] != expected[at])
                writes = [(place, event) for place, event in enumerate(events) if isinstance(event, Store | LabelWrite)]
                raise self._unexplained(number, page * PAGE + at, expected[at], found[at], writes)

    def _page(self, pages: dict[tuple[int, int], bytearray], number: int, page: int) -> bytearray:
        known = pages.get((number, page))
        if known is None:
            view = self._initial[number].mapping.view
            known = pages[number, page] = bytearray(view[page * PAGE : page * PAGE + PAGE])
        return known

    def _put(self, pages: dict[tuple[int, int], bytearray], address: int, data: bytes) -> None:
        part = next((part for part in self._parts if 0 <= address - part.address < part.size), None)
        if part is None:
            raise UnexplainedMemory(f"the log has a store at {address:#x}, where there is no NVDIMM", _REMEDY)
        offset, done = part.offset + address - part.address, 0
        while done < len(data):
            page, at = divmod(offset + done, PAGE)
            piece = data[done : done + PAGE - at]
            self._page(pages, part.number, page)[at : at + len(piece)] = piece
            done += len(piece)

    def _unexplained(
        self, number: int, offset: int, expected: int, found: int, writes: Sequence[tuple[int, Store | LabelWrite]]
    ) -> UnexplainedMemory:
        part = next((part for part in self._parts if part.number == number and 0 <= offset - part.offset < part.size),
                    None)  # fmt: skip
        where, what = f"offset {offset:#x} of NVDIMM {number}", ""
        if part is not None:
            address = part.address + offset - part.offset
            where = f"offset {offset - part.offset:#x} of {part.name}"
            touching = [(number, event) for number, event in writes if 0 <= address - event.address < len(event.data)]
            what = ", no logged store touches it"
            if touching:
                what = f", last stored by the instruction at {touching[-1][1].pc:#x} (event {touching[-1][0]})"
        return UnexplainedMemory(
            f"the log of the guest's stores does not explain the memory: at {where} it says {expected:#04x}, "
            f"the memory holds {found:#04x}{what}",
            _REMEDY,
        )


_REMEDY = "there is no verdict; report this as a bug in emu, with the guest"
