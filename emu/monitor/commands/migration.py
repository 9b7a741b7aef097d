"""Commands about migration; the work is the MigrationService's."""

from __future__ import annotations

from typing import Any

from emu.monitor.commands.command import Command
from emu.monitor.control import Control, MigrationService
from emu.monitor.errors import QmpError
from emu.monitor.events import MIGRATION_STATUS
from emu.monitor.schema import BOOL, INT, NOTHING, NUMBER, STR, UINT64, Array, Enum, Struct, optional, required

_UNDER_WAY = ("setup", "active", "pre-switchover", "device", "cancelling")


def _migration(control: Control) -> MigrationService:
    if control.migration is None:
        raise QmpError("This machine cannot be migrated")
    return control.migration


def under_way(control: Control) -> bool:
    """Whether a migration is running now."""
    return control.migration is not None and control.migration.query().get("status") in _UNDER_WAY


def refuse_while_migrating(control: Control, command: str) -> None:
    if under_way(control) or control.machine.status() in ("inmigrate", "finish-migrate", "postmigrate"):
        raise QmpError(f"{command} not allowed while migrating")


def _migrate(control: Control, arguments: dict[str, Any]) -> Any:
    migration = _migration(control)
    if arguments.get("blk") or arguments.get("inc"):
        raise QmpError("This machine has no disks to migrate")
    if arguments.get("resume"):
        raise QmpError("Cannot resume if there is no paused migration")
    if under_way(control):
        raise QmpError("There's a migration process in progress")
    match control.machine.status():
        case "inmigrate":
            raise QmpError("Guest is waiting for an incoming migration")
        case "postmigrate":
            raise QmpError("Can't migrate the vm that was paused due to previous migration")
        case "shutdown" | "guest-panicked" as state:
            raise QmpError(f"There is nothing to migrate in state '{state}'")
    migration.start(arguments["uri"])
    return {}


def _migrate_incoming(control: Control, arguments: dict[str, Any]) -> Any:
    migration = _migration(control)
    if control.machine.status() != "inmigrate":
        raise QmpError("'-incoming' was not specified on the command line")
    migration.incoming(arguments["uri"])
    return {}


def _query_migrate(control: Control, arguments: dict[str, Any]) -> Any:
    return control.migration.query() if control.migration is not None else {}


def _migrate_cancel(control: Control, arguments: dict[str, Any]) -> Any:
    if under_way(control):
        _migration(control).cancel()
    return {}


def _migrate_continue(control: Control, arguments: dict[str, Any]) -> Any:
    migration = _migration(control)
    status = migration.query().get("status", "none")
    if status != arguments["state"]:
        raise QmpError(f"Migration not in expected state: {status}")
    migration.continue_()
    return {}


def _query_capabilities(control: Control, arguments: dict[str, Any]) -> Any:
    return _migration(control).capabilities()


def _set_capabilities(control: Control, arguments: dict[str, Any]) -> Any:
    migration = _migration(control)
    if under_way(control):
        raise QmpError("There's a migration process in progress")
    migration.set_capabilities({item["capability"]: item["state"] for item in arguments["capabilities"]})
    return {}


def _query_parameters(control: Control, arguments: dict[str, Any]) -> Any:
    return _migration(control).parameters()


def _set_parameters(control: Control, arguments: dict[str, Any]) -> Any:
    _migration(control).set_parameters(arguments)
    return {}


_COMPRESSION = Enum("MultiFDCompression", ("none", "zlib", "zstd"))
_CAPABILITY = Struct("MigrationCapabilityStatus", (required("capability", STR), required("state", BOOL)))
PARAMETERS = Struct(
    "MigrationParameters",
    (
        optional("max-bandwidth", UINT64),
        optional("downtime-limit", UINT64),
        optional("cpu-throttle-initial", UINT64),
        optional("cpu-throttle-increment", UINT64),
        optional("max-cpu-throttle", UINT64),
        optional("x-emu-stall-timeout", UINT64),
        optional("multifd-channels", UINT64),
        optional("multifd-compression", _COMPRESSION),
        optional("multifd-zlib-level", UINT64),
        optional("multifd-zstd-level", UINT64),
    ),
)
_RAM = Struct(
    "MigrationStats",
    (
        *(
            required(name, INT)
            for name in (
                "transferred", "remaining", "total", "duplicate", "skipped", "normal", "normal-bytes",
                "dirty-pages-rate", "dirty-sync-count", "page-size", "pages-per-second", "multifd-bytes",
                "postcopy-requests",
            )
        ),
        required("mbps", NUMBER),
    ),
)  # fmt: skip
_INFO = Struct(
    "MigrationInfo",
    (
        optional("status", MIGRATION_STATUS),
        optional("ram", _RAM),
        optional("total-time", INT),
        optional("setup-time", INT),
        optional("downtime", INT),
        optional("expected-downtime", INT),
        optional("cpu-throttle-percentage", INT),
        optional("error-desc", STR),
        optional("x-emu-refused", Array(STR)),
        optional("x-emu-persistence", Array(Struct("EmuMadeDurable", open=True))),
    ),
)
_URI = required("uri", STR)

COMMANDS = {
    "migrate": Command(
        _migrate,
        Struct(
            "migrate-arg",
            (_URI, optional("blk", BOOL), optional("inc", BOOL), optional("detach", BOOL), optional("resume", BOOL)),
        ),
    ),
    "migrate-incoming": Command(_migrate_incoming, Struct("migrate-incoming-arg", (_URI,))),
    "query-migrate": Command(_query_migrate, NOTHING, _INFO),
    "migrate_cancel": Command(_migrate_cancel),
    "migrate-continue": Command(
        _migrate_continue, Struct("migrate-continue-arg", (required("state", MIGRATION_STATUS),))
    ),
    "query-migrate-capabilities": Command(_query_capabilities, NOTHING, Array(_CAPABILITY)),
    "migrate-set-capabilities": Command(
        _set_capabilities, Struct("migrate-set-capabilities-arg", (required("capabilities", Array(_CAPABILITY)),))
    ),
    "query-migrate-parameters": Command(_query_parameters, NOTHING, PARAMETERS),
    "migrate-set-parameters": Command(_set_parameters, PARAMETERS),
}
