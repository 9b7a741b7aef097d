"""Commands that add memory to the running machine: backends, and NVDIMMs on them."""

from __future__ import annotations

from typing import Any

from emu.config import (
    NVDIMM_PROPERTIES,
    BackendConfig,
    BackendKind,
    Kind,
    NvdimmConfig,
    OnOffAuto,
    Policy,
    Property,
    backend_properties,
    is_identifier,
    is_uuid,
)
from emu.errors import UsageError
from emu.memory.properties import check_numbers
from emu.monitor import qom
from emu.monitor.commands.command import Command
from emu.monitor.commands.migration import refuse_while_migrating
from emu.monitor.control import Control
from emu.monitor.errors import QmpError, device_not_found
from emu.monitor.kinds import QMP
from emu.monitor.schema import STR, Enum, Member, Struct, optional, required


def _members(kind: BackendKind) -> tuple[Member, ...]:
    return tuple(Member(row.name, QMP[row.kind], optional=not row.required) for row in backend_properties(kind))


_OBJECT = Struct(
    "object-add-arg",
    (required("qom-type", Enum("ObjectType", tuple(BackendKind))), required("id", STR)),
    tag="qom-type",
    variants=(
        (str(BackendKind.FILE), Struct("MemoryBackendFileProperties", _members(BackendKind.FILE))),
        (str(BackendKind.RAM), Struct("MemoryBackendProperties", _members(BackendKind.RAM))),
    ),
)
_DEVICE = Struct("device_add-arg", (required("driver", STR), optional("bus", STR), optional("id", STR)), open=True)
_NVDIMM = Struct(
    "nvdimm",
    (required("memdev", STR), *(optional(row.name, QMP[row.kind]) for row in NVDIMM_PROPERTIES)),
    open=True,
)
_NVDIMM_NAMES = frozenset(member.name for member in _NVDIMM.members)


def _object_add(control: Control, arguments: dict[str, Any]) -> Any:
    refuse_while_migrating(control, "object-add")
    name = arguments["id"]
    if not is_identifier(name):
        raise QmpError("Parameter 'id' expects an identifier")
    if any(view.config.id == name for view in control.machine.backends()):
        raise QmpError(f"attempt to add duplicate property '{name}' to object (type 'container')")
    kind = BackendKind(arguments["qom-type"])
    config = BackendConfig(id=name, kind=kind, **_fields(backend_properties(kind), arguments))
    try:
        check_numbers(config)
    except UsageError as error:
        raise QmpError(error.what) from None  # QEMU's words and nothing else: programs compare them
    control.machine.add_backend(config)
    return {}


def _fields(rows: tuple[Property, ...], arguments: dict[str, Any]) -> dict[str, Any]:
    """The config's fields that ``arguments`` give."""
    return {row.field: _value(row, arguments[row.name]) for row in rows if row.name in arguments}


def _value(row: Property, value: Any) -> Any:
    match row.kind:
        case Kind.PATH if "\0" in value:
            raise QmpError(f"Parameter '{row.name}' expects a path")
        case Kind.IDENTIFIER if not is_identifier(value):
            raise QmpError(f"Parameter '{row.name}' expects an identifier")
        case Kind.UUID if not is_uuid(value):
            raise QmpError(f"Property 'nvdimm.{row.name}' has invalid value")
        case Kind.SLOT:
            return None if value == -1 else value
        case Kind.HOST_NODES:
            return tuple(value)
        case Kind.POLICY:
            return Policy(value)
        case Kind.ON_OFF_AUTO:
            return OnOffAuto(value)
        case Kind.FLAG_OR_AUTO:
            return OnOffAuto({True: "on", False: "off"}.get(value, value))
    return value


def _object_del(control: Control, arguments: dict[str, Any]) -> Any:
    name = arguments["id"]
    view = next((view for view in control.machine.backends() if view.config.id == name), None)
    if view is None:
        raise QmpError(f"object '{name[:64]}' not found")
    if view.busy:
        raise QmpError(f"object '{name}' is in use, can not be deleted")
    control.machine.remove_backend(name)
    return {}


def _device_add(control: Control, arguments: dict[str, Any]) -> Any:
    driver = arguments["driver"]
    if driver != qom.NVDIMM:
        raise QmpError(f"'{driver[:64]}' is not a valid device model name")
    properties = {name: value for name, value in arguments.items() if name != "driver"}
    if "bus" in properties:
        raise QmpError("Device 'nvdimm' can't go on any bus")
    for name in properties:
        if name not in _NVDIMM_NAMES:
            raise QmpError(f"Property 'nvdimm.{name[:64]}' not found")
    if "memdev" not in properties:
        raise QmpError("'memdev' property must be set")
    _NVDIMM.check(properties)
    refuse_while_migrating(control, "device_add")
    control.machine.plug(_nvdimm_config(control, properties))
    return {}


def _nvdimm_config(control: Control, properties: dict[str, Any]) -> NvdimmConfig:
    name, memdev = properties.get("id"), properties["memdev"]
    values = _fields(NVDIMM_PROPERTIES, properties)
    if name is not None and any(nvdimm.id == name for nvdimm in control.machine.nvdimms()):
        raise QmpError(f"Duplicate device ID '{name}'")
    backend_id = memdev.removeprefix("/objects/")
    view = next((view for view in control.machine.backends() if view.config.id == backend_id), None)
    if view is None:
        raise device_not_found(memdev)
    if view.busy:
        raise QmpError(f"can't use already busy memdev: {backend_id}")
    return NvdimmConfig(backend=view.config, **values)


def _device_del(control: Control, arguments: dict[str, Any]) -> Any:
    name = arguments["id"]
    peripherals = qom.build(control.machine)
    path = name if name.startswith("/") else f"/machine/peripheral/{name}"
    try:
        node = qom.resolve(peripherals, path)
    except QmpError:
        raise device_not_found(name) from None
    if node.type == qom.NVDIMM:
        raise QmpError("nvdimm device hot unplug is not supported yet.")
    raise QmpError(f"'{name[:64]}' is not a hotpluggable device")


COMMANDS = {
    "object-add": Command(_object_add, _OBJECT),
    "object-del": Command(_object_del, Struct("object-del-arg", (required("id", STR),))),
    "device_add": Command(_device_add, _DEVICE),
    "device_del": Command(_device_del, Struct("device_del-arg", (required("id", STR),))),
}
