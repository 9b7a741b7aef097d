"""AML, the byte code of ACPI methods: pure functions that turn terms into bytes (ACPI 6.4, section 20.2).

A term is ``bytes``. Where a term may stand, an ``int`` stands for its shortest integer constant and a ``str`` for a
name or path such as ``"MEMA"`` or ``"\\\\_SB.PCI0"``; a text constant is ``string(...)``. Targets default to the null
name, which means "no target". Every list of terms is joined in order, so ``scope("\\\\_SB", a, b)`` nests as it reads.
Values that cannot be encoded raise ValueError: they are mistakes of the table's author, not input from outside.
"""

from __future__ import annotations

import struct
from functools import cache

from emu.enumeration import IntEnum

Operand = bytes | int | str

ZERO = b"\x00"
ONE = b"\x01"
BREAK = b"\xa5"
CONTINUE = b"\x9f"
NO_TARGET = b"\x00"

_EXT = b"\x5b"
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset("0123456789")
_MAX_PKG_LENGTH = (1 << 28) - 1


class Space(IntEnum):
    """Address space of an operation region (section 20.2.5.2, RegionSpace)."""

    SYSTEM_MEMORY = 0
    SYSTEM_IO = 1
    PCI_CONFIG = 2


class Access(IntEnum):
    """Access width of a field (section 20.2.5.2, AccessType)."""

    ANY = 0
    BYTE = 1
    WORD = 2
    DWORD = 3
    QWORD = 4
    BUFFER = 5


class Update(IntEnum):
    """What happens to the bits around a written field (section 20.2.5.2, UpdateRule)."""

    PRESERVE = 0
    WRITE_AS_ONES = 1
    WRITE_AS_ZEROS = 2


def pkg_length(body: int) -> bytes:
    """PkgLength of a package whose content is ``body`` bytes long: it counts its own bytes too (section 20.2.4)."""
    for extra in range(4):
        total = body + 1 + extra
        if total < (1 << 6 if extra == 0 else 1 << (4 + 8 * extra)):
            return field_length(total, extra)
    raise ValueError(f"a package of {body} bytes exceeds AML's {_MAX_PKG_LENGTH}")


def field_length(value: int, extra: int | None = None) -> bytes:
    """``value`` in PkgLength's format with ``extra`` following bytes (default: the fewest), as field widths have it."""
    if extra is None:
        extra = next((n for n in range(4) if value < (1 << 6 if n == 0 else 1 << (4 + 8 * n))), 4)
    if not 0 <= value <= _MAX_PKG_LENGTH or extra > 3:
        raise ValueError(f"length {value} is outside 0..{_MAX_PKG_LENGTH}")
    if extra == 0:
        return bytes([value])
    return bytes([extra << 6 | value & 0xF]) + (value >> 4).to_bytes(extra, "little")


def _package(opcode: bytes, body: bytes) -> bytes:
    return opcode + pkg_length(len(body)) + body


def _is_segment(text: str) -> bool:
    """Whether it is a NameSeg (section 20.2.2), padding left out."""
    return 1 <= len(text) <= 4 and set(text) <= _LETTERS | _DIGITS | {"_"} and text[0] not in _DIGITS


@cache  # a few names, used again and again
def path(text: str) -> bytes:
    """NameString of ``text``: optional root ``\\`` or parents ``^``, dotted segments of up to four characters."""
    rest = text.lstrip("^") if not text.startswith("\\") else text[1:]
    prefix = text[: len(text) - len(rest)].encode()
    segments = rest.split(".") if rest else []
    if not all(map(_is_segment, segments)) or len(segments) > 255 or not text:
        raise ValueError(f"'{text}' is not an ACPI name")
    encoded = b"".join(segment.ljust(4, "_").encode() for segment in segments)
    if len(segments) > 2:
        return prefix + b"\x2f" + bytes([len(segments)]) + encoded
    return prefix + {0: b"\x00", 1: b"", 2: b"\x2e"}[len(segments)] + encoded


