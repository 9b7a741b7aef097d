"""A Machine as migration sees it: its blocks, facts and locks (see emu.migration.guest for the contract)."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from emu.config import BackendKind
from emu.errors import EmuError
from emu.host.faults import DirtyLog
from emu.host.pagemap import Untouched
from emu.machine import Machine, RunState
from emu.memory import Backend
from emu.migration.errors import MigrationError
from emu.migration.facts import BlockFacts, FileFacts, MachineFacts, NvdimmFacts
from emu.migration.guest import Block, FileLock, Holes, Tracker
from emu.migration.pagecache import PageCacheFile
from emu.migration.proof import BackingFileLock
from emu.parts import PluggedNvdimm
from emu.state import SavedState
from emu.units import PAGE, align_down, align_up

_NO_DATA = 1 << 63
_BLOCK = 512  # of st_blocks, on every file system (stat(2))


class FileHoles:
    """The holes of the regular file ``path``, from ``offset`` on (lseek(2) SEEK_DATA): pages there read as zeros.

    Pages dirty in the page cache count as data, also before they have blocks. A file with blocks for all of its size is
    not searched: on tmpfs, that takes as long as to sum a tenth of it.
    """

    def __init__(self, path: str, offset: int) -> None:
        self._path = path
        self._offset = offset

    def next_data(self, offset: int) -> int:
        found = self._seek(offset, os.SEEK_DATA)
        return _NO_DATA if found is None else max(offset, align_down(found - self._offset, PAGE))

    def next_hole(self, offset: int) -> int:
        status = Path(self._path).stat()
        if status.st_blocks * _BLOCK >= status.st_size > self._offset + offset:
            return align_up(status.st_size - self._offset, PAGE)
        found = self._seek(offset, os.SEEK_HOLE)
        return offset if found is None else align_up(found - self._offset, PAGE)

    def _seek(self, offset: int, whence: int) -> int | None:
        """Where data or a hole begins; None behind the last data."""
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.lseek(descriptor, self._offset + offset, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return None
            return self._offset + offset
        finally:
            os.close(descriptor)


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _file_facts(path: str | None) -> FileFacts | None:
    if path is None:
        return None
    status = Path(path).stat()
    return FileFacts(status.st_dev, status.st_ino, _boot_id())


class MachineGuest:
    """The Guest of a real Machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._locks: dict[str, FileLock] = {}
        self._kept: dict[str, Backend] = {}
        self._state_before: RunState | None = None

    @property
    def running(self) -> bool:
        return not self._machine.paused and self._machine.exit is None

    def facts(self) -> MachineFacts:
        config = self._machine.config
        return MachineFacts(
            ram_size=config.ram_size,
            clock=str(config.clock),
            persistence=str(config.persistence or "none"),
            blocks=tuple(BlockFacts(block.name, block.size) for block in self.blocks()),
            nvdimms=tuple(self._nvdimm(nvdimm) for nvdimm in self._machine.nvdimms),
        )

    def _nvdimm(self, nvdimm: PluggedNvdimm) -> NvdimmFacts:
        device, backend = nvdimm.device, nvdimm.backend
        durability = backend.mapping.durability
        return NvdimmFacts(
            id=device.config.id or f"slot {device.slot}",
            block=backend.config.id,
            size=backend.mapping.size,
            label_size=device.config.label_size,
            uuid=device.config.uuid or "",
            unarmed=device.unarmed,
            slot=device.slot,
            gpa=device.gpa,
            node=device.config.node,
            readonly=backend.mapping.readonly,
            granularity=durability.granularity,
            survives_guest_crash=durability.survives.guest_crash,
            survives_emulator_kill=durability.survives.emulator_kill,
            survives_host_power_loss=durability.survives.host_power_loss,
            share=backend.config.share,
            file=_file_facts(backend.config.path),
        )

    def blocks(self) -> Sequence[Block]:
        nvdimms = {id(nvdimm.backend) for nvdimm in self._machine.nvdimms}
        return [self._block(backend, id(backend) in nvdimms) for backend in self._machine.backends]

    def _block(self, backend: Backend, persistent: bool) -> Block:
        mapping, config = backend.mapping, backend.config
        holes: Holes | None = None
        file = None
        if config.kind is BackendKind.RAM and not config.share:
            holes = Untouched(mapping.address, mapping.size)
        if config.path is not None and config.share and Path(config.path).is_file():
            holes = FileHoles(config.path, config.offset)
            if mapping.durability.granularity == "page" and mapping.page_size == PAGE:
                file = PageCacheFile(backend)
        return Block(
            name=config.id,
            view=mapping.view,
            writable=not mapping.readonly,
            persistent=persistent,
            share=config.share,
            granularity=mapping.durability.granularity,
            storage=mapping,
            path=config.path,
            lock=self._lock(backend),
            holes=holes,
            file=file,
            descriptor=backend.fd if config.path is not None and config.share else None,
        )

    def _lock(self, backend: Backend) -> FileLock | None:
        if backend.lock is None:
            return None
        return self._locks.setdefault(backend.config.id, BackingFileLock(backend.lock))

    def tracker(self, block: Block) -> Tracker:
        log = self._backend(block.name).mapping.dirty_log()
        return log if block.persistent else RamTracker(self._machine, log, block.pages)

    def _backend(self, name: str) -> Backend:
        return next(backend for backend in self._machine.backends if backend.config.id == name)

    def stop(self) -> None:
        self._state_before = self._machine.state if self._machine.paused else None
        self._machine.pause(RunState.FINISH_MIGRATE)
        if self._machine.exit is not None:
            raise MigrationError("the guest ended before it could be handed over", "there is nothing left to migrate")

    def go_on(self) -> None:
        if self._state_before is None:
            self._machine.resume()
        else:
            self._machine.pause(self._state_before)

    def protect_files(self) -> None:
        for backend in self._machine.backends:
            if backend.config.path is not None and backend.config.discard_data:
                backend.set_property("discard-data", False)
                self._kept[backend.config.id] = backend

    def rest(self) -> None:
        self._machine.pause(RunState.POSTMIGRATE)

    def handed_over(self, copied: Iterable[str]) -> None:
        self.rest()
        for name in copied:
            if name in self._kept:
                self._kept.pop(name).set_property("discard-data", True)

    def save(self) -> Mapping[str, SavedState]:
        return self._machine.call(self._machine.save)

    def restore(self, states: Mapping[str, SavedState]) -> None:
        self._machine.call(lambda: self._machine.restore(states))

    def hold_back(self, seconds: float) -> None:
        self._machine.call(lambda: time.sleep(seconds))


