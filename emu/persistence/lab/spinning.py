"""Finds out that a guest repeats its state, so that it will never end: at once, not when its budget is used up.

A machine that comes back to the same instruction with the same registers, memory and devices does the same again, for
ever, since nothing comes from outside. (Virtual time is part of the state from the first moment that anybody asks for
it.) From time to time, rarer the longer the guest runs, it is watched for some basic blocks. Memory is compared by the
pages that were written in between, which write protection finds.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from emu.cpu.engine.trace import Tracer
from emu.cpu.sites import SiteKind, find_sites
from emu.devices.contract import ExitRequest
from emu.errors import Status, UsageError
from emu.persistence.lab.code import instruction_at
from emu.persistence.lab.explore import Spin
from emu.persistence.model.events import Store, page_of, split
from emu.units import PAGE

if TYPE_CHECKING:
    from emu.host.faults import DirtyLog
    from emu.machine import Machine
    from emu.memory import Mapping
    from emu.persistence.lab.recorder import Recording
    from emu.state import SavedState

ENDLESS = "endless-loop"
"""Reason of the ``Exit`` of a machine that repeats its state."""

_FIRST_LOOK = 1 << 14  # basic blocks: two milliseconds
_SHORTEST_LOOK = 512
_WORDS_KEPT = 8
_LOOKED_THROUGH = 128
_LOGGED = -1
_MOST_ENTRIES = 1 << 17  # of the log, read in one look
_Page = tuple[int, int]


class _State(NamedTuple):
    """All that decides what the machine does next, but for pages that were not written since the state before."""

    cpu: SavedState
    devices: dict[str, SavedState]
    pages: dict[_Page, bytes]


class SpinWatch:
    """Watches the runs of one machine, each from ``start`` to ``stop``, which call ``before_block`` when the tracer's
    budget is used up and ``look`` whenever the machine has stopped.

    Where a ``recording`` is given, it knows the stores to the NVDIMMs; their memory is protected by others then.
    """

    def __init__(self, machine: Machine, tracer: Tracer, recording: Recording | None = None) -> None:
        self._machine = machine
        self._tracer = tracer
        self._recording = recording
        of_nvdimms = [dimm.backend for dimm in machine.nvdimms]
        backends = [backend for backend in machine.backends if recording is None or backend not in of_nvdimms]
        self._mappings: list[Mapping] = [backend.mapping for backend in backends if not backend.mapping.readonly]
        self._logs: list[DirtyLog] = []
        self._words: dict[tuple[int, int], int] = {}
        self._before: _State | None = None
        self.spin: Spin | None = None
        self._forget()

    def _forget(self) -> None:
        for log in self._logs:
            log.stop()
        self._logs = []
        self._head: tuple[int, dict[str, int]] | None = None
        self._before = None
        self._entries, self._entries_left = 0, _MOST_ENTRIES
        self._wants_look = self._resumed = self.proven = False
        self._words.clear()

    def start(self, blocks: int) -> None:
        """A run begins, for at most so many basic blocks."""
        self.stop()
        self.spin = None
        self._begun = self._tracer.blocks
        self._limit = self._begun + blocks
        self._next_look(_FIRST_LOOK)

    def stop(self) -> None:
        """The run has ended."""
        self._forget()

    def _next_look(self, blocks: int) -> None:
        self._forget()
        self._after = blocks
        self._until = self._begun + blocks + max(_SHORTEST_LOOK, blocks // 256)
        self._tracer.set_budget(min(self._begun + blocks, self._limit))

    def before_block(self) -> bool:
        """The guest is about to execute a basic block; False when it has had all that it may have."""
        blocks = self._tracer.blocks
        if blocks >= self._limit:
            return False
        if blocks > self._until and not self.proven:
            self._next_look(4 * self._after)
            return True
        self._tracer.set_budget(blocks + 1)
        if self._resumed:  # behind a look: the block that was announced then
            self._resumed = False
        elif self._head is None or self._head == (self._machine.cpu.rip, self._machine.cpu.registers()):
            self._wants_look = True
            self._machine.cpu.stop_before_block()
        return True

    def look(self, tracked: Collection[int]) -> None:
        """The machine has stopped. ``tracked``: the units among which is what the guest waits for, if it does."""
        if not self._wants_look:
            return
        self._wants_look, self._resumed = False, True
        self._tracer.blocks -= 1
        if self._head is None:
            self._head = self._machine.cpu.rip, self._machine.cpu.registers()
            self._logs = [mapping.dirty_log() for mapping in self._mappings]
            for log in self._logs:
                log.start()
            self._entries = self._tracer.count
        elif self.proven:
            self._end()
        else:
            before, self._before = self._before, self._state()
            if before == self._before:
                # Once more round, to see what it reads: all tracked bytes are unknown again.
                self.proven = True
                self._tracer.set_unknown(tracked)

    def _state(self) -> _State:
        """The state, with what was written since the last call."""
        devices = {name: device.save() for name, device in self._machine.devices.items()}
        return _State(self._machine.cpu.save(), devices, {page: self._content(page) for page in self._written()})

    def _written(self) -> list[_Page]:
        """The pages stored to since the last call: each its mapping's number and its own; those logged by address."""
        pages = [(number, page) for number, log in enumerate(self._logs) for first, count in log.collect()
                 for page in range(first, first + count)]  # fmt: skip
        if self._recording is not None:
            stores = [event for entry, event in self._recording.numbered_events()
                      if entry >= self._entries and isinstance(event, Store)]  # fmt: skip
            self._entries = self._tracer.count
            self._entries_left -= self._entries
            if self._entries_left < 0:
                self._until = 0
            logged = {page_of(unit) for store in stores for unit, _, _ in split(store.address, store.data)}
            pages += [(_LOGGED, page // PAGE) for page in sorted(logged)]
        return pages

    def _content(self, page: _Page) -> bytes:
        number, at = page[0], page[1] * PAGE
        if number == _LOGGED:
            return bytes(self._machine.memory.read(at, PAGE))
        return bytes(self._mappings[number].view[at : at + PAGE])

    def note_read(self, address: int, size: int) -> None:
        """The guest reads these bytes of tracked units while it goes round once more."""
        if (address, size) not in self._words:
            self._words[address, size] = self._reader(address)

    def _reader(self, address: int) -> int:
        """The instruction that reads at ``address``. At a locked one the engine still stands at one before it."""
        cpu = self._machine.cpu
        try:
            code = cpu.read_linear(cpu.rip, _LOOKED_THROUGH)
        except UsageError:
            return cpu.rip
        locked = (site for site in find_sites(code, cpu.rip, cpu.mode) if site.kind & SiteKind.LOCKED)
        return next((site.pc for site in locked if cpu.translate(cpu.linear_address(site)) == address), cpu.rip)

    def _end(self) -> None:
        assert self._head is not None
        words = list(self._words)[:_WORDS_KEPT]
        pc = self._words[words[0]] if words else self._head[0]
        reads = tuple((address, bytes(self._machine.memory.read(address, size))) for address, size in words)
        self.spin = Spin(pc, instruction_at(self._machine.cpu, pc), reads)
        what = "".join(f", where it reads {int.from_bytes(data, 'little'):#x} at {at:#x}" for at, data in reads[:1])
        detail = f"the loop at {pc:#x} repeats its state for ever{what}"
        self._machine.end(ExitRequest(ENDLESS, Status.TIMEOUT, None, detail))
