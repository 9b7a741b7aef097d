"""The tree of objects that qom-list, qom-get and qom-set show: QEMU's paths and property names over this machine.

/objects/ID                     memory backends
/machine                        the machine
/machine/peripheral/ID          NVDIMMs with an id;  /machine/peripheral-anon/device[N] those without
/machine/unattached/device[0]   the CPU;  /machine/unattached/NAME  the other devices, as they show themselves
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from emu.config import NVDIMM_PROPERTIES, BackendKind
from emu.memory.properties import PROPERTIES, as_json
from emu.monitor.control import BackendView, MachineControl, NvdimmView
from emu.monitor.errors import QmpError, device_not_found
from emu.monitor.kinds import QOM

NVDIMM = "nvdimm"
_NVDIMM_TYPES = {
    "realized": "bool",
    "hotplugged": "bool",
    "hotpluggable": "bool",
    "memdev": "link<memory-backend>",
    **{row.name: QOM[row.kind] for row in NVDIMM_PROPERTIES if row.shown},
    "size": "uint64",
}
_NVDIMM_COMPUTED = ("size", "hotpluggable")


@dataclass(frozen=True, slots=True)
class Property:
    """A property's QOM type and value; ``refusal`` is the answer to qom-set, None where the owner decides."""

    type: str
    value: Any
    refusal: str | None


@dataclass(slots=True)
class Node:
    """An object: its type, its properties and its children by name. ``backend`` is the id of a memory backend."""

    type: str
    properties: dict[str, Property] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)
    backend: str | None = None

    def get(self, name: str) -> Property:
        """The property or child ``name``; a child's value is empty, as QEMU's is."""
        if name == "type":
            return Property("string", self.type, self._not_writable(name))
        if name in self.properties:
            return self.properties[name]
        if name in self.children:
            return Property(f"child<{self.children[name].type}>", "", self._not_writable(name))
        raise QmpError(f"Property '{self.type}.{name[:64]}' not found")

    def _not_writable(self, name: str) -> str:
        return f"Property '{self.type}.{name}' is not writable"

    def listing(self) -> list[dict[str, str]]:
        """Every property and child, as qom-list shows them."""
        names = ("type", *self.properties, *self.children)
        return [{"name": name, "type": self.get(name).type} for name in names]

    def add_read_only(self, types: Mapping[str, str], values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            kind = types.get(name, _type_of(value))
            self.properties[name] = Property(kind, value, self._not_writable(name))


def build(machine: MachineControl) -> Node:
    """The tree as it is now."""
    unattached = Node("container", children={"device[0]": Node("icelake-server-x86_64-cpu")})
    for name, shown in machine.devices().items():
        node = unattached.children[name] = Node(name)
        node.add_read_only({}, {key: _json(value) for key, value in shown.items()})
    named, anonymous = Node("container"), Node("container")
    for nvdimm in machine.nvdimms():
        if nvdimm.id is not None:
            named.children[nvdimm.id] = _nvdimm(nvdimm)
        else:
            anonymous.children[f"device[{len(anonymous.children)}]"] = _nvdimm(nvdimm)
    children = {"peripheral": named, "peripheral-anon": anonymous, "unattached": unattached}
    board = Node("pc-q35-machine", children=children)
    board.add_read_only({}, machine.properties())
    objects = {view.config.id: _backend(view) for view in machine.backends()}
    return Node("container", children={"objects": Node("container", children=objects), "machine": board})


def resolve(root: Node, path: str) -> Node:
    """The object at ``path``: absolute, or the end of exactly one path. QmpError when there is none or several."""
    parts = [part for part in path.split("/") if part]
    if path.startswith("/"):
        node: Node | None = root
        for part in parts:
            node = node.children.get(part) if node is not None else None
        if node is None:
            raise device_not_found(path)
        return node
    found = [node for here, node in _walk(root, ()) if parts and here[-len(parts) :] == tuple(parts)]
    if len(found) > 1:
        raise QmpError(f"Path '{path[:64]}' does not uniquely identify an object")
    if not found:
        raise device_not_found(path)
    return found[0]


def _walk(node: Node, here: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Node]]:
    for name, child in node.children.items():
        yield (*here, name), child
        yield from _walk(child, (*here, name))


def _backend(view: BackendView) -> Node:
    node = Node(str(view.config.kind), backend=view.config.id)
    values = as_json(view.config)
    for name, row in PROPERTIES[view.config.kind].items():
        node.properties[name] = Property(QOM[row.kind], values[name], None)
    return node


def _nvdimm(view: NvdimmView) -> Node:
    who = f"device '{view.id}'" if view.id is not None else "anonymous device"
    values = {
        "realized": True,
        "hotplugged": view.hotplugged,
        "hotpluggable": True,
        "memdev": f"/objects/{view.memdev}",
        **{row.name: getattr(view, row.field) for row in NVDIMM_PROPERTIES if row.shown},
        "uuid": str(view.uuid),
        "size": view.size,
    }
    node = Node(NVDIMM)
    for name, value in values.items():
        kind = "link property" if name == "memdev" else "property"
        refusal = f"Attempt to set {kind} '{name}' on {who} (type 'nvdimm') after it was realized"
        if name in _NVDIMM_COMPUTED or name == "hotplugged":
            refusal = f"Property 'nvdimm.{name}' is not writable"
        elif name == "label-size":
            refusal = "cannot change property value"
        elif name == "realized":
            refusal = "nvdimm device hot unplug is not supported yet."
        node.properties[name] = Property(_NVDIMM_TYPES[name], value, refusal)
    return node


def properties_of_type(name: str) -> list[dict[str, str]]:
    """What qom-list-properties says of the type ``name``."""
    if name == NVDIMM:
        types = _NVDIMM_TYPES
    elif name in set(BackendKind):
        types = {key: QOM[row.kind] for key, row in PROPERTIES[BackendKind(name)].items()}
    else:
        raise device_not_found(name)
    return [{"name": "type", "type": "string"}, *({"name": key, "type": kind} for key, kind in types.items())]


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "string" if isinstance(value, str) else "struct"


def _json(value: object) -> Any:
    """``value`` of a device's inspection as JSON: bytes become hexadecimal digits, other unknown things their text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_json(item) for item in value]
    return str(value)
