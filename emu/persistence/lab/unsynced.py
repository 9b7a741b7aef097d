"""Failures of Linux programs that are the fault of what the file system had not written yet.

A program's bytes can be on the medium while the file they belong to is not: its name, its size, that its blocks are
written ones is in the kernel's page cache until a sync. No repair of the trace shows that, since nothing that was
stored was lost. So the workload runs again, up to where the power failed, and there the program calls sync(2) before it
fails: where recovery then succeeds, that is what was missing. And it runs with MAP_SYNC in all its shared writable
mappings, where it has stored through such: where recovery succeeds with that alone, MAP_SYNC was missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from emu.errors import UsageError
from emu.linux.protocol import Message, Role
from emu.persistence.lab.before import Before
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.linux import Drive, Talk, is_user, with_contents
from emu.persistence.lab.naming import MISSING_FSYNC, MISSING_MAP_SYNC, Lacking
from emu.persistence.lab.recorder import Recording
from emu.persistence.lab.recovery import MachineRecovery
from emu.persistence.lab.stacks import SYSCALL
from emu.persistence.lab.watchdog import Watchdog
from emu.persistence.lab.workload import Contents, Workload, drive
from emu.persistence.model.crashstate import Read
from emu.persistence.model.events import UNIT, Event, Fence, Flush, Store, split
from emu.units import PAGE

if TYPE_CHECKING:
    from emu.config import MachineConfig
    from emu.machine import Machine
    from emu.persistence.lab.explore import Run
    from emu.persistence.lab.linux import Again

_MOST_LOOKS = 8
_MOST_STORES = 4
_MMAP, _SYNC = 9, 162  # of Linux on x86-64
_WRITABLE, _TYPE_OF_MAPPING, _SHARED, _SHARED_VALIDATE, _WITH_SYNC = 2, 0xF, 1, 3, 0x80000
_PRIVILEGE = 3


class Unsynced:
    """Looks for such causes of one recorded ``workload``, with recoveries of at most ``budget`` basic blocks and runs
    of at most ``timeout`` seconds of real time each.
    """

    def __init__(
        self, workload: Workload, again: Again, budget: int, timeout: float, interruption: Interruption
    ) -> None:
        self._workload = workload
        self._again = again
        self._budget = budget
        self._timeout = timeout
        self.interruption = interruption
        self._known: dict[tuple[Read, ...], Lacking | None] = {}
        stores = (event for event in workload.events if isinstance(event, Store))
        self._units = frozenset(unit for event in stores for unit, _, _ in split(event.address, event.data))

    def __call__(self, crash: int, path: tuple[Read, ...]) -> Lacking | None:
        """What the program lacks where power fails before event ``crash`` and recovery, which reads ``path``, fails;
        None where a sync would not have helped, or nobody can tell.
        """
        if path not in self._known:
            self._known[path] = self._look(crash, path) if len(self._known) < _MOST_LOOKS else None
        return self._known[path]

    def _look(self, crash: int, path: tuple[Read, ...]) -> Lacking | None:
        run = self._recover(self._synced(crash))
        if run is None or not run.verdict.ok:
            return None
        own = [number for number in range(crash) if self._touched(number)]
        unseen = {unit for unit, _, _ in run.reads} - {unit for unit, _, _ in path}
        lost = tuple(number for number in own if not self._touched(number).isdisjoint(unseen))
        if own:
            mapped = self._recover(self._mapped_with_sync(crash))
            if mapped is not None and mapped.verdict.ok:
                return Lacking(MISSING_MAP_SYNC, lost)
        return Lacking(MISSING_FSYNC, lost or self._last_stores(unseen, crash))

    def _last_stores(self, units: Collection[int], crash: int) -> tuple[int, ...]:
        """The last store to each of ``units`` before event ``crash``, whoever made it: the data of a ``write`` is the
        kernel's store.
        """
        last: dict[int, int] = {}
        for number, event in enumerate(self._workload.events[:crash]):
            if isinstance(event, Store):
                last.update((unit, number) for unit, _, _ in split(event.address, event.data) if unit in units)
        return tuple(sorted(set(last.values())))[:_MOST_STORES]

    def _touched(self, number: int) -> frozenset[int]:
        """The units that the program itself stores to with event ``number``."""
        event = self._workload.events[number]
        if not isinstance(event, Store) or not is_user(event.pc):
            return frozenset()
        return frozenset(unit for unit, _, _ in split(event.address, event.data))

    def _recover(self, left: MachineConfig | None) -> Run | None:
        """What recovery makes of these NVDIMMs, and which of the units that the workload stored to it reads."""
        if left is None:
            return None
        linux = self._again.booted
        with (
            closing(Contents(left, self._workload.dimms)) as contents,
            closing(MachineRecovery(left, budget=self._budget, timeout=self._timeout, interruption=self.interruption,
                                    linux=linux)) as recovery,
        ):  # fmt: skip
            return recovery.run(self._units, lambda unit, mask: contents(unit) & mask)

    # The workload once more

    @contextmanager
    def _machine(self, role: Role = Role.WORKLOAD) -> Iterator[tuple[_Rerun, Talk]]:
        talk = Talk(lambda data: None, role)
        watchdog = Watchdog(self._timeout)
        run = partial(drive, self.interruption, watchdog)
        with closing(watchdog), self._again.machine(talk, run, role) as machine:
            recording = Recording(machine)
            recording.start()
            machine.cpu.invalidate(0, 1)
            try:
                yield _Rerun(machine, recording, self._workload, partial(run, machine)), talk
            finally:
                machine.cpu.close()
                recording.tracer.close()

    def _content(self, machine: Machine, name: str) -> MachineConfig:
        return with_contents(machine, Path(self._again.booted.ram).parent, name)

    def _synced(self, crash: int) -> MachineConfig | None:
        """The NVDIMMs as they are when the program calls sync before event ``crash``; None where it cannot."""
        if crash == len(self._workload.events):
            with self._machine(Role.EXEC) as (rerun, talk):
                if rerun.drive(talk.await_message(Message.ENDED, Role.EXEC)):
                    talk.play(Role.EXEC)
                    rerun.drive([])  # init unmounts the file systems
                return self._content(rerun.machine, "synced")
        with self._machine() as (rerun, _):
            if not (rerun.to_event(crash) and rerun.call(_SYNC)):
                return None
            return self._content(rerun.machine, "synced")

    def _mapped_with_sync(self, crash: int) -> MachineConfig | None:
        """The NVDIMMs as they are when the program has come as far with MAP_SYNC; None if it does not."""
        events = self._workload.events
        following = next((number for number in range(crash, len(events)) if _is_own(events[number])), None)
        with self._machine() as (rerun, _):
            rerun.at(rerun.system_calls, rerun.map_with_sync)
            if not (rerun.to_end() if following is None else rerun.to_own_event(following)):
                return None
            return self._content(rerun.machine, "mapped")


def _is_own(event: Event) -> bool:
    """Whether it is one of the program's own, by an instruction."""
    return isinstance(event, Store | Flush | Fence) and event.pc != 0 and is_user(event.pc)


