"""Commands over the tree of objects."""

from __future__ import annotations

from typing import Any

from emu.errors import EmuError
from emu.monitor import qom
from emu.monitor.commands.command import Command
from emu.monitor.control import Control
from emu.monitor.errors import QmpError
from emu.monitor.schema import ANY, STR, Array, Struct, optional, required


def _list(control: Control, arguments: dict[str, Any]) -> Any:
    return qom.resolve(qom.build(control.machine), arguments["path"]).listing()


def _get(control: Control, arguments: dict[str, Any]) -> Any:
    return qom.resolve(qom.build(control.machine), arguments["path"]).get(arguments["property"]).value


def _set(control: Control, arguments: dict[str, Any]) -> Any:
    node = qom.resolve(qom.build(control.machine), arguments["path"])
    name = arguments["property"]
    refusal = node.get(name).refusal
    if refusal is not None or node.backend is None:
        raise QmpError(refusal or f"Property '{node.type}.{name}' is not writable")
    try:
        control.machine.set_backend_property(node.backend, name, arguments["value"])
    except EmuError as error:
        # QEMU's words and nothing else: programs compare them.
        raise QmpError(error.what) from None
    return {}


def _list_properties(control: Control, arguments: dict[str, Any]) -> Any:
    return qom.properties_of_type(arguments["typename"])


_INFO = Struct("ObjectPropertyInfo", (required("name", STR), required("type", STR), optional("description", STR)))
_PATH, _PROPERTY = required("path", STR), required("property", STR)

COMMANDS = {
    "qom-list": Command(_list, Struct("qom-list-arg", (_PATH,)), Array(_INFO)),
    "qom-get": Command(_get, Struct("qom-get-arg", (_PATH, _PROPERTY)), ANY),
    "qom-set": Command(_set, Struct("qom-set-arg", (_PATH, _PROPERTY, required("value", ANY)))),
    "qom-list-properties": Command(
        _list_properties, Struct("qom-list-properties-arg", (required("typename", STR),)), Array(_INFO)
    ),
}
