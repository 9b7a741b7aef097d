"""The stack at chosen events of a run, by running the workload again: recording it pays nothing for that.

The run is deterministic, so the same instruction makes the same event. It is watched at the instructions in question
only, and what the unwinder needs is kept when the log has as many entries as it had before the event.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from emu import board
from emu.config import MachineConfig, RunOptions
from emu.devices.contract import ExitRequest
from emu.errors import Status, UsageError
from emu.linux.protocol import Role
from emu.persistence.lab.before import Before
from emu.persistence.lab.interruption import Interruption
from emu.persistence.lab.linux import Talk, is_user
from emu.persistence.lab.private import private
from emu.persistence.lab.recorder import Recording
from emu.persistence.lab.watchdog import Watchdog
from emu.persistence.lab.workload import Workload, drive
from emu.persistence.model.events import Told
from emu.units import KIB, PAGE

if TYPE_CHECKING:
    from emu.machine import Machine

_KEPT = 16 * 1024
# Entries of the log that an instruction can make before the one that its event begins with: marks in page tables.
_BEFORE = 8
_SEEN = "stacks-seen"
_WORD = struct.Struct("<Q")
# Linux on x86-64: the size of a thread's kernel stack (THREAD_SIZE, asm/page_64_types.h), and what the way into the
# kernel keeps at its end (struct pt_regs, asm/ptrace.h).
_KERNEL_STACK = 16 * KIB
_NAMES_OF_KEPT = ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
                  "entered as", "rip", "cs", "rflags", "rsp", "ss")  # fmt: skip
_KEPT_REGISTERS = struct.Struct(f"<{len(_NAMES_OF_KEPT)}Q")
_PRIVILEGE = 3
SYSCALL = b"\x0f\x05"
"""The instruction."""


class Capture(NamedTuple):
    """The CPU before an instruction at ``pc``: its general ``registers`` by name, and the ``stack`` from RSP up. Of a
    Linux program also the ``pages`` of code that the stack may lead to, by address: where its files lie, nobody says.
    For what the kernel did on behalf of a program it is the program that is shown, where it entered the kernel.
    """

    pc: int
    registers: dict[str, int]
    stack: bytes
    pages: dict[int, bytes] | None = None


class _Wanted(NamedTuple):
    """Event ``number``, which begins with entry ``entry`` of the log; ``told``: the event is no entry of it."""

    number: int
    entry: int
    told: bool


class _Seen(NamedTuple):
    away: int
    found: Capture


def capture(
    config: MachineConfig,
    workload: Workload,
    numbers: Iterable[int],
    *,
    timeout: float,
    interruption: Interruption,
) -> dict[int, Capture]:
    """What was so before the events of these numbers, in a run of ``config`` like that of ``workload``; an event whose
    instruction is not known, or that the run does not come to in ``timeout`` seconds, is left out.
    """
    wanted: dict[int, list[_Wanted]] = {}
    for number in sorted(set(numbers)):
        pc = workload.events[number].pc
        if pc:
            wanted.setdefault(pc, []).append(
                _Wanted(number, workload.entries[number], isinstance(workload.events[number], Told))
            )
    if not wanted:
        return {}
    with closing(Watchdog(timeout)) as watchdog, _machine(config, workload, interruption, watchdog) as machine:
        recording = Recording(machine, log_limit=max(one.entry for group in wanted.values() for one in group) + _KEPT)
        watch = _Watch(machine, recording, wanted, workload.pages)
        try:
            recording.start()
            watch.start()
            with interruption.ends(machine):
                machine.run(timeout)
            made = dict(recording.numbered_events())
            return {
                one.number: watch.seen[one.number].found
                for pc, group in wanted.items()
                for one in group
                # A run that went another way tells nothing. What was printed is no event of the log.
                if one.number in watch.seen and (one.entry not in made or made[one.entry].pc == pc or one.told)
            }
        finally:
            machine.cpu.close()
            recording.tracer.close()


def _machine(config: MachineConfig, workload: Workload, interruption: Interruption, watchdog: Watchdog) -> Machine:
    """A machine that stands where the recording of ``workload`` began."""
    if workload.again is not None:
        return workload.again.machine(Talk(_nowhere, Role.WORKLOAD), partial(drive, interruption, watchdog))
    return board.build(private(config), board.Outputs(), RunOptions(no_reboot=True))


def _nowhere(_data: bytes) -> None:
    """What the workload prints has been printed."""


class _Watch:
    """Keeps what is ``wanted`` of one machine: by number of the event, how near it was and the capture. ``pages`` are
    where programs' code was.
    """

    def __init__(
        self,
        machine: Machine,
        recording: Recording,
        wanted: dict[int, list[_Wanted]],
        pages: Container[int],
    ) -> None:
        self._machine = machine
        self._recording = recording
        self._wanted = wanted
        self._pages = pages
        self._last = max(one.entry for group in wanted.values() for one in group)
        self.seen: dict[int, _Seen] = {}

    def start(self) -> None:
        self._before = Before(self._machine.cpu, self._wanted, self._reached)

    def _reached(self, pc: int) -> None:
        count = self._recording.tracer.count
        for one in self._wanted.get(pc, ()):
            # A flush or a fence may be in the log already.
            away = one.entry - count if count <= one.entry else _BEFORE
            if 0 <= away < _BEFORE or count == one.entry + 1:
                known = self.seen.get(one.number)
                if known is None or away <= known.away:
                    self.seen[one.number] = _Seen(away, self._look(pc))
        if count > self._last + 1:
            self._machine.end(ExitRequest(_SEEN, Status.OK))

    def _look(self, pc: int) -> Capture:
        cpu = self._machine.cpu
        registers = cpu.registers()
        if not is_user(pc) and (program := self._program_behind(registers["rsp"])) is not None:
            registers, pc = program, program["rip"]
        stack, at = b"", registers["rsp"]
        while len(stack) < _KEPT:
            try:
                stack += cpu.read_linear(at + len(stack), PAGE - (at + len(stack)) % PAGE)
            except UsageError:
                break
        pages = self._pages_of_code(pc, stack) if is_user(pc) and self._pages else None
        return Capture(pc, registers, stack, pages)

    def _program_behind(self, kernel_stack: int) -> dict[str, int] | None:
        """The registers of the program that entered the kernel, which it has kept at the end of that stack; RIP at the
        system call. None where no program did, or it is not known.
        """
        cpu, end = self._machine.cpu, (kernel_stack | _KERNEL_STACK - 1) + 1
        try:
            kept = _KEPT_REGISTERS.unpack(cpu.read_linear(end - _KEPT_REGISTERS.size, _KEPT_REGISTERS.size))
            registers = dict(zip(_NAMES_OF_KEPT, kept, strict=True))
            at = registers["rip"]
            if at & -PAGE not in self._pages or registers["cs"] & _PRIVILEGE != _PRIVILEGE:
                return None
            if cpu.read_linear(at - len(SYSCALL), len(SYSCALL)) == SYSCALL:
                registers["rip"] -= len(SYSCALL)
        except UsageError:
            return None
        return registers

    def _pages_of_code(self, pc: int, stack: bytes) -> dict[int, bytes]:
        words = (word for (word,) in _WORD.iter_unpack(stack[: len(stack) // _WORD.size * _WORD.size]))
        found = {}
        # An address behind a call may be the first one of the next page.
        for page in dict.fromkeys(at & -PAGE for word in (pc, *words) for at in (word, word - 1)):
            if page in self._pages:
                with suppress(UsageError):  # of another program, at that address
                    found[page] = self._machine.cpu.read_linear(page, PAGE)
        return found
