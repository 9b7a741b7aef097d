"""``emu.Machine``: a machine in a script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar

from emu import board
from emu.api.capture import Capture
from emu.api.description import Nvdimm, Path, Size, check_seconds, configuration
from emu.api.parts import Dimm, Table
from emu.api.show import card, table, verbatim
from emu.api.threads import in_thread
from emu.config import RunOptions
from emu.devices.contract import ExitRequest, Sink
from emu.errors import StateError, Status, UsageError
from emu.machine import Exit
from emu.machine import Machine as Engine
from emu.memory import incomplete
from emu.memory.address_space import GuestMemoryError
from emu.state import SavedState
from emu.units import human_size

if TYPE_CHECKING:
    from emu.migration.controller import MigrationControl

T = TypeVar("T")
# Ends after which the guest stands between two basic blocks, with nothing lost.
_GOES_ON = frozenset({"timeout", "interrupted", "quit"})
_CHUNK = 64 << 10
_ENDS_WITHIN_S = 0.01


@dataclass(frozen=True, slots=True)
class MachineState:
    """A machine at one moment, of use to ``Machine.restore`` only: CPU, devices, and the bytes of RAM and NVDIMMs."""

    components: Mapping[str, SavedState]
    memory: tuple[_Memory, ...]
    ended: Exit | None

    def __repr__(self) -> str:
        kept = sum(len(chunk) for memory in self.memory for chunk in memory.chunks.values())
        return f"<emu state: {len(self.components)} components, {human_size(kept)} that are not zero>"


class Machine:
    """A machine that ``emu run IMAGE`` with the same options would have, built and booted, its files open and locked.

    ``image`` is a path or the name of a bundled guest. ``memory`` is the RAM: bytes, or a text as for ``-m``.
    ``persistence``, ``clock``: as -machine nvdimm-persistence= and clock=. ``serial`` and ``debugcon`` are called with
    the bytes that the guest sends to COM1 and to port 0xE9, in a thread of emu's; COM1 is kept for ``Machine.serial``
    in any case. With ``incoming``, the address of a migration, there is no image: the machine waits for another one's.
    ``accept_incomplete`` takes files that an unfinished migration marked, and forgets the marks once it runs.

    A context manager: ``close`` unmaps and unlocks the files. Every method may be called from any thread; while the
    guest runs, it is asked between two basic blocks.

    UsageError when the description is wrong (IncompleteFile for a marked file), HostError when this host cannot do it
    (MapSyncUnavailable, FileInUse); then nothing is left behind.
    """

    def __init__(
        self,
        image: Path | None = None,
        *,
        nvdimms: Sequence[Nvdimm] = (),
        memory: Size | None = None,
        append: str | None = None,
        persistence: Literal["cpu", "mem-ctrl"] | None = None,
        clock: Literal["virtual", "real"] | None = None,
        serial: Sink | None = None,
        debugcon: Sink | None = None,
        no_reboot: bool = False,
        incoming: str | None = None,
        accept_incomplete: bool = False,
    ) -> None:
        if image is None and incoming is None:
            raise UsageError("no image given", "name a file or a bundled guest; emu.Machine(incoming=URI) needs none")
        words: dict[str, object] = {"nvdimm-persistence": persistence, "clock": clock}
        config = configuration(image, nvdimms, memory=memory, append=append, machine=words)
        self.config = config
        self._incoming = incoming
        self._captured = Capture()
        self._serial = serial
        self._marks_accepted = accept_incomplete
        self._running = threading.Lock()
        self._worker: int | None = None
        self._closed = False
        self._migration: MigrationControl | None = None
        options = RunOptions(no_reboot=no_reboot, incoming=incoming, accept_incomplete=accept_incomplete)
        outputs = board.Outputs(self._print) if debugcon is None else board.Outputs(self._print, debugcon)
        self._engine = board.build(config, outputs, options)
        try:
            if incoming is None:
                self._engine.boot()
            else:
                self.migration_control().incoming(incoming)
        except BaseException:
            self.close()
            raise

    # -- its life ---------------------------------------------------------------------------------------------------

    def run(self, timeout: float | None = None) -> Exit:
        """Let the guest run until it ends, or for ``timeout`` seconds of real time; how it ended.

        The ``Exit`` has ``reason`` (power-off, exit-port, halt, reset, panic, triple-fault, exception, timeout, quit,
        migrated ...), ``status`` (what ``emu run`` would exit with), ``code`` (the value written to an exit port, else
        None) and ``detail``. After a timeout, ``stop`` or Ctrl-C another ``run`` goes on from there; after any other
        end it only says again how it ended. Ctrl-C raises KeyboardInterrupt here.

        UsageError when it runs already, HostError when a file loses its storage under the guest.

        Durable when: a guest store is worth what ``nvdimms[n].facts`` says of its mapping.
        """
        if timeout is not None:
            check_seconds(timeout, "timeout")
        if not self._running.acquire(blocking=False):
            raise UsageError("the machine runs already", "wait until its run() returns, or stop() it")
        try:
            ended = self._look(self._forget_stop)
            if ended is not None:
                return ended
            self._forget_marks()
            return in_thread(lambda: self._work(timeout), name="emu-cpu", interrupt=self._interrupted)
        finally:
            self._running.release()

    def stop(self) -> None:
        """Make the ``run`` that is under way return, with the reason "quit"; also from a sink. Else nothing."""
        if self._running.locked():
            self._engine.end(ExitRequest("quit", Status.OK))

    @property
    def exit(self) -> Exit | None:
        """How the last ``run`` ended; None before the first, and while the guest runs."""
        return self._engine.exit

    def close(self) -> None:
        """Stop the guest, and give back its memory and its files. Harmless when closed. A machine that never ran leaves
        no file that it made. UsageError from a sink of its own, where it cannot stop.
        """
        if self._worker == threading.get_ident():
            raise UsageError("a machine cannot be closed by its own output", "call stop() there, and close it later")
        if self._migration is not None:
            self._migration.finish()
        while not self._running.acquire(timeout=_ENDS_WITHIN_S):
            self._engine.end(ExitRequest("quit", Status.OK))
        try:
            self._engine.call(self._close)
        finally:
            self._running.release()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._engine.close()

    def _work(self, timeout: float | None) -> Exit:
        self._worker = threading.get_ident()
        try:
            return self._engine.run(timeout)
        finally:
            self._worker = None

    def _forget_stop(self, engine: Engine) -> Exit | None:
        """Let a guest that was only stopped go on; how it ended when it cannot."""
        # A machine that still waits for a migration has no guest to go on with.
        arrived = self._migration is None or self._incoming is None or self._migration.status == "completed"
        if engine.exit is not None and engine.exit.reason in _GOES_ON and arrived:
            engine.go_on()
        return engine.exit

    def _interrupted(self) -> None:
        self._engine.end(ExitRequest("interrupted", Status.INTERRUPTED, None, "KeyboardInterrupt"))

    def _forget_marks(self) -> None:
        if self._marks_accepted and self._incoming is None:
            self._marks_accepted = False
            for dimm in self.config.nvdimms:
                if dimm.backend.path is not None:
                    incomplete.clear(dimm.backend.path)

    def _print(self, data: bytes) -> None:
        self._captured(data)
        if self._serial is not None:
            self._serial(data)

    def _look(self, function: Callable[[Engine], T]) -> T:
        """What ``function`` returns, called between two basic blocks; UsageError on a closed machine."""

        def look() -> T:
            if self._closed:
                raise UsageError("this machine is closed", "look at it inside of its 'with' block")
            return function(self._engine)

        try:
            return self._engine.call(look)
        except GuestMemoryError as error:
            raise UsageError(error.what, "give a range of the machine's memory") from None

    # -- what can be seen -------------------------------------------------------------------------------------------

    @property
    def serial(self) -> str:
        """What the guest has printed on COM1 (the first 64 MiB), as UTF-8; what is not becomes U+FFFD."""
        return self._captured.text

    def read(self, address: int, length: int) -> bytes:
        """``length`` bytes of guest memory at a physical address; UsageError when not all of them exist."""
        return self._look(lambda engine: engine.memory.read(address, length))

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at a physical address: all of it, or UsageError and nothing.

        Durable when: never by this alone; ``nvdimms[n].write`` makes an NVDIMM's bytes durable.
        """
        self._look(lambda engine: engine.memory.write(address, data))

    def read_linear(self, address: int, length: int) -> bytes:
        """``length`` bytes at a linear address, as the guest's page tables map it now; UsageError where they do not."""
        return self._look(lambda engine: engine.cpu.read_linear(address, length))

    def translate(self, address: int) -> int | None:
        """The physical address behind a linear one; None where the guest's page tables map nothing."""
        return self._look(lambda engine: engine.cpu.translate(address))

    @property
    def registers(self) -> dict[str, int]:
        """General registers, ``rip``, ``rflags``, selectors, segment bases, control registers and ``efer``: a copy."""
        return self._look(lambda engine: engine.cpu.registers())

    def set_register(self, name: str, value: int) -> None:
        """Set a general register, ``rip`` or ``rflags``; UsageError for another name or a value beyond 64 bits."""
        self._look(lambda engine: engine.cpu.set_register(name, value))

    @property
    def nvdimms(self) -> tuple[Dimm, ...]:
        """The NVDIMMs, in the order in which they were given."""
        return self._look(lambda engine: tuple(Dimm(self._look, plugged) for plugged in engine.nvdimms))

    @property
    def tables(self) -> dict[str, Table]:
        """The ACPI tables that the guest sees, by name ("NFIT", "SSDT" ...)."""
        return self._look(lambda engine: {name: Table(name, data) for name, data in engine.tables.items()})

    # -- saved state ------------------------------------------------------------------------------------------------

    def save(self) -> MachineState:
        """CPU, devices and all memory, the NVDIMMs' and their label areas included; StateError if a device cannot.

        It reads all memory once, and keeps what is not zero.
        """
        return self._look(
            lambda engine: MachineState(
                engine.save(), tuple(_Memory.of(item.mapping.view) for item in engine.backends), engine.exit
            )
        )

    def restore(self, state: MachineState) -> None:
        """Go back to what ``save`` of this machine, or of one with the same description, gave; ``run`` goes on from
        there. StateError when anything does not fit. What was printed stays printed.

        Durable when: it returns; the NVDIMMs' bytes were persisted by the strongest means that their mappings have.
        """
        if self._running.locked():
            raise UsageError("the machine runs", "stop() it, or wait until its run() returns, then restore")
        self._look(lambda engine: self._restore(engine, state))

    def _restore(self, engine: Engine, state: MachineState) -> None:
        mappings = [backend.mapping for backend in engine.backends]
        sizes = [mapping.size for mapping in mappings]
        if [memory.size for memory in state.memory] != sizes:
            raise StateError("saved state and machine differ in their memory", "give both the same -m and --nvdimm")
        engine.restore(state.components)
        for mapping, memory in zip(mappings, state.memory, strict=True):
            if not mapping.readonly:
                memory.put(mapping.view)
        for plugged in engine.nvdimms:
            if not plugged.backend.mapping.readonly:
                plugged.backend.mapping.persist()
        engine.rewind({})
        if state.ended is not None:
            engine.end(ExitRequest(*state.ended))

    # -- migration --------------------------------------------------------------------------------------------------

    def migration_control(self) -> MigrationControl:
        """What ``emu.migrate`` drives: one for the life of the machine, since it knows who owns the guest.

        A guest that was only stopped is taken as one that stands still.
        """
        from emu.migration.controller import MigrationControl

        if not self._running.locked():
            self._look(self._forget_stop)
        if self._migration is None:
            self._migration = MigrationControl(self._engine)
        return self._migration

    @property
    def engine(self) -> Engine:
        """The machine inside (docs/architecture.md): not a stable interface."""
        return self._engine

    # -- how it shows itself ----------------------------------------------------------------------------------------

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _standing(self) -> str:
        if self._closed:
            return "closed"
        if self._running.locked():
            return "running"
        ended = self.exit
        return "not started" if ended is None else f"{ended.reason}, status {ended.status}"

    def __repr__(self) -> str:
        return f"<emu.Machine {self.config.image or self._incoming}: {self._standing()}>"

    def _repr_html_(self) -> str:
        facts = [
            ("image", self.config.image),
            ("RAM", human_size(self.config.ram_size)),
            ("state", self._standing()),
        ]
        more = []
        if not self._closed and (dimms := self.nvdimms):
            more.append(table(Dimm.COLUMNS, [dimm.row() for dimm in dimms]))
        if self.serial:
            more.append(verbatim(self.serial))
        return card("emu.Machine", facts, *more)


@dataclass(frozen=True, slots=True)
class _Memory:
    """The bytes of one backend: ``size``, and the pieces that are not zero by their offset."""

    size: int
    chunks: dict[int, bytes]

    @staticmethod
    def of(view: memoryview) -> _Memory:
        zeros = bytes(_CHUNK)
        # Bytes are compared at the speed of memory, views of them item by item.
        pieces = ((at, bytes(view[at : at + _CHUNK])) for at in range(0, len(view), _CHUNK))
        return _Memory(len(view), {at: piece for at, piece in pieces if piece != zeros[: len(piece)]})

    def put(self, view: memoryview) -> None:
        """Make ``view`` the same; what is so already is not written, so that holes of a file stay holes."""
        zeros = bytes(_CHUNK)
        for at in range(0, self.size, _CHUNK):
            piece = view[at : at + _CHUNK]
            wanted = self.chunks.get(at, zeros[: len(piece)])
            if bytes(piece) != wanted:
                piece[:] = wanted
