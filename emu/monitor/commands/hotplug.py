"""Commands that add memory to the running machine: backends, and NVDIMMs on them."""

from __future__ import annotations

import re
from typing import Any

from emu.config import BackendConfig, BackendKind, NvdimmConfig, OnOffAuto, Policy
from emu.memory.properties import PROPERTIES
from emu.monitor import qom
from emu.monitor.commands.command import Command
from emu.monitor.commands.memory import POLICY
from emu.monitor.commands.migration import refuse_while_migrating
from emu.monitor.control import Control
from emu.monitor.errors import QmpError, device_not_found
from emu.monitor.schema import (
    BOOL,
    INT,
    ON_OFF_AUTO,
    STR,
    UINT16,
    UINT32,
    UINT64,
    Alternate,
    Array,
    Enum,
    Struct,
    optional,
    required,
)

_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,255}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_COMMON = (
    required("size", UINT64),
    optional("merge", BOOL),
    optional("dump", BOOL),
    optional("prealloc", BOOL),
    optional("prealloc-threads", UINT32),
    optional("host-nodes", Array(UINT16)),
    optional("policy", POLICY),
    optional("share", BOOL),
    optional("reserve", BOOL),
)
_FILE = (
    required("mem-path", STR),
    optional("align", UINT64),
    optional("offset", UINT64),
    optional("discard-data", BOOL),
    optional("discard-shared", BOOL),
    optional("share-lock", BOOL),
    optional("pmem", BOOL),
    optional("readonly", BOOL),
    optional("rom", ON_OFF_AUTO),
    optional("sync", ON_OFF_AUTO),
)
_OBJECT = Struct(
    "object-add-arg",
    (required("qom-type", Enum("ObjectType", tuple(BackendKind))), required("id", STR)),
    tag="qom-type",
    variants=(
        (str(BackendKind.FILE), Struct("MemoryBackendFileProperties", _COMMON + _FILE)),
        (str(BackendKind.RAM), Struct("MemoryBackendProperties", _COMMON)),
    ),
)
# QMP names of BackendConfig's fields; the two consents are emu's own and no properties of the finished backend.
_FIELDS = PROPERTIES[BackendKind.FILE] | {"discard-shared": "discard_shared", "share-lock": "share_lock"}
_ENUMS = {"policy": Policy, "rom": OnOffAuto, "sync": OnOffAuto}

_DEVICE = Struct("device_add-arg", (required("driver", STR), optional("bus", STR), optional("id", STR)), open=True)
_NVDIMM = Struct(
    "nvdimm",
    (
        optional("id", STR),
        required("memdev", STR),
        optional("label-size", UINT64),
        optional("unarmed", Alternate("BoolOrOnOffAuto", (BOOL, ON_OFF_AUTO))),
        optional("uuid", STR),
        optional("slot", INT),
        optional("addr", UINT64),
        optional("node", UINT32),
    ),
    open=True,
)
_NVDIMM_NAMES = frozenset(member.name for member in _NVDIMM.members)


def _object_add(control: Control, arguments: dict[str, Any]) -> Any:
    refuse_while_migrating(control, "object-add")
    name = arguments["id"]
    if not _ID.fullmatch(name):
        raise QmpError("Parameter 'id' expects an identifier")
    if any(view.config.id == name for view in control.machine.backends()):
        raise QmpError(f"attempt to add duplicate property '{name}' to object (type 'container')")
    for sized in ("size", "prealloc-threads"):
        if arguments.get(sized) == 0:
            raise QmpError(f"property '{sized}' of {arguments['qom-type']} doesn't take value '0'")
    if "\0" in arguments.get("mem-path", ""):
        raise QmpError("Parameter 'mem-path' expects a path")
    values = {_FIELDS[key]: _value(key, value) for key, value in arguments.items() if key in _FIELDS}
    control.machine.add_backend(BackendConfig(id=name, kind=BackendKind(arguments["qom-type"]), **values))
    return {}


def _value(name: str, value: Any) -> Any:
    if name in _ENUMS:
        return _ENUMS[name](value)
    return tuple(value) if name == "host-nodes" else value


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
    name, memdev, uuid = properties.get("id"), properties["memdev"], properties.get("uuid")
    if name is not None:
        if not _ID.fullmatch(name):
            raise QmpError("Parameter 'id' expects an identifier")
        if any(nvdimm.id == name for nvdimm in control.machine.nvdimms()):
            raise QmpError(f"Duplicate device ID '{name}'")
    backend_id = memdev.removeprefix("/objects/")
    view = next((view for view in control.machine.backends() if view.config.id == backend_id), None)
    if view is None:
        raise device_not_found(memdev)
    if view.busy:
        raise QmpError(f"can't use already busy memdev: {backend_id}")
    if uuid is not None and not _UUID.fullmatch(uuid):
        raise QmpError("Property 'nvdimm.uuid' has invalid value")
    unarmed = properties.get("unarmed", False)
    if isinstance(unarmed, bool):
        unarmed = "on" if unarmed else "off"
    slot = properties.get("slot", -1)
    return NvdimmConfig(
        backend=view.config,
        id=name,
        label_size=properties.get("label-size", 0),
        unarmed=OnOffAuto(unarmed),
        uuid=uuid,
        slot=None if slot == -1 else slot,
        addr=properties.get("addr") or None,
        node=properties.get("node", 0),
    )


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
