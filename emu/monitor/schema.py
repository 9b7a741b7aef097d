"""The types of QMP's arguments, answers and events as data: they check values, and describe themselves to clients.

The description is QEMU's ``SchemaInfo`` (docs/devel/qapi-code-gen, "Client introspection"), the answer to
``query-qmp-schema``. Names of types mean nothing there; only commands, events and members can be relied on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from emu.config import OnOffAuto
from emu.monitor.errors import QmpError

_SHOWN = 64
_LONGEST_LIST = 4096


class Type(Protocol):
    """A type of values; ``name`` is unique among the types of one schema."""

    @property
    def name(self) -> str: ...

    def check(self, value: Any, where: str) -> None:
        """QmpError naming ``where`` when ``value`` is not of this type."""

    def parts(self) -> Iterable[Type]:
        """The types that this one is made of."""

    def describe(self) -> dict[str, Any]:
        """Its SchemaInfo, without ``name``."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A builtin type: ``json_type`` as in SchemaInfo. Integers lie in ``low``..``high``; ``c_type`` is for messages."""

    name: str
    json_type: str
    low: int = 0
    high: int = 0
    c_type: str = ""

    def check(self, value: Any, where: str) -> None:
        match self.json_type:
            case "string":
                fits = isinstance(value, str)
            case "boolean":
                fits = isinstance(value, bool)
            case "int":
                fits = type(value) is int
            case "null":
                fits = value is None
            case "number":
                fits = type(value) in (int, float) and math.isfinite(value)
            case _:
                fits = True
        if self.c_type and not (fits and self.low <= value <= self.high):
            raise QmpError(f"Parameter '{where}' expects {self.c_type if fits else 'uint64'}")
        if not fits:
            wanted = {"int": "integer"}.get(self.json_type, self.json_type)
            raise QmpError(f"Invalid parameter type for '{where}', expected: {wanted}")
        if self.json_type == "int" and not self.low <= value <= self.high:
            raise QmpError(f"Parameter '{where}' expects an integer from {self.low} to {self.high}")

    def parts(self) -> Iterable[Type]:
        return ()

    def describe(self) -> dict[str, Any]:
        return {"meta-type": "builtin", "json-type": self.json_type}


@dataclass(frozen=True, slots=True)
class Enum:
    """One of the strings ``values``."""

    name: str
    values: tuple[str, ...]

    def check(self, value: Any, where: str) -> None:
        STR.check(value, where)
        if value not in self.values:
            raise QmpError(f"Parameter '{where}' does not accept value '{value[:_SHOWN]}'")

    def parts(self) -> Iterable[Type]:
        return ()

    def describe(self) -> dict[str, Any]:
        return {
            "meta-type": "enum",
            "members": [{"name": value} for value in self.values],
            "values": list(self.values),
        }


