"""What the NVDIMMs keep when the power fails: `monitor durable` and `monitor crash`, while the guest is debugged.

The guest is recorded from its start, as by the crash laboratory, and judged by the same model.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

from emu.errors import UsageError
from emu.gdb.commands import STALE, Command, Commands
from emu.gdb.ledger import Ledger, Pending, Wait
from emu.gdb.target import Target
from emu.gdb.travel import Travel
from emu.persistence.lab.code import instruction_at
from emu.persistence.lab.recorder import Recording
from emu.persistence.model.events import UNIT, Event, label_address
from emu.persistence.model.rules import Rules
from emu.persistence.report.symbols import Symbols, load_symbols
from emu.units import PAGE, parse_number

_LOG_LIMIT = 1 << 20
_MOST_EVENTS = 1 << 21
"""That are kept, each in some 200 bytes."""
_NAMED = 8
"""Lost stores that are named; of more, the number is said."""
_MOST_BYTES = 4096


class _Part:
    """An NVDIMM's memory, or its label area, from ``address`` of the model: ``view``, and what it held at power-on."""

    def __init__(self, name: str, address: int, view: memoryview) -> None:
        self.name = name
        self.address = address
        self.view = view
        self._before: dict[int, bytes] = {}
        self.power_on()

    def power_on(self) -> None:
        zeros = bytes(PAGE)
        self._before = {
            at: content
            for at in range(0, len(self.view), PAGE)
            if (content := bytes(self.view[at : at + PAGE])) != zeros
        }

    def initial(self, unit: int) -> int:
        offset = unit - self.address
        page = self._before.get(offset & -PAGE, b"")
        return int.from_bytes(page[offset % PAGE : offset % PAGE + UNIT].ljust(UNIT, b"\0"), "little")


class Past:
    """The events since power-on, the oldest of them as the ledger that they left: there may be too many to keep."""

    def __init__(self, rules: Rules) -> None:
        self.events: list[Event] = []
        self._base = Ledger(rules)
        self._ledger = Ledger(rules)

    @property
    def first(self) -> int:
        """The event from which on they are kept."""
        return self._base.events

    @property
    def count(self) -> int:
        return self.first + len(self.events)

    def ledger(self) -> Ledger:
        """After all of them."""
        self._ledger.apply(self.events[self._ledger.events - self.first :])
        return self._ledger

    def back_to(self, count: int) -> None:
        """Forget all but the first ``count``, at least ``first``."""
        del self.events[count - self.first :]
        if self._ledger.events > count:
            self._ledger = self._base.copy()

    def shorten(self) -> None:
        """Of too many, keep the later half."""
        if len(self.events) > _MOST_EVENTS:
            half = len(self.events) // 2
            self._base.apply(self.events[:half])
            del self.events[:half]
            if self._ledger.events < self.first:
                self._ledger = self._base.copy()


class Kept(NamedTuple):
    """A moment of it; see ``travel.Keeper``."""

    events: int
    past: Past
    recording: Recording

    @property
    def valid(self) -> bool:
        return self.events >= self.past.first

    def restore(self) -> None:
        self.recording.clear()
        self.past.back_to(self.events)


