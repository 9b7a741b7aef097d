"""Commands about the run of the machine: status, stop and go, reset, power, end."""

from __future__ import annotations

from typing import Any

from emu.monitor.commands.command import Command
from emu.monitor.control import Control
from emu.monitor.errors import QmpError
from emu.monitor.protocol import VERSION
from emu.monitor.schema import BOOL, INT, NOTHING, STR, Array, Enum, Struct, optional, required

CPU_PATH = "/machine/unattached/device[0]"

_RUN_STATE = Enum(
    "RunState",
    ("debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate", "prelaunch", "finish-migrate",
     "restore-vm", "running", "save-vm", "shutdown", "suspended", "watchdog", "guest-panicked", "colo"),
)  # fmt: skip
# States that only a reset leads out of, in QEMU's words.
_DEAD = ("shutdown", "guest-panicked", "internal-error")


def _query_version(control: Control, arguments: dict[str, Any]) -> Any:
    return VERSION


def _query_status(control: Control, arguments: dict[str, Any]) -> Any:
    state = control.machine.status()
    return {"status": state, "singlestep": False, "running": state == "running"}


def _stop(control: Control, arguments: dict[str, Any]) -> Any:
    if control.machine.status() == "inmigrate":
        raise QmpError("Guest is waiting for an incoming migration")
    control.machine.stop()
    return {}


def _cont(control: Control, arguments: dict[str, Any]) -> Any:
    state = control.machine.status()
    if state == "running":
        return {}
    if state == "inmigrate":
        raise QmpError("Guest is waiting for an incoming migration")
    if state in _DEAD:
        raise QmpError("Resetting the Virtual Machine is required")
    if control.migration is not None:
        control.migration.take_back(force=arguments.get("x-emu-force", False))
    control.machine.cont()
    return {}


def _system_reset(control: Control, arguments: dict[str, Any]) -> Any:
    state = control.machine.status()
    if state in ("inmigrate", "finish-migrate", "postmigrate"):
        raise QmpError(f"The machine cannot be reset in state '{state}'")
    control.machine.reset()
    return {}


def _system_powerdown(control: Control, arguments: dict[str, Any]) -> Any:
    control.machine.press_power_button()
    return {}


def _quit(control: Control, arguments: dict[str, Any]) -> Any:
    control.machine.quit()
    return {}


def _query_cpus_fast(control: Control, arguments: dict[str, Any]) -> Any:
    return [
        {
            "cpu-index": 0,
            "qom-path": CPU_PATH,
            "thread-id": control.machine.thread_id(),
            "props": {"socket-id": 0, "core-id": 0, "thread-id": 0, "node-id": 0},
            "target": "x86_64",
        }
    ]


_TRIPLE = Struct("VersionTriple", (required("major", INT), required("minor", INT), required("micro", INT)))
_VERSION = Struct("VersionInfo", (required("qemu", _TRIPLE), required("package", STR)))
_STATUS = Struct(
    "StatusInfo", (required("running", BOOL), required("singlestep", BOOL), required("status", _RUN_STATE))
)
_CPU_PROPS = Struct(
    "CpuInstanceProperties",
    (optional("node-id", INT), optional("socket-id", INT), optional("core-id", INT), optional("thread-id", INT)),
)
_CPU = Struct(
    "CpuInfoFast",
    (
        required("cpu-index", INT),
        required("qom-path", STR),
        required("thread-id", INT),
        optional("props", _CPU_PROPS),
        required("target", Enum("SysEmuTarget", ("x86_64",))),
    ),
)

COMMANDS = {
    "query-version": Command(_query_version, NOTHING, _VERSION),
    "query-status": Command(_query_status, NOTHING, _STATUS),
    "stop": Command(_stop),
    "cont": Command(_cont, Struct("cont-arg", (optional("x-emu-force", BOOL),))),
    "system_reset": Command(_system_reset),
    "system_powerdown": Command(_system_powerdown),
    "quit": Command(_quit),
    "query-cpus-fast": Command(_query_cpus_fast, NOTHING, Array(_CPU)),
}
