"""Runs the workload once, on a private copy of its NVDIMMs, and keeps all that the laboratory needs of it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from emu import board
from emu.config import MachineConfig, RunOptions
from emu.cpu.engine import trace
from emu.devices.contract import ExitRequest
from emu.errors import Status
from emu.linux.protocol import Role
from emu.machine import Exit, Machine
from emu.memory import Backend, open_backend
from emu.persistence.lab import recorder
from emu.persistence.lab.booted import Booted
from emu.persistence.lab.code import instruction_at
from emu.persistence.lab.explained import MemoryCheck
from emu.persistence.lab.interruption import INTERRUPTED, Interruption
from emu.persistence.lab.linux import Again, Begun, CodePages, Scene, Talk, begin, is_user
from emu.persistence.lab.private import private
from emu.persistence.lab.recorder import Recording
from emu.persistence.lab.recovery import Output
from emu.persistence.lab.watchdog import Watchdog
from emu.persistence.model.events import Event, label_address
from emu.persistence.model.operations import Mark, Print
from emu.units import MIB

POWER_FAILURE = "power-failure"
"""Reason of the ``Exit`` of a run that was stopped by a power failure."""

_INSTRUCTIONS_KEPT = 10_000
_LOOKED_AT = 64 * MIB


@dataclass(frozen=True, slots=True)
class Dimm:
    """One NVDIMM of the machine: ``size`` bytes at guest-physical ``gpa``, and ``label_size`` bytes of label area at
    the end of its backend.
    """

    id: str
    file: str | None
    gpa: int
    size: int
    label_size: int = 0

    def parts(self, number: int, backend_size: int) -> tuple[tuple[int, int, int], ...]:
        """Address in the model, offset in the backend and size of its memory and of its label area, if it has one.

        ``number`` is its place among the machine's NVDIMMs, from 0.
        """
        memory = self.gpa, 0, self.size
        labels = label_address(number, 0), backend_size - self.label_size, self.label_size
        return (memory, labels) if self.label_size else (memory,)


@dataclass(frozen=True, slots=True)
class Workload:
    """What the guest did. ``cut_short`` says why the trace is not the whole run; empty when it is. ``doubts`` are what
    it did that the trace cannot show. ``pc`` is where the CPU stood at the end. ``said`` is what it printed (to its
    standard output, of a Linux program) and what it said about its operations. ``entries`` are
    the numbers of log entries before each event. Of a Linux program, ``pages`` are the contents of the pages of code
    that were executed, by address, ``began_with`` has files with what the NVDIMMs held when its command began,
    ``booted`` is the moment before the mount, or how the run ended that did not come to it, ``again`` runs it again.
    """

    events: Sequence[Event]
    ended: Exit
    output: str
    dimms: tuple[Dimm, ...]
    cut_short: str = ""
    instructions: dict[int, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    pc: int = 0
    said: tuple[Mark | Print, ...] = ()
    entries: Sequence[int] = ()
    pages: Mapping[int, frozenset[bytes]] = field(default_factory=dict)
    began_with: MachineConfig | None = None
    booted: Booted | Exit | None = None
    again: Again | None = None

    @property
    def marks(self) -> list[Mark]:
        """What it said about its operations."""
        return [one for one in self.said if isinstance(one, Mark)]

    def label(self, address: int) -> tuple[Dimm, int] | None:
        """The NVDIMM and the offset in its label area that ``address`` of the model means; None if it means none."""
        for number, dimm in enumerate(self.dimms):
            if 0 <= (offset := address - label_address(number, 0)) < dimm.label_size:
                return dimm, offset
        return None


def record(
    config: MachineConfig,
    *,
    timeout: float | None = None,
    event_limit: int = 1 << 18,
    upto: int | None = None,
    outputs: board.Outputs | None = None,
    interruption: Interruption | None = None,
    scene: Scene | None = None,
    by_hooks: bool = False,
    hear_prints: bool = False,
) -> Workload:
    """Boot ``config`` and record it to its end, for at most ``timeout`` seconds and ``event_limit`` log entries. With a
    ``scene`` only its command is recorded, not the kernel's boot, the setup and the mount.

    With ``upto`` power fails just before that event: the run ends there with the reason ``POWER_FAILURE``, and the
    trace has exactly ``upto`` events. The files of ``config`` are not changed. For ``by_hooks`` see ``Recording``.
    ``hear_prints``: what it prints is in ``said``, too.

    UnexplainedMemory when the guest's NVDIMMs do not hold what the trace says.
    """
    output, own = Output(), private(config)
    recording: Recording | None = None

    def on_mark(kind: str, operation: int) -> None:
        assert recording is not None
        recording.marked(kind, operation)

    def on_print(data: bytes) -> None:
        output(data)
        if hear_prints and recording is not None:  # not so yet in the setup
            recording.printed(data)

    interruption = interruption or Interruption()
    talk = None if scene is None else Talk(output, Role.WORKLOAD)
    if outputs is None:
        own_outputs = board.Outputs(serial=on_print, on_mark=on_mark)
        outputs = own_outputs if talk is None else talk.outputs._replace(debugcon=on_print)
    with board.build(own, outputs, RunOptions(no_reboot=True)) as machine:
        pages, ended = CodePages(), None
        begun: Begun | None = None
        if scene is not None and talk is not None:
            with closing(Watchdog(math.inf if timeout is None else timeout)) as watchdog:
                begun = begin(machine, scene, talk, partial(drive, interruption, watchdog, machine))
            own, ended = begun.config, begun.ended
        recording = Recording(machine, log_limit=event_limit if upto is None else upto)
        tracer, check = recording.tracer, None
        try:
            check = MemoryCheck(machine, own, tracer)
            if upto is not None:
                _fail_before(machine, recording, upto, event_limit)
            recording.start(by_hooks=by_hooks)
            if scene is not None:
                _keep_code(machine, recording, pages)
            if ended is None:
                with interruption.ends(machine):
                    ended = machine.run(timeout)
            failure = tracer.take_failure()
            if failure is not None:
                raise failure
            # What the guest did until it had stopped is in the log too, or the log would not explain the memory.
            events, entries = recording.columns()
            check.verify(events)
            said = recording.said(entries)
            if upto is None:
                events = events[: bisect_left(entries, event_limit)]
            if upto is not None and len(events) >= upto:
                request = _power_failure(upto)
                events, ended = events[:upto], Exit(request.reason, request.status, None, request.detail)
            printed_at = (one.pc for one in said if isinstance(one, Print))
            places = [machine.cpu.registers()["rip"], *(event.pc for event in events), *printed_at]
            return Workload(
                events,
                ended,
                output.data.decode("utf-8", "replace"),
                tuple(
                    Dimm(
                        item["id"] or f"nvdimm{item['slot']}",
                        item["file"],
                        item["gpa"],
                        dimm.device.size,
                        dimm.device.label_size,
                    )
                    for dimm in machine.nvdimms
                    for item in (dimm.describe(),)
                ),
                ended.detail if ended.reason in ("timeout", recorder.TRACE_FULL, INTERRUPTED) else "",
                _instructions(machine, pages, places),
                tuple(recording.doubts()),
                machine.cpu.registers()["rip"],
                tuple(one for one in said if one.event <= len(events)),
                entries[: len(events)],
                {page: frozenset(contents) for page, contents in pages.pages.items()},
                None if begun is None else begun.config,
                None if begun is None else begun.booted,
                None if begun is None else begun.again,
            )
        finally:
            if check is not None:
                check.close()
            machine.cpu.close()
            tracer.close()


def drive(interruption: Interruption, watchdog: Watchdog, machine: Machine, until: list[int]) -> Exit | None:
    """Run the machine to its end, or until something is in ``until``."""
    with interruption.ends(machine), watchdog.watches(machine):
        while not until:
            ended = machine.step()
            if ended is not None:
                return ended
    return None


def _keep_code(machine: Machine, recording: Recording, pages: CodePages) -> None:
    """Keep the code of programs, whose memory is gone when they have ended. The machine has run unrecorded before."""
    look = recording.tracer.on_new_block

    def look_and_keep(address: int, size: int) -> None:
        pages.see(address, size, machine.cpu.read_linear)
        look(address, size)

    recording.tracer.on_new_block = look_and_keep
    recording.tracer.see_pages(lambda pc: pages.see(pc, 1, machine.cpu.read_linear))
    machine.cpu.invalidate(0, 1)


def _fail_before(machine: Machine, recording: Recording, event: int, most: int) -> None:
    """End the run when more than ``event`` events are in the log; a store in many pieces needs room for all of them."""
    tracer = recording.tracer
    default = tracer.on_stop
    seen, step = -1, 1

    def stop(why: int) -> None:
        nonlocal seen, step
        if why != trace.FULL or tracer.log_limit >= most:
            default(why)
            return
        made = sum(1 for _ in recording.events())
        if made > event:
            machine.end(_power_failure(event))
            return
        step = 2 * step if made == seen else event + 1 - made
        seen = made
        tracer.log_limit = min(tracer.log_limit + step, most)

    tracer.on_stop = stop


def _power_failure(event: int) -> ExitRequest:
    return ExitRequest(POWER_FAILURE, Status.OK, None, f"power failed before event {event}")


def _instructions(machine: Machine, pages: CodePages, addresses: Iterable[int]) -> dict[int, str]:
    """The text of the instruction at each address, as far as its code can still be read."""
    found: dict[int, str] = {}
    for pc in dict.fromkeys(addresses):
        if len(found) == _INSTRUCTIONS_KEPT:
            break
        text = pages.instruction(pc) if is_user(pc) and pages.pages else instruction_at(machine.cpu, pc)
        if text:
            found[pc] = text
    return found


class Contents:
    """What the NVDIMMs of ``config`` hold before anything runs, by the model's addresses. Close it.

    A closed one answers nothing: ValueError.
    """

    def __init__(self, config: MachineConfig, dimms: tuple[Dimm, ...]) -> None:
        self._backends: list[Backend] = []
        self._closed = False
        self._spans: list[tuple[int, int, memoryview]] = []
        try:
            for dimm in private(config).nvdimms:
                self._backends.append(open_backend(dimm.backend))
        except BaseException:
            self.close()
            raise
        self._spans = [
            (start, start + size, backend.mapping.view[offset : offset + size])
            for number, (dimm, backend) in enumerate(zip(dimms, self._backends, strict=True))
            for start, offset, size in dimm.parts(number, backend.mapping.size)
        ]

    def __call__(self, unit: int) -> int:
        for gpa, end, view in self._spans:
            if gpa <= unit < end:
                return int.from_bytes(view[unit - gpa : unit - gpa + 8], "little")
        if self._closed:
            raise ValueError("the contents of the NVDIMMs are closed")
        return 0

    @property
    def blank(self) -> bool:
        """Whether all NVDIMMs begin with nothing but zeros (64 MiB: a guest looks for its data near the start)."""
        zeros = bytes(_LOOKED_AT)
        return all(view[:_LOOKED_AT] == zeros[: len(view)] for _, _, view in self._spans)

    def view(self, number: int) -> memoryview:
        """All of NVDIMM ``number``, label area included."""
        return self._backends[number].mapping.view

    def close(self) -> None:
        self._closed = True
        for *_, view in self._spans:
            view.release()
        self._spans.clear()
        for backend in self._backends:
            backend.close()
