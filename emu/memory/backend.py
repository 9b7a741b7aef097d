"""Memory backends: a config is checked, its file opened and mapped, and the result says what it truly guarantees.

Properties, their checks and the order of the checks are those of QEMU's ``memory-backend-file`` and
``memory-backend-ram``; ``sync`` is the option of the patch thread that proposed it for QEMU.
"""

from __future__ import annotations

from types import TracebackType

from emu.config import BackendConfig, BackendKind, OnOffAuto, Policy
from emu.errors import EmuError, HostError, MapSyncUnavailable, UsageError
from emu.host import kernel
from emu.host.kernel import Advice, NumaMode
from emu.memory.durability import MAP_SYNC_MEANS, MappingFacts, judge
from emu.memory.lock import FileLock
from emu.memory.mapping import Mapping
from emu.memory.properties import FROZEN, as_json, check_combination, check_value
from emu.memory.source import Source, check_geometry, open_source, settle_size
from emu.units import MIB, align_up

RAM_ALIGNMENT = 2 * MIB
"""What QEMU aligns anonymous guest memory to on x86-64, so that huge pages fit; NVDIMM sizes are rounded to it."""

_MODES = {
    Policy.PREFERRED: NumaMode.PREFERRED,
    Policy.BIND: NumaMode.BIND,
    Policy.INTERLEAVE: NumaMode.INTERLEAVE,
}


def open_backend(config: BackendConfig, *, default_size: int | None = None, lock_later: bool = False) -> Backend:
    """Check ``config``, open and lock its file, map it. ``default_size`` is for a new file when no size is given.

    ``lock_later`` is for a machine that waits for a migration: another emulator may still have the file locked; nothing
    may be stored to the memory until ``acquire_lock``.

    UsageError when the request cannot be right, HostError (status 4) when this host cannot do it: then nothing is left
    behind, and a file that was created is gone again.
    """
    check_combination(config)
    if config.kind is BackendKind.RAM:
        return _open_ram(config, default_size)
    source = open_source(config, lock_later=lock_later)
    try:
        return _map_file(config, source, default_size)
    except BaseException:
        source.discard()
        raise


def _open_ram(config: BackendConfig, default_size: int | None) -> Backend:
    size = config.size if config.size is not None else default_size
    if size is None:
        raise UsageError(f"memory-backend-ram {config.id} has no size", "give one, such as size=64M")
    name, mapped = f"memory backend '{config.id}'", align_up(size, kernel.PAGE_SIZE)
    address = kernel.map_memory(mapped, what=name, align=RAM_ALIGNMENT, shared=config.share, reserve=config.reserve)
    durability = judge(config.sync, MappingFacts(file_system=None, shared=config.share, readonly=False))
    mapping = Mapping(
        address,
        mapped,
        alignment=RAM_ALIGNMENT,
        page_size=kernel.PAGE_SIZE,
        readonly=False,
        durability=durability,
        name=name,
    )
    return _finish(Backend(config.replace(size=mapped), mapping, None, ()))


def _map_file(config: BackendConfig, source: Source, default_size: int | None) -> Backend:
    size = settle_size(config, source, default_size)
    alignment = check_geometry(config, source, size)
    if source.is_regular and source.size == 0:
        kernel.truncate(source.fd, config.offset + size, what=source.path)
    if config.prealloc and config.share and source.is_regular:
        kernel.allocate_blocks(source.fd, config.offset, size, what=source.path)
    address, synced, no_sync = _map(config, source, size, alignment)
    facts = MappingFacts(
        file_system=source.file_system,
        shared=config.share,
        readonly=config.is_rom,
        synced=synced,
        no_sync=no_sync,
        memory_file_system=source.memory_file_system,
        dax=source.is_dax,
        device_dax=source.device is not None,
        persistent_device=source.device is not None and source.device.persistent,
        cpu_flush=bool(kernel.flush_instructions()),
    )
    durability = judge(config.sync, facts)
    warnings: list[str] = []
    if config.pmem and not durability.survives.host_power_loss:
        durability = durability._replace(why=f"pmem=on is not honoured: {durability.why}")
        warnings.append(f"{source.path}: {durability.why}")
    mapping = Mapping(
        address,
        size,
        alignment=alignment,
        page_size=source.page_size,
        readonly=config.is_rom,
        durability=durability,
        name=source.path,
        # The kernel maps a device DAX shared only, so there is no private mapping to fall back to.
        fd=source.fd if config.share and not config.is_rom and source.device is None else -1,
        file_offset=config.offset,
    )
    return _finish(Backend(config.replace(size=size), mapping, source, tuple(warnings)))


def _map(config: BackendConfig, source: Source, size: int, alignment: int) -> tuple[int, bool, str]:
    """(address, mapped with MAP_SYNC, why not)."""

    def map_it(*, sync: bool) -> int:
        return kernel.map_memory(
            size,
            what=source.path,
            align=alignment,
            page_size=source.page_size,
            fd=source.fd,
            offset=config.offset,
            shared=config.share,
            sync=sync,
            write=not config.is_rom,
            reserve=config.reserve,
        )

    reason = "sync=off" if config.sync is OnOffAuto.OFF else "share=off"
    if config.share and config.sync is not OnOffAuto.OFF:
        try:
            address = map_it(sync=True)
        except HostError as error:
            if error.errno not in kernel.NO_MAP_SYNC:
                raise
            reason = f"{source.file_system} does not offer it for this file"
        else:
            flags = kernel.vm_flags(address)
            if flags is None or "sf" in flags:  # without smaps, mmap's own word must do
                return address, True, ""
            kernel.unmap_memory(address, size, source.page_size)
            reason = "the kernel took the flag but does not show it on the mapping"
    if config.sync is OnOffAuto.ON:
        raise MapSyncUnavailable(
            f"cannot map {source.path} with MAP_SYNC (sync=on): {reason}", f"{MAP_SYNC_MEANS}; or use sync=auto"
        )
    return map_it(sync=False), False, reason