@dataclass(frozen=True, slots=True)
class Array:
    """A list of ``element``."""

    element: Type

    @property
    def name(self) -> str:
        return f"[{self.element.name}]"

    def check(self, value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise QmpError(f"Invalid parameter type for '{where}', expected: array")
        if len(value) > _LONGEST_LIST:
            raise QmpError(f"Parameter '{where}' has more than {_LONGEST_LIST} elements")
        for index, item in enumerate(value):
            self.element.check(item, f"{where}[{index}]")

    def parts(self) -> Iterable[Type]:
        return (self.element,)

    def describe(self) -> dict[str, Any]:
        return {"meta-type": "array", "element-type": self.element.name}


@dataclass(frozen=True, slots=True)
class Alternate:
    """One of ``choices``, told apart by the kind of JSON value."""

    name: str
    choices: tuple[Type, ...]

    def check(self, value: Any, where: str) -> None:
        for choice in self.choices[:-1]:
            try:
                choice.check(value, where)
            except QmpError:
                continue
            return
        self.choices[-1].check(value, where)

    def parts(self) -> Iterable[Type]:
        return self.choices

    def describe(self) -> dict[str, Any]:
        return {"meta-type": "alternate", "members": [{"type": choice.name} for choice in self.choices]}


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object."""

    name: str
    type: Type
    optional: bool = False

    def describe(self) -> dict[str, Any]:
        description: dict[str, Any] = {"name": self.name, "type": self.type.name}
        # A null default says that the member may be left away; it tells nothing about the value then used.
        return description | ({"default": None} if self.optional else {})


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with ``members``. ``open`` objects have more members than they describe (device_add).

    With ``tag`` the value of that member chooses one of ``variants``, whose members come in addition.
    """

    name: str
    members: tuple[Member, ...] = ()
    open: bool = False
    tag: str = ""
    variants: tuple[tuple[str, Struct], ...] = ()

    def check(self, value: Any, where: str = "") -> None:
        if not isinstance(value, dict):
            raise QmpError(f"Invalid parameter type for '{where}', expected: object")
        prefix = f"{where}." if where else ""
        known = {member.name: member for member in self._members_for(value)}
        for name, member in known.items():
            if name in value:
                member.type.check(value[name], prefix + name)
            elif not member.optional:
                raise QmpError(f"Parameter '{prefix}{name}' is missing")
        if not self.open:
            for name in value:
                if name not in known:
                    raise QmpError(f"Parameter '{prefix}{name[:_SHOWN]}' is unexpected")

    def _members_for(self, value: Mapping[str, Any]) -> tuple[Member, ...]:
        chosen = value.get(self.tag) if self.tag else None
        extra = [struct.members for case, struct in self.variants if case == chosen]
        return self.members + (extra[0] if extra else ())

    def parts(self) -> Iterable[Type]:
        yield from (member.type for member in self.members)
        yield from (struct for _, struct in self.variants)

    def describe(self) -> dict[str, Any]:
        description: dict[str, Any] = {
            "meta-type": "object",
            "members": [member.describe() for member in self.members],
        }
        if self.tag:
            variants = [{"case": case, "type": struct.name} for case, struct in self.variants]
            description |= {"tag": self.tag, "variants": variants}
        return description


STR = Scalar("str", "string")
BOOL = Scalar("bool", "boolean")
NUMBER = Scalar("number", "number")
ANY = Scalar("any", "value")
INT = Scalar("int", "int", -(1 << 63), (1 << 63) - 1)
# Introspection knows one integer type; the others differ only in what they accept.
UINT16 = Scalar("int", "int", 0, (1 << 16) - 1, "uint16_t")
UINT32 = Scalar("int", "int", 0, (1 << 32) - 1, "uint32_t")
UINT64 = Scalar("int", "int", 0, (1 << 64) - 1, "uint64")
NULL = Scalar("null", "null")
STR_OR_NULL = Alternate("StrOrNull", (NULL, STR))
ON_OFF_AUTO = Enum("OnOffAuto", tuple(OnOffAuto))
NOTHING = Struct("empty")


def required(name: str, kind: Type) -> Member:
    return Member(name, kind)


def optional(name: str, kind: Type) -> Member:
    return Member(name, kind, optional=True)


def introspect(commands: Mapping[str, tuple[Struct, Type]], events: Mapping[str, Struct]) -> list[dict[str, Any]]:
    """Every command (its arguments' and answer's type), every event, and the types they need, as SchemaInfo."""
    described: dict[str, dict[str, Any]] = {}
    entries: list[dict[str, Any]] = []
    waiting: list[Type] = []
    for name, (arguments, answer) in commands.items():
        entries.append({"name": name, "meta-type": "command", "arg-type": arguments.name, "ret-type": answer.name})
        waiting += (arguments, answer)
    for name, data in events.items():
        entries.append({"name": name, "meta-type": "event", "arg-type": data.name})
        waiting.append(data)
    while waiting:
        kind = waiting.pop()
        if kind.name not in described:
            described[kind.name] = {"name": kind.name, **kind.describe()}
            waiting += kind.parts()
    return entries + list(described.values())
