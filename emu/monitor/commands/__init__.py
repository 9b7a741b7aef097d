"""What QMP clients can ask: every command's arguments, answer and action, by theme."""

from __future__ import annotations

from functools import cache
from typing import Any

from emu.errors import EmuError
from emu.monitor import schema
from emu.monitor.commands import hmp, hotplug, memory, migration, qom, status
from emu.monitor.commands.command import Command
from emu.monitor.control import Control
from emu.monitor.errors import COMMAND_NOT_FOUND, QmpError, from_emu
from emu.monitor.events import EVENTS
from emu.monitor.protocol import NEGOTIATE, NEGOTIATE_ARGUMENTS, Request
from emu.monitor.schema import NOTHING, STR, Array, Struct, required


def _query_commands(control: Control, arguments: dict[str, Any]) -> Any:
    return [{"name": name} for name in (NEGOTIATE, *COMMANDS)]


def _query_schema(control: Control, arguments: dict[str, Any]) -> Any:
    return introspection()


# What else a SchemaInfo has depends on its meta-type.
_SCHEMA_INFO = Struct("SchemaInfo", (required("name", STR), required("meta-type", STR)), open=True)
COMMANDS: dict[str, Command] = {
    "query-commands": Command(_query_commands, NOTHING, Array(Struct("CommandInfo", (required("name", STR),)))),
    "query-qmp-schema": Command(_query_schema, NOTHING, Array(_SCHEMA_INFO)),
    **status.COMMANDS,
    **memory.COMMANDS,
    **qom.COMMANDS,
    **hotplug.COMMANDS,
    **migration.COMMANDS,
    **hmp.COMMANDS,
}


@cache
def introspection() -> list[dict[str, Any]]:
    """The answer to query-qmp-schema."""
    described: dict[str, tuple[Struct, schema.Type]] = {NEGOTIATE: (NEGOTIATE_ARGUMENTS, NOTHING)}
    described |= {name: (command.arguments, command.returns) for name, command in COMMANDS.items()}
    return schema.introspect(described, EVENTS)


def execute(control: Control, request: Request) -> Any:
    """Do what ``request`` asks and return the answer; QmpError when it is refused, and then nothing has changed."""
    command = COMMANDS.get(request.name)
    if command is None:
        raise QmpError(f"The command {request.name[:64]} has not been found", COMMAND_NOT_FOUND)
    command.arguments.check(request.arguments)
    try:
        return command.run(control, request.arguments)
    except EmuError as error:
        raise from_emu(error) from None