def integer(value: int) -> bytes:
    """The shortest constant for ``value``: ZeroOp, OneOp or Byte-, Word-, DWord-, QWordConst."""
    if value in (0, 1):
        return bytes([value])
    for opcode, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if 0 <= value < 1 << (8 * size):
            return bytes([opcode]) + value.to_bytes(size, "little")
    raise ValueError(f"integer {value} is outside 0..2**64-1")


def dword(value: int) -> bytes:
    """A DWordConst whatever the value: for constants that something patches in place."""
    return b"\x0c" + struct.pack("<I", value)


def string(text: str) -> bytes:
    """A String constant; ASCII without NUL."""
    if "\0" in text or not text.isascii():
        raise ValueError("AML strings are ASCII without NUL")
    return b"\x0d" + text.encode() + b"\0"


def term(value: Operand) -> bytes:
    """``value`` as a term: bytes as they are, an int as a constant, a str as a name."""
    if isinstance(value, bytes):
        return value
    return path(value) if isinstance(value, str) else integer(value)


def _terms(values: tuple[Operand, ...]) -> bytes:
    return b"".join(term(value) for value in values)


def buffer(data: bytes = b"", size: Operand | None = None) -> bytes:
    """A Buffer of ``size`` bytes (default: as long as ``data``) that starts with ``data``."""
    return _package(b"\x11", term(len(data) if size is None else size) + data)


def package(*elements: Operand) -> bytes:
    """A Package of at most 255 elements."""
    return _package(b"\x12", bytes([len(elements)]) + _terms(elements))


def to_uuid(text: str) -> bytes:
    """The Buffer that ASL's ``ToUUID`` makes: the GUID's mixed-endian 16 bytes (section 19.6.142)."""
    raw = bytes.fromhex(text.replace("-", ""))
    return buffer(raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:])


def eisa_id(text: str) -> bytes:
    """The DWordConst that ASL's ``EISAID`` makes of three letters and four hexadecimal digits (section 19.6.36)."""
    if len(text) != 7 or not set(text[:3]) <= _LETTERS or not set(text[3:]) <= _DIGITS | set("ABCDEF"):
        raise ValueError(f"'{text}' is not an EISA id")
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    return b"\x0c" + struct.pack(">HH", a << 10 | b << 5 | c, int(text[3:], 16))


def arg(index: int) -> bytes:
    """Arg0..Arg6 of a method."""
    if not 0 <= index <= 6:
        raise ValueError("methods have Arg0 to Arg6")
    return bytes([0x68 + index])


def local(index: int) -> bytes:
    """Local0..Local7 of a method."""
    if not 0 <= index <= 7:
        raise ValueError("methods have Local0 to Local7")
    return bytes([0x60 + index])


# Named objects (sections 20.2.5.1 and 20.2.5.2)


def name(where: str, value: Operand) -> bytes:
    return b"\x08" + path(where) + term(value)


def scope(where: str, *content: Operand) -> bytes:
    return _package(b"\x10", path(where) + _terms(content))


def device(where: str, *content: Operand) -> bytes:
    return _package(_EXT + b"\x82", path(where) + _terms(content))


def method(where: str, arguments: int, *content: Operand, serialized: bool = False) -> bytes:
    if not 0 <= arguments <= 7:
        raise ValueError("methods take 0 to 7 arguments")
    return _package(b"\x14", path(where) + bytes([arguments | serialized << 3]) + _terms(content))


def operation_region(where: str, space: Space, offset: Operand, length: Operand) -> bytes:
    return _EXT + b"\x80" + path(where) + bytes([space]) + term(offset) + term(length)


def field(
    region: str,
    access: Access,
    *elements: tuple[str | None, int],
    lock: bool = False,
    update: Update = Update.PRESERVE,
) -> bytes:
    """Names parts of a region: ``elements`` are (name, bits) from bit 0 upwards; the name None skips its bits."""
    listed = b"".join((b"\x00" if label is None else path(label)) + field_length(width) for label, width in elements)
    return _package(_EXT + b"\x81", path(region) + bytes([access | lock << 4 | update << 5]) + listed)