def _finish(backend: Backend) -> Backend:
    try:
        backend.apply()
    except BaseException:
        backend.mapping.close()
        raise
    return backend


class Backend:
    """An open backend: ``config`` as it is now (the size settled), its ``mapping``, and ``warnings`` for the user."""

    def __init__(
        self, config: BackendConfig, mapping: Mapping, source: Source | None, warnings: tuple[str, ...]
    ) -> None:
        self.config = config
        self.mapping = mapping
        self.warnings = warnings
        self._source = source

    def apply(self) -> None:
        """Give the fresh mapping its policy, its advice and, with ``prealloc``, its memory."""
        config, mapping = self.config, self.mapping
        if config.policy is not Policy.DEFAULT:
            kernel.bind_memory(
                mapping.address, mapping.size, _MODES[config.policy], config.host_nodes, what=mapping.name
            )
        if self._source is None:
            self._advise_if_known(Advice.HUGEPAGE)
        if config.merge is not None:
            self._merge(config.merge)
        if config.dump is not None:
            self._dump(config.dump)
        if config.prealloc:
            self._preallocate()

    def set_property(self, name: str, value: object) -> None:
        """Change a property of the running backend, as qom-set does. UsageError for one that is frozen, unknown or
        wrong.

        ``prealloc`` only ever goes from false to true; ``host-nodes`` and ``policy`` are taken and have no effect on
        memory that exists.
        """
        kind = self.config.kind
        if name in FROZEN[kind]:
            raise UsageError(
                f"cannot change property '{name}' of {kind} '{self.config.id}'", "it is fixed once the memory exists"
            )
        field, checked = check_value(kind, name, value)
        wanted = self.config.replace(**{field: checked})
        if name == "prealloc" and not checked:
            return
        check_combination(wanted)
        if name == "merge":
            self._merge(bool(checked))
        elif name == "dump":
            self._dump(bool(checked))
        elif name == "prealloc" and not self.config.prealloc:
            self._preallocate()
        self.config = wanted

    def properties(self) -> dict[str, object]:
        """Every property by QEMU's name, as JSON values (what qom-get and query-memdev show)."""
        return as_json(self.config)

    @property
    def fd(self) -> int:
        """The descriptor of the open backing file, which stays the backend's; -1 for anonymous memory."""
        return -1 if self._source is None else self._source.fd

    @property
    def lock(self) -> FileLock | None:
        """The lock of the backing file: WRITE by one user alone, READ with others; None for anonymous memory."""
        return None if self._source is None else self._source.lock

    def acquire_lock(self) -> None:
        """Take the file's lock again after ``release_lock``; HostError when another emulator has it."""
        if self._source is not None:
            self._source.lock.acquire()

    def release_lock(self) -> None:
        """Give the file's lock up, for a hand-over to another emulator. The memory stays mapped: do not store to it."""
        if self._source is not None:
            self._source.lock.release()

    def close(self) -> None:
        """Unmap and unlock. With ``discard_data`` on a shared file, and the consent for it, the content is gone."""
        if self.mapping.closed:
            return
        config = self.config
        ours = self._source is not None and self._source.lock.held  # after a hand-over the content is somebody else's
        try:
            if ours and config.discard_data and config.share and config.discard_shared and not self.mapping.readonly:
                kernel.advise(
                    self.mapping.address,
                    self.mapping.size,
                    Advice.REMOVE,
                    what=f"discard the content of {self.mapping.name}",
                )
        finally:
            self.mapping.close()
            if self._source is not None:
                self._source.close()

    def discard(self) -> None:
        """Close a backend that nobody used: a file that was made for it goes away again.

        Not with ``share_lock``: another emulator may have used it meanwhile.
        """
        if self.mapping.closed or self.config.share_lock:
            self.close()
            return
        self.mapping.close()
        if self._source is not None:
            self._source.discard()

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _advise_if_known(self, advice: Advice) -> None:
        try:
            kernel.advise(self.mapping.address, self.mapping.size, advice, what="advise")
        except HostError:
            return  # a kernel without huge pages: only speed is lost

    def _merge(self, on: bool) -> None:
        kernel.advise(
            self.mapping.address,
            self.mapping.size,
            Advice.MERGEABLE if on else Advice.UNMERGEABLE,
            what=f"set merge={'on' if on else 'off'} of {self.mapping.name}",
            remedy="this kernel was built without KSM; leave merge out",
        )

    def _dump(self, on: bool) -> None:
        kernel.advise(
            self.mapping.address,
            self.mapping.size,
            Advice.DODUMP if on else Advice.DONTDUMP,
            what=f"set dump={'on' if on else 'off'} of {self.mapping.name}",
        )

    def _preallocate(self) -> None:
        mapping, source = self.mapping, self._source
        if source is not None and self.config.share:
            if source.device is not None or not source.is_regular:
                return  # a device has its storage
            if kernel.allocate_blocks(source.fd, self.config.offset, mapping.size, what=source.path):
                return
        if mapping.readonly:
            raise UsageError(f"prealloc=on of {mapping.name} needs a mapping that can be written", "leave prealloc out")
        if mapping.lost() is not None:
            raise EmuError(f"{mapping.name} lost pages before it was preallocated")
        threads = self.config.prealloc_threads
        kernel.populate(mapping.address, mapping.size, mapping.page_size, what=mapping.name, threads=threads)
