"""Frozen descriptions of a machine: what is asked for, before any file is opened. JSON both ways.

The words and defaults are QEMU's (``-object memory-backend-file``, ``-device nvdimm``, ``-machine``, ``-m``); ``sync``
is the option of the patch thread that gave QEMU's file backend its MAP_SYNC mapping.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, TypeVar

from emu.errors import UsageError
from emu.units import MIB


class OnOffAuto(enum.StrEnum):
    ON = "on"
    OFF = "off"
    AUTO = "auto"


class BackendKind(enum.StrEnum):
    FILE = "memory-backend-file"
    RAM = "memory-backend-ram"


class Policy(enum.StrEnum):
    """NUMA memory policy of a backend; the numbers of mbind(2) belong to the host core."""

    DEFAULT = "default"
    PREFERRED = "preferred"
    BIND = "bind"
    INTERLEAVE = "interleave"


class PersistenceDomain(enum.StrEnum):
    """What the platform flushes by itself when power fails (NFIT platform capabilities): ADR the memory controller's
    queue, eADR the CPU caches too. The value is QEMU's word for it, ``platform`` that of ``--domain`` and emu.crash/1.
    """

    EADR = "cpu"
    ADR = "mem-ctrl"

    @property
    def platform(self) -> str:
        """``adr`` or ``eadr``."""
        return self.name.lower()


class Clock(enum.StrEnum):
    """``virtual`` time follows the instructions executed (deterministic), ``real`` the host's monotonic clock."""

    VIRTUAL = "virtual"
    REAL = "real"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """One memory backend. Sizes in bytes; ``size`` None means the file's own size. ``align`` 0 means the page size.

    ``discard_shared`` is the explicit consent without which ``discard_data`` on a shared file is refused: QEMU zeroes
    the file there without asking.
    """

    id: str
    kind: BackendKind = BackendKind.FILE
    size: int | None = None
    path: str | None = None
    share: bool = False
    sync: OnOffAuto = OnOffAuto.AUTO
    pmem: bool = False
    align: int = 0
    offset: int = 0
    readonly: bool = False
    rom: OnOffAuto = OnOffAuto.AUTO
    prealloc: bool = False
    prealloc_threads: int = 1
    discard_data: bool = False
    discard_shared: bool = False
    merge: bool | None = None
    dump: bool | None = None
    reserve: bool = True
    host_nodes: tuple[int, ...] = ()
    policy: Policy = Policy.DEFAULT
    share_lock: bool = False

    @property
    def is_rom(self) -> bool:
        """Whether guest stores are dropped: ``rom=on``, or ``auto`` with ``readonly=on``."""
        return self.readonly if self.rom is OnOffAuto.AUTO else self.rom is OnOffAuto.ON


@dataclass(frozen=True, slots=True, kw_only=True)
class NvdimmConfig:
    """One NVDIMM on its backend. ``slot`` and ``addr`` None mean automatic placement; ``uuid`` None is all zero."""

    backend: BackendConfig
    id: str | None = None
    label_size: int = 0
    unarmed: OnOffAuto = OnOffAuto.OFF
    uuid: str | None = None
    slot: int | None = None
    addr: int | None = None
    node: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """A whole machine. ``image`` None means none yet (a machine that waits for an incoming migration).

    ``exit_ports`` lists the (first port, number of ports) of debug-exit devices; ``serial`` and ``debugcon`` name
    where the bytes go: ``stdio``, ``none``, ``file:PATH``, or ``buffer`` to keep them in memory.
    """

    image: str | None = None
    cmdline: str = ""
    ram_size: int = 128 * MIB
    slots: int = 0
    max_memory: int | None = None
    numa_nodes: int = 0
    nvdimm_enabled: bool = True
    persistence: PersistenceDomain | None = None
    nvdimms: tuple[NvdimmConfig, ...] = ()
    clock: Clock = Clock.VIRTUAL
    serial: str = "stdio"
    debugcon: str = "none"
    exit_ports: tuple[tuple[int, int], ...] = ((0xF4, 4),)
    no_reboot: bool = False
    start_paused: bool = False
    qmp: tuple[str, ...] = ()
    incoming: str | None = None

    @property
    def domain(self) -> PersistenceDomain:
        """What the platform saves by itself: as ``persistence`` tells the guest, ADR where that says nothing."""
        return self.persistence or PersistenceDomain.ADR


T = TypeVar("T")


def to_json(config: Any) -> str:
    """``config`` as one JSON text that ``from_json`` reads back to an equal object."""
    return json.dumps(asdict(config), sort_keys=True)


def from_json(kind: type[T], text: str) -> T:
    """The dataclass ``kind`` that ``to_json`` wrote; UsageError on anything else, unknown keys included."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"machine description is not JSON: {exc}") from None
    return typing.cast("T", _decode(kind, raw, kind.__name__))


def _decode(kind: Any, raw: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        if not isinstance(raw, dict):
            raise UsageError(f"machine description: {where} is not an object")
        hints = typing.get_type_hints(kind)
        unknown = raw.keys() - {item.name for item in fields(kind)}
        if unknown:
            raise UsageError(f"machine description: {where} has unknown keys: {', '.join(sorted(unknown))}")
        values = {name: _decode(hints[name], value, f"{where}.{name}") for name, value in raw.items()}
        try:
            return typing.cast("Any", kind)(**values)
        except TypeError as exc:
            raise UsageError(f"machine description: {where}: {exc}") from None
    if origin in (typing.Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        return _decode(next(item for item in arguments if item is not type(None)), raw, where)
    if origin is tuple:
        if not isinstance(raw, list) or (arguments[-1] is not Ellipsis and len(raw) != len(arguments)):
            raise UsageError(f"machine description: {where} is not a list of the right length")
        kinds = [arguments[0]] * len(raw) if arguments[-1] is Ellipsis else list(arguments)
        pairs = enumerate(zip(kinds, raw, strict=True))
        return tuple(_decode(item, value, f"{where}[{n}]") for n, (item, value) in pairs)
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        try:
            return kind(raw)
        except ValueError:
            raise UsageError(f"machine description: {where} is not one of {', '.join(kind)}") from None
    if type(raw) is not kind:
        raise UsageError(f"machine description: {where} is not of type {kind.__name__}")
    return raw
