"""The backend properties by QEMU's names: which exist for which kind, which are frozen, which exclude each other."""

from __future__ import annotations

from typing import Any

from emu.config import BackendConfig, BackendKind, OnOffAuto, Policy
from emu.errors import MapSyncUnavailable, UsageError
from emu.memory.durability import MAP_SYNC_MEANS

MAX_NODES = 128
"""Host NUMA nodes are numbered below this, as in QEMU."""

_COMMON = {
    "size": "size",
    "merge": "merge",
    "dump": "dump",
    "prealloc": "prealloc",
    "prealloc-threads": "prealloc_threads",
    "host-nodes": "host_nodes",
    "policy": "policy",
    "share": "share",
    "reserve": "reserve",
}
_FILE = {
    "mem-path": "path",
    "align": "align",
    "offset": "offset",
    "discard-data": "discard_data",
    "pmem": "pmem",
    "readonly": "readonly",
    "rom": "rom",
    "sync": "sync",
}
PROPERTIES = {BackendKind.RAM: _COMMON, BackendKind.FILE: {**_COMMON, **_FILE}}
_ALWAYS_SETTABLE = {"merge", "dump", "prealloc", "prealloc-threads", "host-nodes", "policy", "discard-data"}
FROZEN = {kind: frozenset(names) - _ALWAYS_SETTABLE | {"id"} for kind, names in PROPERTIES.items()}


def check_combination(config: BackendConfig) -> None:
    """UsageError (MapSyncUnavailable for ``sync=on,share=off``) when properties exclude each other. Opens nothing."""
    kind, fresh = config.kind, BackendConfig(id=config.id)
    if kind is BackendKind.RAM:
        ours = {*_FILE.items(), ("discard-shared", "discard_shared"), ("share-lock", "share_lock")}
        for name, field in sorted(ours):
            if getattr(config, field) != getattr(fresh, field):
                raise UsageError(f"{kind} has no property '{name}'", f"leave it out, or use {BackendKind.FILE}")
    if config.size == 0:
        raise UsageError(f"{kind} '{config.id}' cannot have size 0", "give a size, such as size=64M")
    if kind is BackendKind.FILE and not config.path:
        raise UsageError(f"{kind} '{config.id}' has no mem-path", "name its file: mem-path=PATH")
    if min(config.offset, config.align, config.size or 0) < 0:
        raise UsageError(f"{kind} '{config.id}': sizes cannot be negative", "give a number from 0")
    _check_access(config)
    if config.prealloc and not config.reserve:
        raise UsageError("prealloc=on and reserve=off exclude each other", "leave one of them out")
    if config.prealloc_threads < 1:
        raise UsageError("prealloc-threads must be at least 1", "give a number from 1, or leave it out")
    _check_nodes(config)
    if config.discard_data and config.share and not config.discard_shared:
        raise UsageError(
            f"discard-data=on would erase the shared file {config.path} when the emulator ends",
            "add discard-shared=on if that is what you want; with share=off the file is never touched",
        )
    if config.sync is OnOffAuto.ON and not config.share:
        raise MapSyncUnavailable(
            f"cannot map {config.path} with MAP_SYNC (sync=on): share=off", f"{MAP_SYNC_MEANS}, mapped with share=on"
        )


def _check_access(config: BackendConfig) -> None:
    if config.rom is OnOffAuto.ON and not config.readonly:
        raise UsageError("rom=on needs readonly=on", "add readonly=on")
    if config.rom is OnOffAuto.OFF and config.readonly and config.share:
        raise UsageError("rom=off,readonly=on needs share=off", "add share=off: stores then stay in this process")
    if config.prealloc and config.is_rom:
        raise UsageError("prealloc=on needs memory that can be written, this is read-only", "leave prealloc out")


def _check_nodes(config: BackendConfig) -> None:
    if config.host_nodes and config.policy is Policy.DEFAULT:
        raise UsageError("host-nodes must be empty for policy 'default'", "give policy=bind, preferred or interleave")
    if config.policy is not Policy.DEFAULT and not config.host_nodes:
        raise UsageError(f"host-nodes must be given for policy '{config.policy}'", "give host-nodes=0, for one")
    if any(not 0 <= node < MAX_NODES for node in config.host_nodes):
        raise UsageError(f"host-nodes: numbers go from 0 to {MAX_NODES - 1}", "see /sys/devices/system/node/online")


def check_value(kind: BackendKind, name: str, value: object) -> tuple[str, Any]:
    """(config field, value) of the settable property ``name``; UsageError when there is none or the value is wrong."""
    field = PROPERTIES[kind].get(name)
    if field is None:
        raise UsageError(f"{kind} has no property '{name}'", f"it has: {', '.join(sorted(PROPERTIES[kind]))}")
    wrong = UsageError(f"property '{name}' of {kind} does not take the value {value!r:.60}")
    if name == "prealloc-threads":
        if type(value) is not int or not 1 <= value < 1 << 32:
            raise wrong
        return field, value
    if name == "policy":
        if not isinstance(value, str) or value not in set(Policy):
            raise wrong
        return field, Policy(value)
    if name == "host-nodes":
        if not isinstance(value, (list, tuple)) or any(type(node) is not int for node in value):
            raise wrong
        return field, tuple(value)
    if type(value) is not bool:
        raise wrong
    return field, value


def as_json(config: BackendConfig) -> dict[str, object]:
    """Every property of ``config`` by QEMU's name, as JSON values."""
    values: dict[str, object] = {"id": config.id}
    for name, field in PROPERTIES[config.kind].items():
        value = getattr(config, field)
        values[name] = (
            list(value) if isinstance(value, tuple) else str(value) if isinstance(value, (OnOffAuto, Policy)) else value
        )
    values["merge"] = bool(config.merge)
    values["dump"] = config.dump is not False
    return values
