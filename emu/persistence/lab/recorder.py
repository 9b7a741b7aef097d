"""Records what a running guest does to its NVDIMMs as the events of the persistence model."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from emu.cpu import store_log
from emu.cpu.crossing import next_page
from emu.cpu.engine import trace
from emu.cpu.engine.trace import Tracer
from emu.cpu.sites import LONGEST, SPECIALS, UNKNOWN, Site, find_site, find_sites
from emu.devices.contract import ExitRequest
from emu.errors import Status, UsageError
from emu.machine import Machine
from emu.memory import Region
from emu.persistence.lab.code import writes_to_port
from emu.persistence.lab.log_events import columns, numbered_events
from emu.persistence.model.columns import Events
from emu.persistence.model.events import Event, LabelWrite, label_address
from emu.persistence.model.operations import Mark, Print
from emu.units import PAGE

if TYPE_CHECKING:
    from emu.devices.nvdimm.device import LabelStorage

TRACE_FULL, TRACE_BUDGET = "trace-full", "instruction-budget"
"""Reasons of an ``Exit`` made here: the log is full; the guest ran longer than it was allowed to."""

OnStop = Callable[[int], None]
OnLabels = Callable[[int, int, int], None]

_INVD, _UNKNOWN = SPECIALS.index("invd"), SPECIALS.index(UNKNOWN)


def spans(machine: Machine) -> list[tuple[int, int]]:
    """First and last guest-physical address of each NVDIMM; UsageError if there is none."""
    found = [(dimm.device.gpa, dimm.device.gpa + dimm.device.size - 1) for dimm in machine.nvdimms]
    if not found:
        raise UsageError("the machine has no NVDIMM", "give one: --nvdimm file=PATH,size=64M")
    return found


class Recording:
    """What one machine does to its NVDIMMs: the log of its CPU (``tracer``) and of those that are no instruction.

    The run ends when the log is full or the budget of blocks is used up. ``on_label_read`` and ``on_label_write`` hear,
    beforehand, of the NVDIMM's number, offset and length. Make it before the machine runs; the tracer is closed after
    the machine.
    """

    def __init__(self, machine: Machine, *, log_limit: int = 1 << 22) -> None:
        self._machine = machine
        self._label_writes: list[LabelWrite] = []
        self._said: list[tuple[int, tuple[str, int] | bytearray, int]] = []
        self._port_writes: dict[int, int] = {}
        self.on_label_read: OnLabels = lambda dimm, offset, length: None
        self.on_label_write: OnLabels = lambda dimm, offset, length: None
        cpu = machine.cpu
        self.tracer = tracer = Tracer(cpu.engine, cpu.places, log_limit=log_limit)
        tracer.before_hooks = cpu.watch_blocks
        tracer.find_site = self._find_site
        tracer.on_new_block = self._look_at_code
        tracer.on_stop = self._stop
        tracer.on_failure = cpu.request_stop
        tracer.next_page = lambda pc, address: next_page(cpu, pc, address)
        self._ranges = spans(machine)
        base = min(first for first, _ in self._ranges)
        tracer.cover(base, max(last for _, last in self._ranges) + 1 - base)
        cpu.watch(tracer.retract, self.written, tracer.retract_function, tracer.note_physical_read)
        machine.memory.listen(self)
        for number, dimm in enumerate(machine.nvdimms):
            if dimm.device.labels is not None:
                dimm.device.labels = _WatchedLabels(self, number, dimm.device.labels)

    def start(self, *, by_hooks: bool = False) -> bool:
        """Record from now on; before the machine runs. ``by_hooks`` is for examiners: it costs the guest a lot. Whether
        its translated code writes the log.
        """
        return self.tracer.record(by_hooks=by_hooks or not store_log.is_available())

    def _look_at_code(self, address: int, size: int) -> None:
        cpu = self._machine.cpu
        self.tracer.set_sites(address, size, find_sites(cpu.read_linear(address, size), address, cpu.mode))

    def _find_site(self, pc: int) -> Site | None:
        cpu = self._machine.cpu
        for length in (LONGEST, PAGE - pc % PAGE):
            try:
                return find_site(cpu.read_linear(pc, length), pc, cpu.mode)
            except UsageError:
                continue
        return None

    def _stop(self, why: int) -> None:
        tracer = self.tracer
        if why == trace.FULL:
            detail = f"the guest made more than {tracer.log_limit} stores, flushes and fences"
            self._machine.end(ExitRequest(TRACE_FULL, Status.TIMEOUT, None, detail))
        elif why == trace.BUDGET:
            detail = f"the guest was still running after {tracer.blocks} basic blocks"
            self._machine.end(ExitRequest(TRACE_BUDGET, Status.TIMEOUT, None, detail))

    def region_added(self, region: Region) -> None:
        """The machine's memory has ``region``."""
        if region.mapping is None:
            return
        logged = region.kind == "nvdimm" and not region.drops_stores
        self.tracer.add_region(region.gpa, region.size, region.host_address, logged=logged)

    def region_removed(self, region: Region) -> None:
        """Never under a recording: its log would no longer explain the memory."""
        raise UsageError(f"'{region.name}' cannot be removed while it is recorded", "record another run")

    def written(self, gpa: int, data: bytes) -> None:
        """Something other than an instruction has stored to guest memory."""
        for first, last in self._ranges:
            start, stop = max(gpa, first), min(gpa + len(data), last + 1)
            if start < stop:
                self.tracer.note_store(start, data[start - gpa : stop - gpa], self._machine.cpu.rip)

    def labels_written(self, dimm: int, offset: int, data: bytes) -> None:
        """The device has made ``data`` durable in the label storage area."""
        pc = self._port_write()
        self.tracer.note_device(len(self._label_writes), pc)
        self._label_writes.append(LabelWrite(label_address(dimm, offset), data, pc))

    def marked(self, kind: str, operation: int) -> None:
        """The guest has said that an operation begins or is done (``OnMark`` of ``emu.devices.operations``)."""
        self._said.append((self.tracer.count, (kind, operation), 0))

    def printed(self, data: bytes) -> None:
        """The guest has printed ``data``."""
        last = self._said[-1] if self._said else None
        if last is not None and last[0] == self.tracer.count and isinstance(last[1], bytearray) and last[1][-1] != 10:
            last[1].extend(data)
        else:
            self._said.append((self.tracer.count, bytearray(data), self._port_write()))

    def _port_write(self) -> int:
        """The instruction that writes to a port now."""
        at = self._machine.cpu.rip
        if at not in self._port_writes:
            self._port_writes[at] = writes_to_port(self._machine.cpu)
        return self._port_writes[at]

    def said(self, positions: Sequence[int]) -> list[Mark | Print]:
        """What the guest has said, in its order; ``positions`` are those of ``numbered_events``. What was printed
        without an event or a mark in between is one piece, but a line's end ends it.
        """
        found: list[Mark | Print] = []
        for entries, what, pc in self._said:
            event, last = bisect_left(positions, entries), found[-1] if found else None
            if isinstance(what, tuple):
                found.append(Mark(event, *what))
            elif isinstance(last, Print) and last.event == event and not last.text.endswith(b"\n"):
                found[-1] = last._replace(text=last.text + what)
            else:
                found.append(Print(event, bytes(what), pc, entries))
        return found

    def clear(self) -> None:
        """Start a new log, from the same memory."""
        self.tracer.clear()
        self._label_writes.clear()
        self._said.clear()

    def numbered_events(self) -> Iterator[tuple[int, Event]]:
        """What was logged so far as events, each with the position of its first entry."""
        return numbered_events(self.tracer.rows(), self._label_writes)

    def columns(self) -> tuple[Events, array[int]]:
        """The events, and the position of the first entry of each: for a long log."""
        return columns(self.tracer.log(), self._label_writes)

    def events(self) -> Iterator[Event]:
        return (event for _, event in self.numbered_events())

    def doubts(self) -> list[str]:
        """What the guest executed that makes the events less than the whole truth."""
        found = {(entry.detail, entry.pc) for entry in self.tracer.entries()
                 if entry.kind == trace.SPECIAL and entry.detail in (_INVD, _UNKNOWN)}  # fmt: skip
        return [
            f"the guest executed INVD at {pc:#x}, which drops stores that are in the caches; they are kept here"
            if detail == _INVD
            else f"the instruction at {pc:#x} cannot be decoded, so flushes and fences near it may have been missed"
            for detail, pc in sorted(found)
        ]


class _WatchedLabels:
    """A label storage area whose reads and writes a recording hears of."""

    def __init__(self, recording: Recording, number: int, labels: LabelStorage) -> None:
        self._recording = recording
        self._number = number
        self._labels = labels

    @property
    def size(self) -> int:
        return self._labels.size

    def read(self, offset: int, length: int) -> bytes:
        self._recording.on_label_read(self._number, offset, length)
        return self._labels.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        self._recording.on_label_write(self._number, offset, len(data))
        self._labels.write(offset, data)
        if data:
            self._recording.labels_written(self._number, offset, data)
