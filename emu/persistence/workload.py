"""Runs the workload once, on a private copy of its NVDIMMs, and keeps all that the laboratory needs of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from emu import board
from emu.config import MachineConfig
from emu.cpu.sites import describe_instruction
from emu.errors import UsageError
from emu.machine import Exit, Machine
from emu.memory import Backend, open_backend
from emu.persistence import recorder
from emu.persistence.events import Event
from emu.persistence.recovery import Output, private

_INSTRUCTIONS_KEPT = 10_000
_X86_LONGEST = 15


@dataclass(frozen=True, slots=True)
class Dimm:
    """One NVDIMM of the machine: ``size`` bytes at guest-physical ``gpa``, without its label area."""

    id: str
    file: str | None
    gpa: int
    size: int


@dataclass(frozen=True, slots=True)
class Workload:
    """What the guest did. ``cut_short`` says why the trace is not the whole run; empty when it is."""

    events: tuple[Event, ...]
    ended: Exit
    output: str
    dimms: tuple[Dimm, ...]
    cut_short: str = ""
    instructions: dict[int, str] = field(default_factory=dict)


def record(
    config: MachineConfig, *, timeout: float | None = None, event_limit: int = 1 << 20, upto: int | None = None
) -> Workload:
    """Boot ``config`` and record it to its end, for at most ``timeout`` seconds and ``event_limit`` log entries.

    ``upto`` ends the recording after that many log entries on purpose. The files of ``config`` are not changed.
    """
    output = Output()
    with board.build(private(config), board.Outputs(serial=output)) as machine:
        tracer = recorder.open_tracer(machine, log_limit=event_limit if upto is None else upto)
        try:
            tracer.record(recorder.spans(machine))
            ended = machine.run(timeout)
            failure = tracer.take_failure()
            if failure is not None:
                raise failure
            events = tuple(recorder.events(tracer.entries()))
            cut_short = ended.detail if ended.reason in ("timeout", recorder.TRACE_FULL) and upto is None else ""
            return Workload(
                events,
                ended,
                output.data.decode("utf-8", "replace"),
                tuple(
                    Dimm(item["id"] or f"nvdimm{item['slot']}", item["file"], item["gpa"], dimm.device.size)
                    for dimm in machine.nvdimms
                    for item in (dimm.describe(),)
                ),
                cut_short,
                _instructions(machine, events),
            )
        finally:
            machine.cpu.close()
            tracer.close()


def _instructions(machine: Machine, events: tuple[Event, ...]) -> dict[int, str]:
    """The text of each instruction in the trace, as far as its code can still be read."""
    found: dict[int, str] = {}
    for pc in dict.fromkeys(event.pc for event in events):
        if len(found) == _INSTRUCTIONS_KEPT:
            break
        for length in (_X86_LONGEST, 1):
            try:
                code = machine.cpu.read_linear(pc, length)
            except UsageError:
                continue
            found[pc] = describe_instruction(code, pc, machine.cpu.mode)
            break
    return found


class Contents:
    """What the NVDIMMs of ``config`` hold before anything runs, by guest-physical address. Close it."""

    def __init__(self, config: MachineConfig, dimms: tuple[Dimm, ...]) -> None:
        self._backends: list[Backend] = []
        try:
            for dimm in private(config).nvdimms:
                self._backends.append(open_backend(dimm.backend))
        except BaseException:
            self.close()
            raise
        self._spans = [
            (dimm.gpa, dimm.gpa + dimm.size, backend.mapping.view)
            for dimm, backend in zip(dimms, self._backends, strict=True)
        ]

    def __call__(self, unit: int) -> int:
        for gpa, end, view in self._spans:
            if gpa <= unit < end:
                return int.from_bytes(view[unit - gpa : unit - gpa + 8], "little")
        return 0

    def view(self, number: int) -> memoryview:
        """All of NVDIMM ``number``, label area included."""
        return self._backends[number].mapping.view

    def close(self) -> None:
        self._spans = []
        for backend in self._backends:
            backend.close()
