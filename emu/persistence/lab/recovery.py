"""Recovery on a real machine, hundreds of times per second: the guest boots once, then runs again and again from there.

All that happens before the first access to an NVDIMM is the same in every run. So the machine is stopped at the basic
block of that access and each run starts from this moment: what was stored to memory, devices and CPU go back, the
translated code stays. The NVDIMM is a private mapping of its file, which never changes.

What can be read of it is put into memory before a run where it is certain, and the reads are noted in C. Only bytes
that can have several values are asked for when recovery reads them.

A recovery of Linux mounts file systems and starts a program before it comes to what the power failure left in doubt. So
it begins where an earlier one was that had read the same (``beginnings``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from emu import board
from emu.board.map import DSM
from emu.config import MachineConfig, RunOptions
from emu.cpu import StopKind, read_watch
from emu.cpu.engine import trace
from emu.cpu.known_ports import KnownPorts
from emu.cpu.snapshot import Snapshot
from emu.devices.uart16550 import Uart16550
from emu.errors import HostError
from emu.linux.protocol import Role
from emu.persistence.lab import first_access, recorder
from emu.persistence.lab.beginnings import DISTANCE, Beginnings, Moment, Place
from emu.persistence.lab.booted import Booted
from emu.persistence.lab.explained import MemoryCheck
from emu.persistence.lab.explore import Answer, Interrupted, Nondeterministic, Run, Settled, Verdict
from emu.persistence.lab.input import FramedInput, Input, Taken
from emu.persistence.lab.interruption import INTERRUPTED, Interruption
from emu.persistence.lab.linux import Talk
from emu.persistence.lab.places import Places
from emu.persistence.lab.private import private
from emu.persistence.lab.spinning import SpinWatch
from emu.persistence.lab.tree import Reads
from emu.persistence.lab.undo import Undo
from emu.persistence.lab.watchdog import Watchdog
from emu.persistence.model.events import UNIT, Event, is_told, label_address, units_of
from emu.units import PAGE

if TYPE_CHECKING:
    from emu.cpu.engine.trace import Tracer
    from emu.machine import Exit, Machine
    from emu.memory import Backend
    from emu.persistence.model.crashstate import Read

_OUTPUT_KEPT = 2000
_SHOWN_KEPT = 1 << 20
# Events of devices that a wait in HLT may last: seconds or minutes of recovery's time, a tenth of a second of ours.
_OPTIONS = RunOptions(no_reboot=True, patience=10_000)
# For each set of bytes of a unit, as bits, the bytes themselves.
_MASKS = [sum(0xFF << 8 * byte for byte in range(UNIT) if bits >> byte & 1) for bits in range(1 << UNIT)]
_BITS = {mask: bits for bits, mask in enumerate(_MASKS)}
_KNOWN = struct.Struct("=QQ")
_ENDED_BY_DEVICES = ("power-off", "exit-port", "panic")


def judge(ended: Exit, output: bytes) -> Verdict:
    """Recovery succeeded when it powered off or halted, or wrote 0 to an exit port."""
    ok = ended.status == 0 or (ended.reason == "exit-port" and ended.code == 0)
    text = output[-_OUTPUT_KEPT:].decode("utf-8", "replace")
    return Verdict(ok, ended.reason, int(ended.status), ended.code, ended.detail, text)


class Output:
    """Keeps the end of what a guest prints: at least so many bytes."""

    def __init__(self, kept: int = _OUTPUT_KEPT) -> None:
        self.data = bytearray()
        self._kept = kept

    def __call__(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > 2 * self._kept:
            del self.data[: -self._kept]


class MachineRecovery:
    """Runs the image of ``config`` as recovery. ``budget`` bounds a run, in basic blocks, ``timeout`` in seconds of
    real time, for those that wait rather than run; ``record`` keeps its trace. ``linux``: a run is what comes from
    that moment on, when file systems are about to be mounted; where the boot ended before, all recoveries do so.

    ``printed``: what recovery can read on its standard input (COM1; of Linux, that of the command), as far as the words
    of the model say that it is out. ``keep_shown``: ``shown`` is asked for.

    ``budget`` may be changed between runs; ``blocks`` is what the last one took. An ``interruption`` ends a run with
    ``Interrupted``. Close it: it holds a machine.
    """

    def __init__(
        self,
        config: MachineConfig,
        *,
        budget: int = 5_000_000,
        timeout: float = 60.0,
        record: bool = False,
        interruption: Interruption | None = None,
        linux: Booted | Exit | None = None,
        printed: list[bytes] | None = None,
        keep_shown: bool = False,
    ) -> None:
        self._shown = Output(_SHOWN_KEPT) if keep_shown else None
        self._input: Input | None = None
        if printed is not None:
            self._input = (Input if linux is None else FramedInput)(printed, self._ask_told)
        self._config = private(config)
        self._linux = linux
        self.budget = budget
        self.blocks = 0
        self._record = record
        self.interruption = interruption or Interruption()
        self._watchdog = Watchdog(timeout)
        self._output = Output()
        self._settled: Settled | None = None
        self._answer: Answer = lambda unit, mask: 0
        self._tracked: frozenset[int] | None = None
        self._machine: Machine | None = None
        self._first: Moment | None = None
        self._beginnings: Beginnings | None = None
        self._pause: list[int] | None = None
        self._undo: Undo | None = None
        self._places = Places(())
        self._check: MemoryCheck | None = None
        self._spins: SpinWatch | None = None
        self._ports: KnownPorts | None = None
        # By the run's last access to a port, why the CPU stopped then, and whether it would have taken an interrupt.
        self._verdicts: dict[tuple[int | None, StopKind, bool], Verdict] = {}
        self._labels_known: dict[int, int] = {}
        self._noted: frozenset[int] | None = None  # of these units' bytes reads are noted
        self._talk: Talk | None = None
        self._began: Moment | None = None
        self._always: Run | None = None

    @property
    def shown(self) -> bytes:
        """What the last run wrote to its standard output (COM1; of Linux, that of the command): a MiB at least."""
        assert self._shown is not None
        return bytes(self._shown.data)

    def _show(self, data: bytes) -> None:
        self._output(data)
        if self._shown is not None:
            self._shown(data)

    def close(self) -> None:
        self._watchdog.close()
        if self._machine is not None:
            if self._check is not None:
                self._check.close()
            # It may have been interrupted on its way to the first access.
            if self._beginnings is not None:
                self._beginnings.close()
            if self._first is not None:
                self._first.close()
            if self._undo is not None:
                self._undo.close()
            self._places = Places(())
            self._machine.close()
            self._recording.tracer.close()
            self._machine = None

    def run(
        self, tracked: frozenset[int], answer: Answer, settled: Settled | None = None, given: Sequence[Read] = ()
    ) -> Run:
        """One recovery from power-on. Bytes of ``tracked`` units come from ``answer`` when they are first read, those
        that are ``settled`` or ``given`` are in memory before.
        """
        if self._machine is None and self._always is None:
            self._boot()
        if self._always is not None:
            return self._always
        assert self._spins is not None
        assert self._first is not None
        tracer = self._recording.tracer
        self._settle(tracked, None if self._record else settled)
        self._answer = answer
        begin, start = self._first, None
        if self._beginnings is not None and settled is not None:
            place = self._beginnings.find(settled, answer)
            start, begin = self._beginnings.nearest(place)
            self._go_back(begin, given)
            if start is not place:
                self._pause_at(place, begin.reads)
        else:
            self._go_back(begin, given)
        verdict = self._verdict()
        if self._spins.proven:
            # What it went round for once more is no read of its own, and all was asked for again.
            self._tracked = None
            reads, positions = self._spins.reads
            return self._run_of(verdict, begin.reads + reads, positions)
        reads = tracer.reads()
        if start is not None and self._beginnings is not None:
            self._beginnings.add(start, reads, tracer.pauses(begin.block, DISTANCE))
        return self._run_of(verdict, begin.reads + reads, tracer.read_entries() if self._record else ())

    def _pause_at(self, place: Place, read: bytes) -> None:
        """Go on to ``place`` and keep that moment; ``read`` is what was read before the run began."""
        machine, tracer, reached = self._machine, self._recording.tracer, list[int]()
        assert machine is not None
        assert self._beginnings is not None
        self._pause = reached
        tracer.set_budget(place.block)
        try:
            self._drive(machine, self._recording, reached)
        finally:
            self._pause = None
        read += tracer.reads()
        if reached != [place.block] or read != place.reads():
            raise Nondeterministic(
                f"recovery came to basic block {place.block} with other reads than when it had read the same"
            )
        moment = self._moment(tracer.blocks - 1, read)
        self._beginnings.keep(place, moment)
        self._continue(moment)

    def _verdict(self) -> Verdict:
        """Let recovery run to its end. Its accesses to ports are known, mostly, and so is what came of them."""
        machine, ports, spins = self._machine, self._ports, self._spins
        assert machine is not None
        assert spins is not None
        if ports is None:
            ended = self._drive(machine, self._recording)
            assert ended is not None
            return self._judge(ended)
        with self.interruption.ends(machine), self._watchdog.watches(machine):
            stop = machine.run_quiet()
            self._raise_failure(self._recording.tracer)
            end = ports.last, stop.kind, stop.interrupts_enabled
            if machine.exit is None and not spins.wants_look and (known := self._verdicts.get(end)) is not None:
                return known
            ports.release()
            at_once = self._ended_by_device()
            if machine.exit is None:
                spins.look(self._tracked or ())
        ended = self._drive(machine, self._recording)
        assert ended is not None
        verdict = self._judge(ended)
        halted = stop.kind is StopKind.HALT and not stop.interrupts_enabled and ended.reason == "halt"
        if end[0] is not None and (at_once or halted):
            self._verdicts[end] = verdict
        return verdict

    def _ended_by_device(self) -> bool:
        """Whether what the guest did to a device has ended the run."""
        assert self._machine is not None
        return self._machine.exit is not None and self._machine.exit.reason in _ENDED_BY_DEVICES

    def _judge(self, ended: Exit) -> Verdict:
        assert self._spins is not None
        return replace(judge(ended, bytes(self._output.data)), spin=self._spins.spin)

    @staticmethod
    def _raise_failure(tracer: Tracer) -> None:
        failure = tracer.take_failure()
        if failure is not None:
            raise failure

    def _run_of(self, verdict: Verdict, data: bytes, positions: Sequence[int]) -> Run:
        """What came of it: ``data`` are its reads, ``positions`` the numbers of log entries before them."""
        self.blocks = self._recording.tracer.blocks - self._block
        reads = Reads(data)
        events = tuple(self._events(positions)) if self._record else ()
        if self._check is not None:
            self._check.verify((event for _, event in events), _contents(reads))
        return Run(reads, verdict, events)

    def _settle(self, tracked: frozenset[int], settled: Settled | None) -> None:
        """Let the settled content be in memory, and only the other tracked units be asked for. Reads of those that do
        not matter go unwatched.
        """
        tracer = self._recording.tracer
        noted = tracked if settled is None or settled.matters is None else settled.matters
        same = tracked is self._tracked or tracked == self._tracked
        if not same or (settled is None and self._settled is not None):
            self._tracked, self._settled, self._noted = tracked, None, None
            self._begin_anew(tracked)
        anew = noted is not self._noted and noted != self._noted
        if anew:
            tracer.set_unknown(noted)
            self._noted = noted
        if settled is not None and (anew or settled != self._settled):
            for unit, value in settled.since(self._settled):
                place = self._places.find(unit)
                if place is not None:
                    tracer.ask(unit, value is None)
                    if value is not None:
                        assert self._undo is not None
                        self._undo.change(*place, value)
            for unit in noted if anew and self._settled is not None else ():
                tracer.ask(unit, settled.content(unit) is None)
        self._settled = settled

    def _open(self) -> tuple[Machine, recorder.Recording]:
        machine = board.build(self._config, board.Outputs(serial=self._show), _OPTIONS)
        try:
            recording = recorder.Recording(machine)
            self._watch(machine, recording)
        except BaseException:
            machine.close()
            raise
        recording.on_label_read = recording.on_label_write = lambda *place: recording.tracer.note_access()
        if self._input is not None:
            _com1(machine).supply(partial(self._feed, recording.tracer))
        return machine, recording

    def _watch(self, machine: Machine, recording: recorder.Recording) -> None:
        """See what is read of the NVDIMM from now on; HostError where that is not possible."""
        if not read_watch.is_available():
            raise HostError(
                "this build of Unicorn does not let emu see what recovery reads",
                "install the release of unicorn that emu pins",
            )
        recording.tracer.watch_pages()
        if not self._record or recording.start():
            machine.cpu.count_blocks(recording.tracer.counter)

    def _drive(
        self, machine: Machine | None, recording: recorder.Recording, until: list[int] | None = None
    ) -> Exit | None:
        """Run the machine to its end, or until something is put in ``until``."""
        assert machine is not None
        with self.interruption.ends(machine), self._watchdog.watches(machine):
            while not until:
                ended = machine.step()
                if ended is None and self._spins is not None:
                    self._spins.look(self._tracked or ())
                self._raise_failure(recording.tracer)
                if ended is not None and ended.reason == INTERRUPTED:
                    raise Interrupted
                if ended is not None:
                    return ended
        return None

    def _boot(self) -> None:
        """Bring a machine to where all runs begin."""
        if not (self._at_first_access() if self._linux is None else self._after_boot(self._linux)):
            return
        machine, tracer = self._machine, self._recording.tracer
        assert machine is not None
        default = tracer.on_stop
        tracer.on_stop = lambda why: self._stop(why, default)
        tracer.on_unknown_read = self._unknown_read
        self._recording.on_label_read = self._read_labels
        self._recording.on_label_write = self._know_labels
        self._places = Places(machine.nvdimms)
        self._undo = Undo(machine)
        if self._record:
            self._check = MemoryCheck(machine, self._config, tracer, self._undo)
        self._spins = SpinWatch(machine, tracer, self._undo, self._taken)
        if machine.is_quiet and self._linux is None and self._input is None and self._shown is None:
            # What the NVDIMMs' _DSM answers is in memory. What is printed or typed in a run is asked of the devices.
            self._ports = KnownPorts(machine.cpu, DSM, self._ended_by_device)
            machine.be_quiet()
        self._first = self._moment(self._block)

    def _moment(self, block: int, reads: bytes = b"") -> Moment:
        """The machine as it stands, before basic block ``block``."""
        machine, undo, known = self._machine, self._undo, self._recording.tracer.known()
        unknown = dict(_KNOWN.iter_unpack(known))
        assert machine is not None
        assert undo is not None
        return Moment(
            Snapshot(machine.cpu),
            None if self._first is None else undo.save(self._unknown(unknown)),
            machine.rewinder({name: device.save() for name, device in machine.devices.items()}),
            known,
            unknown,
            block,
            reads,
            bytes(self._output.data),
            b"" if self._shown is None else self.shown,
            b"" if self._talk is None else self._talk.line,
            self._taken(),
        )

    def _begin_anew(self, tracked: frozenset[int]) -> None:
        """Forget where runs were that were watched for other units. None begin there unless all depends on reads."""
        if self._linux is None or self._record:
            return
        if self._beginnings is not None and self._beginnings.tracked != tracked:
            self._beginnings.close()
            self._beginnings = None
        if self._beginnings is None and all(unit < label_address(0, 0) or is_told(unit) for unit in tracked):
            assert self._first is not None
            self._beginnings = Beginnings(self._first, tracked)

    def _unknown(self, unknown: Mapping[int, int]) -> Iterator[tuple[Backend, int, int]]:
        """The tracked bytes that a run has neither read nor stored to: backend, offset and mask of each unit's."""
        for unit in self._tracked or ():
            place, mask = self._places.find(unit), _MASKS[unknown.get(unit, 0xFF)]
            if place is not None and mask:
                yield *place, mask

    def _at_first_access(self) -> bool:
        """Find the block of the first access on one machine, stop another one there; False if there is no access."""
        block, ended = self._first_access()
        if not block:  # else it ended in the very block of its first access
            assert ended is not None
            self._always = Run((), judge(ended, bytes(self._output.data)))
            return False
        self._output.data.clear()
        if self._shown is not None:
            self._shown.data.clear()
        self._machine, self._recording = self._open()
        tracer = self._recording.tracer
        first_access.stand_before(self._machine, tracer, partial(self._drive, self._machine, self._recording), block)
        self._block = tracer.blocks - 1
        return True

    def _after_boot(self, booted: Booted | Exit) -> bool:
        """Stand where init asks what to do; False if the boot did not come there."""
        if not isinstance(booted, Booted):
            self._always = Run((), judge(booted, b""))
            return False
        talk = self._talk = Talk(self._output, Role.RECOVERY)
        machine = self._machine = talk.machine = booted.machine(
            self._config, talk.outputs._replace(debugcon=self._show), _OPTIONS
        )
        self._recording = recorder.Recording(machine)
        self._watch(machine, self._recording)
        if self._input is not None:
            talk.input_wanted = partial(self._send, _com1(machine))
        self._block = 0
        return True

    def _first_access(self) -> tuple[int, Exit | None]:
        machine, recording = self._open()
        try:
            return first_access.find(machine, recording.tracer, partial(self._drive, machine, recording), self.budget)
        finally:
            machine.close()
            recording.tracer.close()

    def _go_back(self, moment: Moment, given: Sequence[Read]) -> None:
        """Begin a run at ``moment``, with what is ``given`` in memory."""
        machine, tracer = self._machine, self._recording.tracer
        assert machine is not None
        assert self._undo is not None
        self._undo.undo(moment.memory)
        self._forget_code(moment)
        if self._ports is None or self._ports.devices_know:
            moment.devices()
            machine.be_quiet()
            self._output.data[:] = moment.printed
            if self._shown is not None:
                self._shown.data[:] = moment.shown
            if self._talk is not None:
                self._talk.line = moment.line
        moment.cpu.rewind()
        if self._ports is not None:
            self._ports.begin()
        tracer.restore_unknown()
        tracer.know(moment.known)
        self._recording.clear()
        self._continue(moment)
        for unit, mask, value in given:
            unknown = _BITS[mask] & moment.unknown.get(unit, 0xFF)
            if unknown:
                self._places.put(unit, _MASKS[unknown], value & _MASKS[unknown])
                tracer.give(unit, unknown)

    def _continue(self, moment: Moment) -> None:
        """The machine stands at ``moment``; what it has read and executed so far counts."""
        assert self._spins is not None
        self._recording.tracer.blocks = moment.block
        self._spins.start(self.budget - (moment.block - self._block))
        self._labels_known.clear()
        if self._input is not None:
            self._input.taken = moment.taken

    def _forget_code(self, moment: Moment) -> None:
        """What was translated from pages that are put back is of another run: a kernel changes code, loads programs.
        What was translated from an NVDIMM may be of other content than the next run's.
        """
        machine, undo = self._machine, self._undo
        assert machine is not None
        assert undo is not None
        changed, began = machine.cpu.take_code_change(), self._began
        self._began = moment
        if began is moment and not changed:
            return
        if self._recording.tracer.executes:
            machine.cpu.invalidate(0, 1)
        for backend in machine.backends:
            for first, count in undo.stored(backend):
                machine.cpu.restored(backend.mapping.address + first * PAGE, count * PAGE)

    def _stop(self, why: int, default: recorder.OnStop) -> None:
        if why == trace.BUDGET and self._pause is not None:
            assert self._machine is not None
            self._pause.append(self._recording.tracer.blocks)
            self._machine.cpu.stop_before_block()
        elif why != trace.BUDGET or self._spins is None or not self._spins.before_block():
            default(why)

    def _unknown_read(self, unit: int, bytes_of_unit: int) -> None:
        assert self._spins is not None
        if self._spins.proven:
            self._spins.note_read(unit, bytes_of_unit)
        else:
            mask = _MASKS[bytes_of_unit]
            self._places.put(unit, mask, self._answer(unit, mask))

    def _read_labels(self, dimm: int, offset: int, length: int) -> None:
        for unit, mask in units_of(label_address(dimm, offset), length):
            unknown = mask & ~self._labels_known.get(unit, 0)
            if unknown and self._tracked is not None and unit in self._tracked:
                value = self._answer(unit, unknown)
                self._places.put(unit, unknown, value)
                self._recording.tracer.note_read(unit, unknown, value)
        self._know_labels(dimm, offset, length)

    def _feed(self, tracer: Tracer) -> bytes:
        """The guest looks for input. Before the first access that is what stops it there."""
        assert self._input is not None
        if self._first is None:
            tracer.note_access()
            return b""
        return self._input.read()

    def _send(self, uart: Uart16550) -> None:
        """Init of a Linux machine asks for the next frame of its command's input."""
        assert self._input is not None
        uart.receive(self._input.read())

    def _taken(self) -> Taken:
        """How much of its input the guest has read."""
        return Taken() if self._input is None else self._input.taken

    def _ask_told(self, unit: int, mask: int) -> int:
        if self._tracked is None or unit not in self._tracked:
            return 0
        value = self._answer(unit, mask)
        self._recording.tracer.note_read(unit, mask, value)
        return value

    def _know_labels(self, dimm: int, offset: int, length: int) -> None:
        for unit, mask in units_of(label_address(dimm, offset), length):
            self._labels_known[unit] = self._labels_known.get(unit, 0) | mask

    def _events(self, positions: Sequence[int]) -> Iterable[tuple[int, Event]]:
        """The run's events, each with the number of reads before it. ``positions``: log entries before each read."""
        reads = 0
        for entry, event in self._recording.numbered_events():
            while reads < len(positions) and positions[reads] <= entry:
                reads += 1
            yield reads, event


def _com1(machine: Machine) -> Uart16550:
    uart = machine.devices["com1"]
    assert isinstance(uart, Uart16550), "the board puts it there"
    return uart


def _contents(reads: Iterable[Read]) -> dict[int, tuple[int, int]]:
    """What reads tell of each unit of memory: ``(mask, value)``."""
    contents: dict[int, tuple[int, int]] = {}
    for unit, mask, value in reads:
        if is_told(unit):
            continue
        before = contents.get(unit, (0, 0))
        contents[unit] = before[0] | mask, before[1] | value
    return contents
