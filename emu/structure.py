"""Binary structures as frozen records: each field carries its place and width, packing and showing derive from them.

All structures here are little-endian. Fields tile a structure without gaps, so what the specification reserves is a
field too: zero by default, kept as read. ``SIZE`` and ``offset_of`` serve documentation and tests. A structure with a
``title`` and a ``section`` can be shown to people; of its fields those are shown that have a title.

The declarations are records (``emu.record``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from emu.errors import UsageError
from emu.hints import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform
from emu.record import NamedTuple, Record

if TYPE_CHECKING:
    from uuid import UUID

_REQUIRED = object()


class LayoutError(UsageError):
    """Bytes that are no such structure: too few of them."""


HEX, DECIMAL, TEXT, GUID, REGISTER, FLAGS = "hex", "decimal", "text", "guid", "register", "flags"
"""How a field is shown: REGISTER is a Generic Address Structure (ACPI 6.4, section 5.2.3.2)."""

_NO_WORDS: Mapping[object, str] = {}


class Field(NamedTuple):
    """What a declaration says about one field; ``code`` is a format of ``struct``, or names a kind of UUID.

    ``title`` is the specification's name, empty for what is not shown; ``words`` name values, or bit numbers of FLAGS.
    """

    offset: int
    code: str
    width: int
    default: Any
    title: str = ""
    show: str = HEX
    words: Mapping[object, str] = _NO_WORDS


def u8(
    offset: int, title: str = "", show: str = HEX, words: Mapping[object, str] = _NO_WORDS, *, default: Any = _REQUIRED
) -> Any:
    return Field(offset, "B", 1, default, title, show, words)


def u16(
    offset: int, title: str = "", show: str = HEX, words: Mapping[object, str] = _NO_WORDS, *, default: Any = _REQUIRED
) -> Any:
    return Field(offset, "H", 2, default, title, show, words)


def u32(
    offset: int, title: str = "", show: str = HEX, words: Mapping[object, str] = _NO_WORDS, *, default: Any = _REQUIRED
) -> Any:
    return Field(offset, "I", 4, default, title, show, words)


def u64(
    offset: int, title: str = "", show: str = HEX, words: Mapping[object, str] = _NO_WORDS, *, default: Any = _REQUIRED
) -> Any:
    return Field(offset, "Q", 8, default, title, show, words)


def octets(
    offset: int, width: int, title: str = "", show: str = TEXT, words: Mapping[object, str] = _NO_WORDS,
    *, default: Any = _REQUIRED,
) -> Any:  # fmt: skip
    """``width`` bytes."""
    return Field(offset, f"{width}s", width, default, title, show, words)


def guid(offset: int, *, default: Any = _REQUIRED) -> Any:
    """A GUID in EFI's mixed-endian byte order (UEFI 2.10, appendix A)."""
    return Field(offset, "guid", 16, default)


def rfc4122(offset: int, *, default: Any = _REQUIRED) -> Any:
    """A UUID in the byte order of RFC 4122."""
    return Field(offset, "uuid", 16, default)


def _to_uuid(code: str, value: bytes) -> UUID:
    from uuid import UUID  # only labels have UUIDs, and a machine starts without reading them

    return UUID(bytes_le=value) if code == "guid" else UUID(bytes=value)


class Structure(Record):
    """Base of all structures; use it through ``@structure``. Equal when type and fields are.

    Class arguments: ``title`` and ``section`` as the specification has them; ``start``, where the fields begin when a
    header of another declaration comes before them; ``element``, the width of the numbers that fill the rest, 0 for
    none; ``newer``, fields that later revisions of the specification append: shown where they are there, never written.
    """

    TITLE: ClassVar[str] = ""
    SECTION: ClassVar[str] = ""
    START: ClassVar[int] = 0
    ELEMENT: ClassVar[int] = 0
    NEWER: ClassVar[tuple[Field, ...]] = ()
    SIZE: ClassVar[int]
    """From the beginning, header included, to the end of the last field."""
    _fields: ClassVar[dict[str, Field]]
    _format: ClassVar[struct.Struct]

    def __init_subclass__(
        cls, *, title: str = "", section: str = "", start: int = 0, element: int = 0, newer: tuple[Field, ...] = ()
    ) -> None:
        super().__init_subclass__(kw_only=True)
        cls.TITLE, cls.SECTION, cls.START, cls.ELEMENT, cls.NEWER = title, section, start, element, newer

    def pack(self) -> bytes:
        """The structure's bytes from ``START`` on; struct.error when a value does not fit its field."""
        values = []
        for name, field in self._fields.items():
            value = getattr(self, name)
            values.append(value.bytes_le if field.code == "guid" else value.bytes if field.code == "uuid" else value)
        return self._format.pack(*values)

    @classmethod
    def unpack_from(cls, data: bytes | memoryview, offset: int = 0) -> Self:
        """The structure that begins at ``offset`` of ``data``; LayoutError when it does not lie wholly inside."""
        if offset < 0 or len(data) - offset < cls.SIZE:
            raise LayoutError(
                f"{cls.__name__} at offset {offset:#x}: expected {cls.SIZE} bytes, found {max(0, len(data) - offset)}",
                "the data is cut short",
            )
        values: dict[str, Any] = {}
        found = cls._format.unpack_from(data, offset + cls.START)
        for (name, field), value in zip(cls._fields.items(), found, strict=True):
            values[name] = _to_uuid(field.code, value) if field.code in ("guid", "uuid") else value
        return cls(**values)

    @classmethod
    def field(cls, name: str) -> Field:
        """The declaration of the field; KeyError when there is no such field."""
        return cls._fields[name]

    @classmethod
    def offset_of(cls, name: str) -> int:
        """Where the field starts; KeyError when there is no such field."""
        return cls._fields[name].offset

    @classmethod
    def shown(cls) -> Iterator[Field]:
        """The fields that have a title, in their order."""
        return (field for field in (*cls._fields.values(), *cls.NEWER) if field.title)


C = TypeVar("C", bound=type[Structure])


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(u8, u16, u32, u64, octets, guid, rfc4122)
)
def structure(cls: C) -> C:
    """Make ``cls`` a frozen keyword-only record and derive its format; ValueError when fields leave a gap."""
    found = {name: value for name, value in vars(cls).items() if isinstance(value, Field)}
    codes, end = ["<"], cls.START
    for name, field in found.items():
        if field.offset != end:
            raise ValueError(f"{cls.__name__}.{name} is declared at {field.offset}, the gap ends at {end}")
        codes.append("16s" if field.code in ("guid", "uuid") else field.code)
        end += field.width
        delattr(cls, name)
    cls.SIZE, cls._fields, cls._names, cls._format = end, found, tuple(found), struct.Struct("".join(codes))
    cls._defaults = {name: field.default for name, field in found.items() if field.default is not _REQUIRED}
    return cls
