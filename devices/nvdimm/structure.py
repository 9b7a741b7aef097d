"""Binary structures as frozen dataclasses: each field carries its place and width, packing is derived from them.

All structures here are little-endian. Fields tile a structure without gaps, so what the specification reserves is a
field too: zero by default, kept as read. ``SIZE``, ``offset_of`` and the field list serve documentation and tests.
"""

from __future__ import annotations

import dataclasses
import struct
import uuid
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from emu.errors import UsageError

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class LayoutError(UsageError):
    """Bytes that are no such structure: too few of them."""


def _field(offset: int, code: str, width: int, default: Any) -> Any:
    metadata = {"offset": offset, "code": code, "width": width}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def u8(offset: int, *, default: Any = dataclasses.MISSING) -> Any:
    return _field(offset, "B", 1, default)


def u16(offset: int, *, default: Any = dataclasses.MISSING) -> Any:
    return _field(offset, "H", 2, default)


def u32(offset: int, *, default: Any = dataclasses.MISSING) -> Any:
    return _field(offset, "I", 4, default)


def u64(offset: int, *, default: Any = dataclasses.MISSING) -> Any:
    return _field(offset, "Q", 8, default)


def octets(offset: int, width: int, *, default: Any = dataclasses.MISSING) -> Any:
    """``width`` bytes."""
    return _field(offset, f"{width}s", width, default)


def guid(offset: int, *, default: Any = dataclasses.MISSING) -> Any:
    """A GUID in EFI's mixed-endian byte order (UEFI 2.10, appendix A)."""
    return _field(offset, "guid", 16, default)


def rfc4122(offset: int, *, default: Any = dataclasses.MISSING) -> Any:
    """A UUID in the byte order of RFC 4122."""
    return _field(offset, "uuid", 16, default)


class Structure:
    """Base of all structures; use it through ``@structure``."""

    SIZE: ClassVar[int]
    _format: ClassVar[struct.Struct]
    _kinds: ClassVar[tuple[tuple[str, str], ...]]

    def pack(self) -> bytes:
        """The structure's bytes; struct.error when a value does not fit its field."""
        values = []
        for name, code in self._kinds:
            value = getattr(self, name)
            values.append(value.bytes_le if code == "guid" else value.bytes if code == "uuid" else value)
        return self._format.pack(*values)

    @classmethod
    def unpack_from(cls, data: bytes | memoryview, offset: int = 0) -> Self:
        """The structure at ``offset`` of ``data``; LayoutError when it does not lie wholly inside."""
        if offset < 0 or len(data) - offset < cls.SIZE:
            raise LayoutError(
                f"{cls.__name__} at offset {offset:#x}: expected {cls.SIZE} bytes, found {max(0, len(data) - offset)}",
                "the data is cut short",
            )
        values: dict[str, Any] = {}
        for (name, code), value in zip(cls._kinds, cls._format.unpack_from(data, offset), strict=True):
            values[name] = (
                uuid.UUID(bytes_le=value) if code == "guid" else uuid.UUID(bytes=value) if code == "uuid" else value
            )
        return cls(**values)

    @classmethod
    def offset_of(cls, field_name: str) -> int:
        """Where the field starts; KeyError when there is no such field."""
        return int({item.name: item for item in dataclasses.fields(cls)}[field_name].metadata["offset"])  # type: ignore[arg-type]  # every subclass is a dataclass


C = TypeVar("C", bound=type[Structure])


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(u8, u16, u32, u64, octets, guid, rfc4122)
)
def structure(cls: C) -> C:
    """Make ``cls`` a frozen keyword-only dataclass and derive its format; ValueError when fields leave a gap."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    kinds, codes, end = [], ["<"], 0
    for item in dataclasses.fields(made):
        if item.metadata["offset"] != end:
            raise ValueError(
                f"{cls.__name__}.{item.name} is declared at {item.metadata['offset']}, the gap ends at {end}"
            )
        code = item.metadata["code"]
        kinds.append((item.name, code))
        codes.append("16s" if code in ("guid", "uuid") else code)
        end += item.metadata["width"]
    made.SIZE, made._kinds, made._format = end, tuple(kinds), struct.Struct("".join(codes))
    return made  # type: ignore[no-any-return]  # dataclass() gives the class back