class RamTracker:
    """The dirty log of RAM, which a reset clears behind its back: the kernel drops the pages, nobody stores zeros."""

    def __init__(self, machine: Machine, log: DirtyLog, pages: int) -> None:
        self._machine = machine
        self._log = log
        self._pages = pages
        self._was_reset = False

    def machine_event(self, name: str, data: Mapping[str, Any]) -> None:
        self._was_reset = self._was_reset or name == "RESET"

    def start(self) -> None:
        self._log.start()
        self._machine.observers.append(self)

    def collect(self) -> Sequence[tuple[int, int]]:
        runs = self._log.collect()
        # Asked between two slices, so that a reset is seen either not at all or after it has cleared the RAM.
        return [(0, self._pages)] if self._machine.call(self._take_reset) else runs

    def _take_reset(self) -> bool:
        was_reset, self._was_reset = self._was_reset, False
        return was_reset

    def stop(self) -> None:
        if self in self._machine.observers:
            self._machine.observers.remove(self)
        self._log.stop()


def lock_files(machine: Machine) -> None:
    """Lock the backing files again that a hand-over released; HostError when another emulator has them."""
    taken: list[Backend] = []
    try:
        for backend in machine.backends:
            if backend.lock is not None and not backend.lock.held:
                backend.acquire_lock()
                taken.append(backend)
    except EmuError:
        for backend in taken:
            backend.release_lock()
        raise