def create_field(source: Operand, bit: Operand, bits: Operand, where: str) -> bytes:
    return _EXT + b"\x13" + _terms((source, bit, bits)) + path(where)


def create_dword_field(source: Operand, byte: Operand, where: str) -> bytes:
    return b"\x8a" + _terms((source, byte)) + path(where)


# Statements (section 20.2.5.3)


def if_(condition: Operand, *content: Operand) -> bytes:
    return _package(b"\xa0", term(condition) + _terms(content))


def else_(*content: Operand) -> bytes:
    return _package(b"\xa1", _terms(content))


def while_(condition: Operand, *content: Operand) -> bytes:
    return _package(b"\xa2", term(condition) + _terms(content))


def return_(value: Operand) -> bytes:
    return b"\xa4" + term(value)


def notify(target: Operand, value: Operand) -> bytes:
    return b"\x86" + _terms((target, value))


# Expressions (section 20.2.5.4)


def call(method_name: str, *arguments: Operand) -> bytes:
    """A method call: AML does not say how many arguments follow, so their number must be the method's."""
    return path(method_name) + _terms(arguments)


def store(value: Operand, target: Operand) -> bytes:
    return b"\x70" + _terms((value, target))


def add(left: Operand, right: Operand, target: Operand = NO_TARGET) -> bytes:
    return b"\x72" + _terms((left, right, target))


def concatenate(left: Operand, right: Operand, target: Operand = NO_TARGET) -> bytes:
    return b"\x73" + _terms((left, right, target))


def subtract(left: Operand, right: Operand, target: Operand = NO_TARGET) -> bytes:
    return b"\x74" + _terms((left, right, target))


def increment(target: Operand) -> bytes:
    return b"\x75" + term(target)


def shift_left(value: Operand, count: Operand, target: Operand = NO_TARGET) -> bytes:
    return b"\x79" + _terms((value, count, target))


def deref_of(reference: Operand) -> bytes:
    return b"\x83" + term(reference)


def size_of(value: Operand) -> bytes:
    return b"\x87" + term(value)


def index(source: Operand, position: Operand, target: Operand = NO_TARGET) -> bytes:
    return b"\x88" + _terms((source, position, target))


def object_type(value: Operand) -> bytes:
    return b"\x8e" + term(value)


def logical_and(left: Operand, right: Operand) -> bytes:
    return b"\x90" + _terms((left, right))


def logical_or(left: Operand, right: Operand) -> bytes:
    return b"\x91" + _terms((left, right))


def logical_not(value: Operand) -> bytes:
    return b"\x92" + term(value)


def equal(left: Operand, right: Operand) -> bytes:
    return b"\x93" + _terms((left, right))


def less(left: Operand, right: Operand) -> bytes:
    return b"\x95" + _terms((left, right))


def to_buffer(value: Operand, target: Operand = NO_TARGET) -> bytes:
    return b"\x96" + _terms((value, target))


# Resources (section 6.4)


def resource_template(*descriptors: bytes) -> bytes:
    """The Buffer that ``_CRS`` returns: the descriptors and the end tag (section 6.4.2.9, checksum 0 = not used)."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def io(first: int, last: int, alignment: int, length: int, *, decode16: bool = True) -> bytes:
    """I/O port descriptor: ``length`` ports at an address from ``first`` to ``last`` (section 6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, decode16, first, last, alignment, length)


def irq(line: int) -> bytes:
    """IRQ descriptor without flags: ISA line 0..15, edge, active high, exclusive (section 6.4.2.1)."""
    if not 0 <= line <= 15:
        raise ValueError("ISA interrupts are 0 to 15")
    return struct.pack("<BH", 0x22, 1 << line)