class Power:
    """Records ``target``'s machine from now on, before it runs, and adds its commands. The keeper of a ``Travel``."""

    def __init__(self, target: Target, commands: Commands) -> None:
        self._target = target
        self._machine = target.machine
        self._rules = Rules(self._machine.config.domain)
        self._past = Past(self._rules)
        self._parts = [part for number in range(len(self._machine.nvdimms)) for part in self._parts_of(number)]
        self._recording = Recording(self._machine, log_limit=_LOG_LIMIT)
        self._recording.tracer.on_stop = self._log_is_long
        self._recording.start()
        self.travel: Travel | None = None
        commands.add(
            "durable", Command("durable ADDRESS [LENGTH]", "is it durable, and what does it wait for", self._durable)
        )
        commands.add(
            "crash", Command("crash", "cut the power here: what is not durable is lost; boot again", self._crash)
        )

    def _parts_of(self, number: int) -> list[_Part]:
        dimm = self._machine.nvdimms[number]
        device, view = dimm.device, dimm.backend.mapping.view
        name = device.config.id or f"nvdimm{device.slot}"
        parts = [_Part(name, device.gpa, view[: device.size])]
        if device.label_size:
            labels = view[len(view) - device.label_size :]
            parts.append(_Part(f"the label area of {name}", label_address(number, 0), labels))
        return parts

    def close(self) -> None:
        """After the run; closes the machine's CPU, which the log must outlive."""
        for part in self._parts:
            part.view.release()
        self._machine.cpu.close()
        self._recording.tracer.close()

    # -- the log ------------------------------------------------------------------------------------------------------

    def _log_is_long(self, _why: int) -> None:
        """In a callback; the limit of the log is the only one that is set."""
        tracer = self._recording.tracer
        tracer.log_limit = 2 * tracer.log_limit
        if self.travel is not None:
            self.travel.hurry()

    def _catch_up(self) -> None:
        """Take over what was logged, and begin a new log."""
        failure = self._recording.tracer.take_failure()
        if failure is not None:
            raise failure
        self._past.events += self._recording.events()
        self._recording.clear()
        self._recording.tracer.log_limit = _LOG_LIMIT

    def _now(self) -> Ledger:
        """The ledger as of now. Where an instruction is between two turns its log goes on, in one store."""
        if self.travel is None or not self.travel.between_turns():
            self._catch_up()
            return self._past.ledger()
        ledger = self._past.ledger().copy()
        ledger.apply(self._recording.events())
        return ledger

    @property
    def events(self) -> int:
        """How many stores, flushes, fences and label writes there were since power-on."""
        return self._past.count + sum(1 for _ in self._recording.events())

    def save(self) -> Kept:
        """See ``travel.Keeper``."""
        self._catch_up()
        self._past.shorten()
        return Kept(self._past.count, self._past, self._recording)

    # -- commands -----------------------------------------------------------------------------------------------------

    def _durable(self, words: list[str]) -> str:
        if not 1 <= len(words) <= 2:
            raise UsageError("'monitor durable' needs an address", "monitor durable ADDRESS [LENGTH], both as numbers")
        address = parse_number(words[0], what="durable ADDRESS", high=(1 << 64) - 1)
        length = parse_number(words[1], what="durable LENGTH", low=1, high=_MOST_BYTES) if words[1:] else 1
        return self._target.call(lambda: "\n".join(self._describe(address, length)))

    def _describe(self, address: int, length: int) -> list[str]:
        gpa = self._target.locate(address)
        if gpa is None:
            raise UsageError(f"the guest maps nothing at {address:#x}", "give another address")
        part = next((part for part in self._parts if 0 <= gpa - part.address < len(part.view)), None)
        if part is None:
            raise UsageError(
                f"{address:#x} is no persistent memory: it is lost with the power", "'monitor nvdimm' lists it"
            )
        ledger = self._now()
        length = min(length, len(part.view) - (gpa - part.address))
        waiting = [pending for at in range(gpa, gpa + length) for pending in ledger.pending(at)[-1:]]
        where = f"{address:#x} ({part.name}+{gpa - part.address:#x})"
        if length > 1:
            where = f"{length} bytes at {where}"
        unit = gpa & -UNIT
        if not waiting:
            return [f"{where}: durable, {self._hex(part, gpa, length)}"]
        lines = [f"{where}: NOT durable, {self._hex(part, gpa, length)} in the caches"]
        for pending in dict.fromkeys(waiting):
            lines += self._waits(pending)
        values = ", ".join(f"{value:#x}" for value in ledger.possible(unit, part.initial(unit)))
        return [*lines, f"  if the power fails now, the 8 bytes at {unit - gpa + address:#x} hold one of: {values}"]

    def _hex(self, part: _Part, gpa: int, length: int) -> str:
        at = gpa - part.address
        shown = bytes(part.view[at : at + min(length, 16)]).hex(" ")
        return shown if length <= 16 else f"{shown} ..."

    def _waits(self, pending: Pending) -> list[str]:
        lines = [f"  event {pending.event}: stored by {self._place(pending.pc)}", f"  waits for {pending.wait.value}"]
        if pending.wait is Wait.FENCE and pending.flush_pc is not None:
            lines.append(f"  flushed by {self._place(pending.flush_pc)}")
        elif pending.wait is Wait.FLUSH and pending.flush_pc is not None:
            lines.append(f"  its line was last flushed by {self._place(pending.flush_pc)}, before the store")
        return lines

    @cached_property
    def _symbols(self) -> Symbols:
        return load_symbols(self._machine.config.image)

    def _place(self, pc: int) -> str:
        """An instruction as a person finds it."""
        place = self._symbols.find(pc)
        named = f"{pc:#x}" + (f" <{place.symbol}>" if place.symbol else "")
        source = f" at {place.source}" if place.source else ""
        text = instruction_at(self._machine.cpu, pc)
        return f"{named}{source}" + (f": {text}" if text else "")

    def _crash(self, words: list[str]) -> str:
        if words:
            raise UsageError("'monitor crash' takes no words", "'monitor durable' says what would be lost")
        said = self._target.call(self._cut)
        self._target.reset()
        self._target.call(self._begin)
        return said

    def _cut(self) -> str:
        """Leave in memory, and in the files, what is durable."""
        self._catch_up()
        ledger = self._past.ledger()
        state, lost = ledger.state, ledger.lost()
        lines = [f"the power failed before event {ledger.events}: {_count(lost)} lost"]
        lines += [f"  event {event}: {self._place(pc)}" for event, pc in lost[:_NAMED]]
        lines += [f"  and {len(lost) - _NAMED} more"] if len(lost) > _NAMED else []
        for component in state.components.values():
            for unit, entry in component.units.items():
                mask, value = entry.contents[0]
                part = next(part for part in self._parts if 0 <= unit - part.address < len(part.view))
                content = part.initial(unit) & ~mask | value
                at = unit - part.address
                part.view[at : at + UNIT] = content.to_bytes(UNIT, "little")
        for dimm in self._machine.nvdimms:
            dimm.backend.mapping.persist()
        return "\n".join([*lines, f"the files hold what was durable; the guest boots again; {STALE}"])

    def _begin(self) -> None:
        """The power is back."""
        self._recording.clear()
        self._past = Past(self._rules)
        for part in self._parts:
            part.power_on()
        if self.travel is not None:
            self.travel.begin()


def _count(lost: list[tuple[int, int]]) -> str:
    return "no store is" if not lost else "1 store is" if len(lost) == 1 else f"{len(lost)} stores are"
