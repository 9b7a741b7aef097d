"""What the frames of the stream carry: JSON documents with bounded shape, and saved device state inside them."""

from __future__ import annotations

import base64
import binascii
import json
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from emu.migration.errors import StreamError
from emu.state import SavedState, Value
from emu.units import U64_MAX

MAX_BLOCKS = 264
"""256 NVDIMMs, and RAM."""
MAX_COMPONENTS = 512
"""An NVDIMM is one, and so is each device of the board."""
MAX_FIELDS = 512
MAX_TEXT = 4096
MAX_REASONS = 16
_U128 = 1 << 128
T = TypeVar("T")


def encode_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def decode_json(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in ``data``; StreamError names ``what`` when it is none."""
    try:
        document = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise StreamError(f"migration stream: the {what} is not JSON") from None
    if not isinstance(document, dict):
        raise StreamError(f"migration stream: the {what} is not a JSON object")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(name)


def decode_record(kind: type[T], raw: Any, what: str) -> T:
    """The dataclass ``kind`` that ``dataclasses.asdict`` made ``raw`` of; ``what`` names it in messages.

    StreamError unless exactly its fields are there, each of its type: 64-bit numbers, texts of at most MAX_TEXT
    characters, booleans, dataclasses, any of these or None, and tuples of any number of them up to MAX_BLOCKS.
    """
    types: dict[str, Any] = _types_of(typing.cast("Any", kind))
    if not isinstance(raw, dict) or raw.keys() != types.keys():
        raise StreamError(f"migration stream: the description of the {what} has missing or unknown keys")
    return kind(**{name: _decode_field(types[name], value, name) for name, value in raw.items()})


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode_field(kind: Any, value: Any, name: str) -> Any:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list) or len(value) > MAX_BLOCKS:
            raise StreamError(f"migration stream: {name} is not a list of at most {MAX_BLOCKS}")
        return tuple(_decode_field(arguments[0], item, name) for item in value)
    if arguments:  # "or None", the only other type with arguments
        return None if value is None else _decode_field(arguments[0], value, name)
    if kind is int:
        fits, wanted = type(value) is int and 0 <= value <= U64_MAX, "a 64-bit number"
    elif kind is str:
        fits, wanted = isinstance(value, str) and len(value) <= MAX_TEXT, "a text"
    elif kind is bool:
        fits, wanted = type(value) is bool, "true or false"
    else:
        return decode_record(kind, value, name)
    if not fits:
        raise StreamError(f"migration stream: {name} is not {wanted}")
    return value


def encode_states(states: Mapping[str, SavedState], *, running: bool) -> bytes:
    """The STATE document: the components' states by name, and whether the guest was running when it was stopped."""
    return encode_json(
        {
            "running": running,
            "components": [
                {
                    "name": name,
                    "kind": state.kind,
                    "version": state.version,
                    "fields": {field: _encode_value(name, field, value) for field, value in state.fields.items()},
                }
                for name, state in states.items()
            ],
        }
    )


def _encode_value(component: str, field: str, value: Value) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, (bool, int, str)):
        return value
    items = list(value)
    if any(type(item) is not int for item in items):
        raise StreamError(f"saved state of '{component}': field '{field}' is of a type that cannot travel")
    return items


def decode_states(data: bytes) -> tuple[dict[str, SavedState], bool]:
    """The components' states by name and the running flag of a STATE document; StreamError on anything else."""
    document = decode_json(data, "device state")
    if document.keys() != {"running", "components"} or type(document["running"]) is not bool:
        raise StreamError("migration stream: the device state has missing or unknown keys")
    components = document["components"]
    if not isinstance(components, list) or len(components) > MAX_COMPONENTS:
        raise StreamError("migration stream: the device state is not a list of components")
    states = dict(_decode_component(item) for item in components)
    if len(states) != len(components):
        raise StreamError("migration stream: the device state names a component twice")
    return states, document["running"]


def _decode_component(item: Any) -> tuple[str, SavedState]:
    if not isinstance(item, dict) or item.keys() != {"name", "kind", "version", "fields"}:
        raise StreamError("migration stream: a component of the device state has missing or unknown keys")
    name, kind, version, fields = item["name"], item["kind"], item["version"], item["fields"]
    words = all(isinstance(word, str) and len(word) <= MAX_TEXT for word in (name, kind))
    if not words or type(version) is not int or not isinstance(fields, dict):
        raise StreamError("migration stream: a component of the device state is malformed")
    if len(fields) > MAX_FIELDS:
        raise StreamError(f"migration stream: the state of '{name}' has too many fields")
    return name, SavedState(kind, version, {key: _decode_value(name, key, value) for key, value in fields.items()})


def _decode_value(component: str, field: str, value: Any) -> Value:
    match value:
        case bool() | str():
            return value
        case int() if -_U128 < value < _U128:
            return value
        case list() if all(type(item) is int and -_U128 < item < _U128 for item in value):
            return value
        case {"base64": str(text)} if len(value) == 1:
            try:
                return base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                pass
    raise StreamError(f"migration stream: state of '{component}': field '{field}' has a value of no known type")
