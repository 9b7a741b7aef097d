"""Finds out that a guest repeats its state, so that it will never end: at once, not when its budget is used up.

A machine that comes back to the same instruction with the same registers, memory and devices does the same again, for
ever, since nothing comes from outside. (Virtual time is part of the state from the first moment that anybody asks for
it: then nothing is watched any more.) From time to time, rarer the longer the guest runs, it is watched for some basic
blocks. Of memory the pages that the run has stored to are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from emu.cpu.engine.trace import Tracer
from emu.devices.contract import ExitRequest
from emu.errors import Status
from emu.persistence.lab.code import instruction_at
from emu.persistence.lab.explore import Spin
from emu.units import PAGE, U64_MAX

if TYPE_CHECKING:
    from emu.machine import Machine
    from emu.persistence.lab.undo import Undo
    from emu.state import SavedState

ENDLESS = "endless-loop"
"""Reason of the ``Exit`` of a machine that repeats its state."""

_FIRST_LOOK = 1 << 14  # basic blocks: two milliseconds
_SHORTEST_LOOK = 512
_WORDS_KEPT = 8
_MOST_PAGES = 1024
_Page = tuple[int, int]


class _State(NamedTuple):
    """All that decides what the machine does next, but for pages that the run has not stored to."""

    outside: object
    cpu: SavedState
    devices: dict[str, SavedState]
    pages: dict[_Page, bytes]


class SpinWatch:
    """Watches the runs of one machine, whose memory ``undo`` puts back: ``start`` each. ``before_block`` must be called
    when the tracer's budget is used up and ``look`` whenever the machine has stopped. ``outside`` tells what is left of
    its input, or other things that decide what comes from outside.
    """

    def __init__(
        self, machine: Machine, tracer: Tracer, undo: Undo, outside: Callable[[], object] = lambda: None
    ) -> None:
        self._outside = outside
        self._machine = machine
        self._tracer = tracer
        self._undo = undo
        self._words: dict[tuple[int, int], int] = {}
        self.start(0)

    def start(self, blocks: int) -> None:
        """A run begins, for at most so many basic blocks."""
        self.spin: Spin | None = None
        self.reads: tuple[bytes, Sequence[int]] = b"", ()
        self._begun = self._tracer.blocks
        self._limit = self._begun + blocks
        self._next_look(_FIRST_LOOK)

    def _next_look(self, blocks: int) -> None:
        self._head: tuple[int, dict[str, int]] | None = None
        self._before: _State | None = None
        self.wants_look = self._awaits = self._resumed = self.proven = False
        self._words.clear()
        self._after = blocks
        self._until = self._begun + blocks + max(_SHORTEST_LOOK, blocks // 256)
        self._tracer.set_budget(min(self._begun + blocks, self._limit))

    def before_block(self) -> bool:
        """The guest is about to execute a basic block; False when it has had all that it may have."""
        blocks = self._tracer.blocks
        if blocks >= self._limit and not self.proven:
            return False
        if self._machine.cpu.time_passes:  # which is part of the state: it cannot be the same again
            self._tracer.set_budget(self._limit)
            return True
        if blocks > self._until and not self.proven:
            self._next_look(4 * self._after)
            return True
        if not self._awaits:  # most never come back with the same registers, so nothing else is looked at now
            self._awaits = True
            self._tracer.await_block(min(self._until + 1, self._limit))
        elif self._resumed:  # behind a look: the block that was announced then
            self._resumed = False
        else:
            here = self._machine.cpu.rip, self._machine.cpu.registers()
            self._head = self._head or here
            if self._head == here:
                self.wants_look = True
                self._machine.cpu.stop_before_block()
        return True

    def look(self, tracked: Collection[int]) -> None:
        """The machine has stopped. ``tracked``: the units among which is what the guest waits for, if it does."""
        if not self.wants_look:
            return
        self.wants_look, self._resumed = False, True
        self._tracer.blocks -= 1
        if self.proven:
            self._end()
        else:
            before, self._before = self._before, self._state()
            if self._before is None:
                self._next_look(4 * self._after)
            elif before == self._before:
                # Once more round, to see what it reads: all tracked bytes are unknown again.
                self.proven = True
                self._tracer.await_block(U64_MAX)
                self.reads = self._tracer.reads(), self._tracer.read_entries()
                self._tracer.set_unknown(tracked)

    def _state(self) -> _State | None:
        """All that decides what comes next, but for pages that are as they were; None where it is too much to keep."""
        pages = [(number, page) for number, backend in enumerate(self._machine.backends)
                 if not backend.mapping.readonly for first, count in self._undo.stored(backend)
                 for page in range(first, first + count)]  # fmt: skip
        if len(pages) > _MOST_PAGES:
            return None
        devices = {name: device.save() for name, device in self._machine.devices.items()}
        return _State(
            self._outside(), self._machine.cpu.save(), devices, {page: self._content(*page) for page in pages}
        )

    def _content(self, number: int, page: int) -> bytes:
        return bytes(self._machine.backends[number].mapping.view[page * PAGE : page * PAGE + PAGE])

    def note_read(self, unit: int, bytes_of_unit: int) -> None:
        """The guest reads these bytes (bit 0 for the first) of a tracked unit while it goes round once more."""
        first = (bytes_of_unit & -bytes_of_unit).bit_length() - 1
        word = unit + first, bytes_of_unit.bit_count()
        if word not in self._words:
            self._words[word] = self._machine.cpu.rip

    def _end(self) -> None:
        assert self._head is not None
        words = list(self._words)[:_WORDS_KEPT]
        pc = self._words[words[0]] if words else self._head[0]
        reads = tuple((address, bytes(self._machine.memory.read(address, size))) for address, size in words)
        self.spin = Spin(pc, instruction_at(self._machine.cpu, pc), reads)
        what = "".join(f", where it reads {int.from_bytes(data, 'little'):#x} at {at:#x}" for at, data in reads[:1])
        detail = f"the loop at {pc:#x} repeats its state for ever{what}"
        self._machine.end(ExitRequest(ENDLESS, Status.TIMEOUT, None, detail))
