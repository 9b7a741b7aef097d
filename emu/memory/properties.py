"""The backend properties by QEMU's names: which exist for which kind, which are frozen, which exclude each other."""

from __future__ import annotations

from emu.config import (
    BACKEND_PROPERTIES,
    BackendConfig,
    BackendKind,
    Kind,
    OnOffAuto,
    Policy,
    Property,
    backend_properties,
)
from emu.errors import MapSyncUnavailable, UsageError
from emu.hints import Any
from emu.memory.durability import MAP_SYNC_MEANS

PROPERTIES = {kind: {row.name: row for row in backend_properties(kind) if row.shown} for kind in BackendKind}
FROZEN = {
    kind: frozenset({"id", *(name for name, row in rows.items() if not row.settable)})
    for kind, rows in PROPERTIES.items()
}


def check_combination(config: BackendConfig) -> None:
    """UsageError (MapSyncUnavailable for ``sync=on,share=off``) when properties exclude each other. Opens nothing."""
    kind = config.kind
    if kind is BackendKind.RAM:
        for row in BACKEND_PROPERTIES:
            if row.file_only and getattr(config, row.field) != row.default:
                raise UsageError(f"{kind} has no property '{row.name}'", f"leave it out, or use {BackendKind.FILE}")
    check_numbers(config)
    if kind is BackendKind.FILE and not config.path:
        raise UsageError(f"{kind} '{config.id}' has no mem-path", "name its file: mem-path=PATH")
    _check_access(config)
    if config.prealloc and not config.reserve:
        raise UsageError("prealloc=on and reserve=off exclude each other", "leave one of them out")
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


def check_numbers(config: BackendConfig) -> None:
    """UsageError, in QEMU's words, when a number in ``config`` is outside its property's bounds."""
    for row in backend_properties(config.kind):
        _check_numbers(config.kind, row, getattr(config, row.field))


def _check_numbers(kind: BackendKind, row: Property, value: object) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and not row.low <= number <= row.high:
            if row.kind is Kind.HOST_NODES:
                raise UsageError(f"Invalid {row.name} value: {number}", f"give numbers from {row.low} to {row.high}")
            raise UsageError(
                f"property '{row.name}' of {kind} doesn't take value '{number}'",
                f"give {row.name}=64M, for one" if row.kind is Kind.SIZE else f"give a number from {row.low}",
            )


def check_value(kind: BackendKind, name: str, value: object) -> tuple[str, Any]:
    """(config field, value) of the settable property ``name``; UsageError when there is none or the value is wrong."""
    row = PROPERTIES[kind].get(name)
    if row is None:
        raise UsageError(f"{kind} has no property '{name}'", f"it has: {', '.join(sorted(PROPERTIES[kind]))}")
    checked: Any = None
    if row.kind is Kind.POLICY and isinstance(value, str) and value in set(Policy):
        checked = Policy(value)
    elif row.kind is Kind.HOST_NODES and isinstance(value, (list, tuple)) and all(type(node) is int for node in value):
        checked = tuple(value)
    elif type(value) is {Kind.FLAG: bool, Kind.NUMBER: int}.get(row.kind):
        checked = value
    if checked is None:
        raise UsageError(f"property '{name}' of {kind} does not take the value {value!r:.60}")
    _check_numbers(kind, row, checked)
    return row.field, checked


def as_json(config: BackendConfig) -> dict[str, object]:
    """Every property of ``config`` by QEMU's name, as JSON values."""
    values: dict[str, object] = {"id": config.id}
    for name, row in PROPERTIES[config.kind].items():
        value = getattr(config, row.field)
        values[name] = (
            list(value) if isinstance(value, tuple) else str(value) if isinstance(value, (OnOffAuto, Policy)) else value
        )
    values["merge"] = bool(config.merge)
    values["dump"] = config.dump is not False
    return values
