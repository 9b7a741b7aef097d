"""Reads ACPI tables back from bytes or from guest memory, without trusting either, and tells what they say.

Whatever the bytes are, nothing here raises except where it says so: what does not fit is reported as a problem of the
table in which it stands.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emu import structure as declared
from emu.acpi.hardware import TABLES_END, TABLES_START
from emu.acpi.structures import AML_TABLES, BODIES, EDITION, HEADER_SIZE, TABLES, Body, Facs, Fadt, Header, Rsdp
from emu.errors import EmuError, UsageError

Read = Callable[[int, int], bytes]
"""Guest memory: ``read(address, length)`` gives that many bytes or raises EmuError."""

MAX_TABLE = 1 << 20
MAX_TABLES = 256
MAX_STRUCTURES = 4096
_MAX_ELEMENTS = 64
_RSDP_SIGNATURE = b"RSD PTR "
_RSDP_V1, _RSDP_V2 = 20, Rsdp.SIZE
_SPACES = {0: "memory", 1: "I/O", 2: "PCI configuration"}


@dataclass(frozen=True, slots=True)
class Value:
    """One decoded field: its name, the raw number, text or GUID, and how the specification puts it."""

    name: str
    value: int | str
    text: str


@dataclass(frozen=True, slots=True)
class Structure:
    """One structure of a table, or a table's own fields; ``type`` is None for those."""

    title: str
    section: str
    type: int | None
    offset: int
    length: int
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A whole table: its signature, its structures in order, and what is wrong with it."""

    name: str
    structures: tuple[Structure, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A table in guest memory. ``data`` is what could be read of it."""

    name: str
    address: int
    data: bytes


def decode(table: bytes) -> Decoded:
    """Everything that is known of ``table`` (any bytes at all, RSDP and FACS included)."""
    if table.startswith(_RSDP_SIGNATURE):
        return _decode_rsdp(table)
    if table.startswith(b"FACS"):
        short = (f"the table is shorter than {Facs.SIZE} bytes",) if len(table) < Facs.SIZE else ()
        return Decoded("FACS", (_own(Facs, table),), short)
    name = _ascii(table[:4])
    if len(table) < HEADER_SIZE:
        return Decoded(name, (), (f"{len(table)} bytes are no table: its header has {HEADER_SIZE}",))
    problems = _check_length_and_sum(table)
    end = min(len(table), int.from_bytes(table[4:8], "little"), MAX_TABLE)
    structures = [_own(Header, table)]
    kind = TABLES.get(name)
    if kind is not None:
        structures.append(_own(kind, table[:end]))
        if name in BODIES:
            structures += _structures(table[:end], kind.SIZE, BODIES[name], problems)
    return Decoded(name, tuple(structures), tuple(problems))


def _check_length_and_sum(table: bytes) -> list[str]:
    length = int.from_bytes(table[4:8], "little")
    if length > len(table):
        return [f"the header says {length} bytes, {len(table)} are there"]
    if length < HEADER_SIZE:
        return [f"the header says {length} bytes, less than itself"]
    if sum(table[:length]) & 0xFF:
        return ["the checksum is wrong"]
    return []


def _decode_rsdp(table: bytes) -> Decoded:
    problems = []
    if len(table) < _RSDP_V1:
        problems.append(f"the pointer is shorter than {_RSDP_V1} bytes")
    elif sum(table[:_RSDP_V1]) & 0xFF:
        problems.append("the checksum is wrong")
    if len(table) >= _RSDP_V1 and table[15] >= 2:
        if len(table) < _RSDP_V2:
            problems.append(f"the pointer is shorter than {_RSDP_V2} bytes")
        elif sum(table[:_RSDP_V2]) & 0xFF:
            problems.append("the extended checksum is wrong")
    return Decoded("RSDP", (_own(Rsdp, table),), tuple(problems))


def _own(kind: type[declared.Structure], table: bytes) -> Structure:
    return _structure(kind, None, 0, table)


def _structures(table: bytes, start: int, body: Body, problems: list[str]) -> list[Structure]:
    """The structures of ``table`` from ``start`` up to the first whose length cannot be right."""
    found: list[Structure] = []
    at = start
    while at < len(table) and len(found) < MAX_STRUCTURES:
        number = int.from_bytes(table[at : at + body.width], "little")
        length = int.from_bytes(table[at + body.width : at + 2 * body.width], "little")
        if length < 2 * body.width or at + length > len(table):
            problems.append(f"the structure at offset {at} says {length} bytes, {len(table) - at} are left")
            break
        kind = body.structures.get(number)
        if kind is None:
            found.append(Structure(f"unknown structure of type {number}", "", number, at, length, ()))
        else:
            found.append(_structure(kind, number, at, table[at : at + length]))
        at += length
    return found


def _structure(kind: type[declared.Structure], number: int | None, offset: int, data: bytes) -> Structure:
    """What ``data`` holds of the fields that ``kind`` shows: a structure that is cut short has its first ones."""
    values = []
    for field in kind.shown():
        raw = data[field.offset : field.offset + field.width]
        if len(raw) == field.width:
            values.append(_value(field, raw))
    if kind.ELEMENT:
        for position in range(kind.SIZE, len(data) - kind.ELEMENT + 1, kind.ELEMENT)[:_MAX_ELEMENTS]:
            element = int.from_bytes(data[position : position + kind.ELEMENT], "little")
            values.append(Value(f"[{(position - kind.SIZE) // kind.ELEMENT}]", element, f"{element:#x}"))
    return Structure(kind.TITLE, kind.SECTION, number, offset, len(data), tuple(values))


