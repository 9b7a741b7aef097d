"""Reads ACPI tables back from bytes or from guest memory, without trusting either, and tells what they say.

Whatever the bytes are, nothing here raises except where it says so: what does not fit is reported as a problem of the
table in which it stands.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emu.acpi.hardware import TABLES_END, TABLES_START
from emu.acpi.layouts import AML_TABLES, BODIES, FACS, HEADER, RSDP, TABLES, Body, Item, Layout, Show
from emu.errors import EmuError, UsageError

Read = Callable[[int, int], bytes]
"""Guest memory: ``read(address, length)`` gives that many bytes or raises EmuError."""

MAX_TABLE = 1 << 20
MAX_TABLES = 256
MAX_STRUCTURES = 4096
_MAX_ELEMENTS = 64
_HEADER_SIZE = 36
_RSDP_SIGNATURE = b"RSD PTR "
_RSDP_V1, _RSDP_V2 = 20, 36
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
        short = ("the table is shorter than 64 bytes",) if len(table) < 64 else ()
        return Decoded("FACS", (_own(FACS, table),), short)
    name = _ascii(table[:4])
    if len(table) < _HEADER_SIZE:
        return Decoded(name, (), (f"{len(table)} bytes are no table: its header has {_HEADER_SIZE}",))
    problems = _check_length_and_sum(table)
    end = min(len(table), int.from_bytes(table[4:8], "little"), MAX_TABLE)
    structures = [_own(HEADER, table)]
    layout = TABLES.get(name)
    if layout is not None:
        structures.append(_own(layout, table[:end]))
    body = BODIES.get(name)
    if body is not None:
        structures += _structures(table[:end], body, problems)
    return Decoded(name, tuple(structures), tuple(problems))


def _check_length_and_sum(table: bytes) -> list[str]:
    length = int.from_bytes(table[4:8], "little")
    if length > len(table):
        return [f"the header says {length} bytes, {len(table)} are there"]
    if length < _HEADER_SIZE:
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
    return Decoded("RSDP", (_own(RSDP, table),), tuple(problems))


def _own(layout: Layout, table: bytes) -> Structure:
    return _structure(layout, None, 0, table)


def _structures(table: bytes, body: Body, problems: list[str]) -> list[Structure]:
    """The structures of ``table`` up to the first whose length cannot be right."""
    found: list[Structure] = []
    at = body.start
    while at < len(table) and len(found) < MAX_STRUCTURES:
        kind = int.from_bytes(table[at : at + body.width], "little")
        length = int.from_bytes(table[at + body.width : at + 2 * body.width], "little")
        if length < 2 * body.width or at + length > len(table):
            problems.append(f"the structure at offset {at} says {length} bytes, {len(table) - at} are left")
            break
        layout = body.structures.get(kind, Layout(f"unknown structure of type {kind}", "", ()))
        found.append(_structure(layout, kind, at, table[at : at + length]))
        at += length
    return found


def _structure(layout: Layout, kind: int | None, offset: int, data: bytes) -> Structure:
    values = []
    for item in layout.items:
        raw = data[item.offset : item.offset + item.size]
        if len(raw) == item.size:
            values.append(_value(item, raw))
    if layout.element is not None:
        first, size = layout.element
        for position in range(first, len(data) - size + 1, size)[:_MAX_ELEMENTS]:
            number = int.from_bytes(data[position : position + size], "little")
            values.append(Value(f"[{(position - first) // size}]", number, f"{number:#x}"))
    return Structure(layout.title, layout.section, kind, offset, len(data), tuple(values))


def _value(item: Item, raw: bytes) -> Value:
    match item.show:
        case Show.TEXT:
            text = _ascii(raw)
            return Value(item.name, text, f"'{text}'")
        case Show.GUID:
            guid = str(uuid.UUID(bytes_le=raw))
            return Value(item.name, guid, guid + _named(item, guid))
        case Show.REGISTER:
            address = int.from_bytes(raw[4:12], "little")
            space = _SPACES.get(raw[0], f"space {raw[0]}")
            return Value(item.name, address, f"{space} {address:#x}, {raw[1]} bits")
    number = int.from_bytes(raw, "little")
    if item.show is Show.FLAGS:
        bits = [bit for bit in range(8 * item.size) if number >> bit & 1]
        words = ", ".join(item.words.get(bit, f"bit {bit}") for bit in bits)
        return Value(item.name, number, f"{number:#x}" + (f" ({words})" if words else ""))
    shown = str(number) if item.show is Show.DECIMAL else f"{number:#x}"
    return Value(item.name, number, shown + _named(item, number))


def _named(item: Item, value: object) -> str:
    return f" ({item.words[value]})" if value in item.words else ""


def _ascii(raw: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in raw)


def describe(table: bytes) -> str:
    """``table`` for people: its structures with the specification's names, sections and values, and its problems."""
    decoded = decode(table)
    lines = [f"{decoded.name}, {len(table)} bytes"]
    lines += [f"  PROBLEM: {problem}" for problem in decoded.problems]
    for structure in decoded.structures:
        where = f", ACPI 6.5 section {structure.section}" if structure.section else ""
        kind = "" if structure.type is None else f" at offset {structure.offset}, type {structure.type}"
        lines.append(f"  {structure.title}{kind}{where}")
        width = max((len(value.name) for value in structure.values), default=0)
        lines += [f"    {value.name:<{width}}  {value.text}" for value in structure.values]
    if decoded.name in AML_TABLES:
        lines.append(f"    AML code  {max(len(table) - _HEADER_SIZE, 0)} bytes")
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
        size = 4 if table.name == "RSDT" else 8
        places: Sequence[int] = range(_HEADER_SIZE, len(data) - size + 1, size)[:MAX_TABLES]
        return [int.from_bytes(data[at : at + size], "little") for at in places]
    if table.name == "FACP":
        fields = ((36, 4), (40, 4), (132, 8), (140, 8))
        numbers = [int.from_bytes(data[at : at + size], "little") for at, size in fields if len(data) >= at + size]
        return [number for number in numbers if number]
    return []
