"""How QMP and QOM take the values of properties: once for each kind of value (emu.config has the properties)."""

from __future__ import annotations

from emu.config import Kind, Policy
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
    Type,
)

QMP: dict[Kind, Type] = {
    Kind.IDENTIFIER: STR,
    Kind.PATH: STR,
    Kind.UUID: STR,
    Kind.SIZE: UINT64,
    Kind.ADDRESS: UINT64,
    Kind.NUMBER: UINT32,
    Kind.SLOT: INT,
    Kind.NODE: UINT32,
    Kind.HOST_NODES: Array(UINT16),
    Kind.FLAG: BOOL,
    Kind.FLAG_OR_AUTO: Alternate("BoolOrOnOffAuto", (BOOL, ON_OFF_AUTO)),
    Kind.ON_OFF_AUTO: ON_OFF_AUTO,
    Kind.POLICY: Enum("HostMemPolicy", tuple(Policy)),
}
QOM = {
    Kind.IDENTIFIER: "string",
    Kind.PATH: "string",
    Kind.UUID: "QemuUUID",
    Kind.SIZE: "int",
    Kind.ADDRESS: "uint64",
    Kind.NUMBER: "int",
    Kind.SLOT: "int32",
    Kind.NODE: "uint32",
    Kind.HOST_NODES: "int",
    Kind.FLAG: "bool",
    Kind.FLAG_OR_AUTO: "bool",
    Kind.ON_OFF_AUTO: "OnOffAuto",
    Kind.POLICY: "HostMemPolicy",
}
"""The names of QOM's types. A list of nodes is an "int" there too."""