class _Rerun:
    """A machine that stands where the command of ``workload`` begins, and is recorded as then."""

    def __init__(self, machine: Machine, recording: Recording, workload: Workload, run: Drive) -> None:
        self.machine = machine
        self._recording = recording
        self._workload = workload
        self._run = run
        self._befores: list[Before] = []

    @property
    def system_calls(self) -> list[int]:
        """Where programs may make a system call."""
        return [
            page + at
            for page, contents in self._workload.pages.items()
            for content in contents
            for at in range(PAGE - 1)
            if content[at : at + 2] == SYSCALL
        ]

    def at(self, places: Iterable[int], do: Callable[[], None]) -> Before:
        """Do something before each instruction at ``places``, until it is to be forgotten."""
        before = Before(self.machine.cpu, places, lambda _pc: do())
        self._befores.append(before)
        return before

    def drive(self, until: list[int]) -> bool:
        """Run until something is in ``until``; False if the run ended before."""
        return self._run(until) is None

    def _run_to(self, places: Sequence[int], come: Callable[[], bool]) -> bool:
        """Run to behind the first execution of one of ``places`` at which ``come``."""
        reached: list[int] = []

        def look() -> None:
            if not reached and come():
                reached.append(1)
                self.machine.cpu.request_stop()

        before = self.at(places, look)
        found = self.drive(reached)
        if found:
            before.forget()
        return found

    def to_end(self) -> bool:
        """Run to the end of the command."""
        ended = self._run([])
        return ended is not None and ended.reason == self._workload.ended.reason

    def to_event(self, number: int) -> bool:
        """Run to where event ``number`` is about to be made, and on to the next moment in which the program runs, not
        the kernel. What the program has stored since is put back.
        """
        pc, entry = self._workload.events[number].pc, self._workload.entries[number]
        tracer = self._recording.tracer
        # A flush or a fence may be in the log already.
        if not pc or not self._run_to([pc], lambda: tracer.count in (entry, entry + 1)):
            return False
        if not self._in_program:
            behind = [at + len(SYSCALL) for at in self.system_calls]
            if not self._run_to([*behind, *([pc] if is_user(pc) else [])], lambda: self._in_program):
                return False
        made = list(self._recording.events())
        if made[:number] != list(self._workload.events[:number]):
            return False  # it went another way
        self._put_back(made, number)
        return True

    def to_own_event(self, number: int) -> bool:
        """The same by the program's own events: the kernel's may be others than then."""
        events = self._workload.events
        own, pc = sum(map(_is_own, events[:number])), events[number].pc
        # So often it was there already: before that nobody need count.
        passed = sum(event.pc == pc for event in events[:number])

        def come() -> bool:
            nonlocal passed
            passed -= 1
            # A flush or a fence may be in the log already.
            return passed < 0 and sum(map(_is_own, self._recording.events())) in (own, own + 1)

        if not self._run_to([pc], come):
            return False
        made = list(self._recording.events())
        counts = accumulate(map(_is_own, made), initial=0)
        self._put_back(made, next((at for at, count in enumerate(counts) if count == own), len(made)))
        return True

    @property
    def _in_program(self) -> bool:
        return bool(self.machine.cpu.registers()["cs"] & _PRIVILEGE)

    def _put_back(self, made: Sequence[Event], number: int) -> None:
        """Take back what the program itself has stored from event ``number`` on."""
        gone = {
            unit
            for event in made[number:]
            if isinstance(event, Store) and is_user(event.pc)
            for unit, _, _ in split(event.address, event.data)
        }
        began = self._workload.began_with
        assert began is not None
        with closing(Contents(began, self._workload.dimms)) as contents:
            held = {unit: contents(unit) for unit in gone}
        for event in made[:number]:
            if isinstance(event, Store):
                for unit, mask, value in split(event.address, event.data):
                    if unit in gone:
                        held[unit] = held[unit] & ~mask | value
        for unit, value in held.items():
            self.machine.memory.write(unit, value.to_bytes(UNIT, "little"))

    def call(self, number: int) -> bool:
        """Let the program make a system call without arguments, and run until it is back from it."""
        cpu = self.machine.cpu
        for place in self.system_calls:
            try:
                if cpu.read_linear(place, len(SYSCALL)) != SYSCALL:
                    continue
            except UsageError:
                continue
            cpu.set_register("rip", place)
            cpu.set_register("rax", number)
            return self._run_to([place + len(SYSCALL)], lambda: self._in_program)
        return False

    def map_with_sync(self) -> None:
        """Before a system call: let a shared, writable mapping be made with MAP_SYNC."""
        registers = self.machine.cpu.registers()
        flags = registers["r10"]
        if registers["rax"] == _MMAP and registers["rdx"] & _WRITABLE and flags & _TYPE_OF_MAPPING == _SHARED:
            self.machine.cpu.set_register("r10", flags & ~_TYPE_OF_MAPPING | _SHARED_VALIDATE | _WITH_SYNC)