def _value(field: declared.Field, raw: bytes) -> Value:
    match field.show:
        case declared.TEXT:
            text = _ascii(raw)
            return Value(field.title, text, f"'{text}'")
        case declared.GUID:
            guid = str(uuid.UUID(bytes_le=raw))
            return Value(field.title, guid, guid + _named(field, guid))
        case declared.REGISTER:
            address = int.from_bytes(raw[4:12], "little")
            space = _SPACES.get(raw[0], f"space {raw[0]}")
            return Value(field.title, address, f"{space} {address:#x}, {raw[1]} bits")
    number = int.from_bytes(raw, "little")
    if field.show == declared.FLAGS:
        bits = [bit for bit in range(8 * field.width) if number >> bit & 1]
        words = ", ".join(field.words.get(bit, f"bit {bit}") for bit in bits)
        return Value(field.title, number, f"{number:#x}" + (f" ({words})" if words else ""))
    shown = str(number) if field.show == declared.DECIMAL else f"{number:#x}"
    return Value(field.title, number, shown + _named(field, number))


def _named(field: declared.Field, value: object) -> str:
    return f" ({field.words[value]})" if value in field.words else ""


def _ascii(raw: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in raw)


def describe(table: bytes) -> str:
    """``table`` for people: its structures with the specification's names, sections and values, and its problems."""
    decoded = decode(table)
    lines = [f"{decoded.name}, {len(table)} bytes"]
    lines += [f"  PROBLEM: {problem}" for problem in decoded.problems]
    for structure in decoded.structures:
        where = f", {EDITION} section {structure.section}" if structure.section else ""
        kind = "" if structure.type is None else f" at offset {structure.offset}, type {structure.type}"
        lines.append(f"  {structure.title}{kind}{where}")
        width = max((len(value.name) for value in structure.values), default=0)
        lines += [f"    {value.name:<{width}}  {value.text}" for value in structure.values]
    if decoded.name in AML_TABLES:
        lines.append(f"    AML code  {max(len(table) - HEADER_SIZE, 0)} bytes")
    return "\n".join(lines)


# Guest memory


def walk(read: Read, *, rsdp: int | None = None) -> tuple[Found, ...]:
    """All tables that the RSDP leads to, each once, the RSDP first; at most 256 of at most 1 MiB.

    ``rsdp`` None scans the BIOS area. UsageError when there is no RSDP; a pointer that leads nowhere is left out.
    """
    at = _scan(read) if rsdp is None else rsdp
    pointer = _read(read, at, _RSDP_V2) or _read(read, at, _RSDP_V1)
    if len(pointer) < _RSDP_V1 or not pointer.startswith(_RSDP_SIGNATURE):
        raise UsageError(f"no ACPI root pointer at {at:#x}", "boot an image, or name the pointer's address")
    found = [Found("RSDP", at, pointer)]
    seen = {at}
    rsdt = int.from_bytes(pointer[16:20], "little")
    xsdt = int.from_bytes(pointer[24:32], "little") if pointer[15] >= 2 else 0
    queue = [address for address in (xsdt, rsdt) if address]
    while queue and len(found) < MAX_TABLES:
        address = queue.pop(0)
        if address in seen:
            continue
        seen.add(address)
        table = _load(read, address)
        if table is not None:
            found.append(table)
            queue += _pointers(table)
    return tuple(found)


def find(read: Read, name: str, *, rsdp: int | None = None) -> bytes | None:
    """The bytes of the first table called ``name``, None when there is none; raises like ``walk``."""
    return next((table.data for table in walk(read, rsdp=rsdp) if table.name == name), None)


def _read(read: Read, address: int, length: int) -> bytes:
    """The bytes at ``address``, none at all where there is no memory."""
    try:
        return bytes(read(address, length))
    except EmuError:
        return b""


def _scan(read: Read) -> int:
    area = _read(read, TABLES_START, TABLES_END - TABLES_START)
    for at in range(0, len(area), 16):
        candidate = area[at : at + _RSDP_V1]
        if candidate.startswith(_RSDP_SIGNATURE) and not sum(candidate) & 0xFF:
            return TABLES_START + at
    raise UsageError("guest memory holds no ACPI root pointer", "boot an image first: the tables are built then")


def _load(read: Read, address: int) -> Found | None:
    header = _read(read, address, 8)
    if len(header) < 8:
        return None
    length = min(int.from_bytes(header[4:8], "little"), MAX_TABLE)
    return Found(_ascii(header[:4]), address, _read(read, address, length) or header)


def _pointers(table: Found) -> list[int]:
    """Where ``table`` leads to."""
    data = table.data
    if table.name in ("RSDT", "XSDT"):
        kind = TABLES[table.name]
        places: Sequence[int] = range(kind.SIZE, len(data) - kind.ELEMENT + 1, kind.ELEMENT)[:MAX_TABLES]
        return [int.from_bytes(data[at : at + kind.ELEMENT], "little") for at in places]
    if table.name == "FACP":
        fields = [Fadt.field(name) for name in ("facs", "dsdt", "x_facs", "x_dsdt")]
        ends = [(field.offset, field.offset + field.width) for field in fields]
        numbers = [int.from_bytes(data[start:end], "little") for start, end in ends if len(data) >= end]
        return [number for number in numbers if number]
    return []
