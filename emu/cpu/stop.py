"""Why the CPU stopped."""

from __future__ import annotations

from emu.cpu.registers import VECTOR_NAMES
from emu.enumeration import StrEnum
from emu.record import NamedTuple


class StopKind(StrEnum):
    """What ended ``Cpu.run``."""

    HALT = "halt"
    """HLT; only an interrupt goes on from here. See ``Stop.interrupts_enabled``."""
    REQUESTED = "requested"
    """``request_stop`` was called."""
    TIMER = "timer"
    """The deadline has come."""
    INTERRUPT_WINDOW = "interrupt-window"
    """An interrupt is pending and the guest takes interrupts now: call ``raise_interrupt``."""
    BREAKPOINT = "breakpoint"
    """The next instruction is one that ``Debugging`` stops before."""
    STEP = "step"
    """As many instructions have begun as ``Debugging`` was to let begin."""
    WATCH = "watch"
    """The last instruction, or the delivery of an exception, accessed what ``Debugging`` watches."""
    TRIPLE_FAULT = "triple-fault"
    """An exception could not be delivered, nor the double fault after it. A PC resets here."""
    BAD_STATE = "bad-state"
    """The guest cannot go on: it executes where there is no memory, or what Unicorn cannot execute."""


class ExceptionRecord(NamedTuple):
    """An exception as the CPU raised it. ``cr2`` is the faulting address for a page fault, else None."""

    vector: int
    rip: int
    error_code: int | None = None
    cr2: int | None = None

    def __str__(self) -> str:
        text = f"{VECTOR_NAMES.get(self.vector, f'exception {self.vector}')} at RIP {self.rip:#x}"
        if self.error_code is not None:
            text += f", error code {self.error_code:#x}"
        if self.cr2 is not None:
            text += f", address {self.cr2:#x}"
        return text


DEBUG_STOPS = (StopKind.BREAKPOINT, StopKind.STEP, StopKind.WATCH)


class Stop(NamedTuple):
    """``exception`` is what led to a triple fault; ``detail`` says in words what happened, for messages.

    ``watched`` is the linear address that led to WATCH.
    """

    kind: StopKind
    rip: int
    interrupts_enabled: bool = False
    exception: ExceptionRecord | None = None
    detail: str = ""
    watched: int = 0
