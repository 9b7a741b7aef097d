"""Sizes, addresses and booleans as QEMU's users write them: powers of 1024, decimal, hexadecimal or with a suffix."""

from __future__ import annotations

from emu.errors import UsageError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096
CACHE_LINE = 64
U32_MAX = (1 << 32) - 1
U64_MAX = (1 << 64) - 1
# The words that QEMU takes for a boolean (qapi_bool_parse), in lower case only.
BOOLEANS = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}

_SUFFIXES = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
# What may stand behind a number: 64M, 64MB and 64MiB are the same.
_UNITS = {(suffix + more).lower(): unit for suffix, unit in _SUFFIXES.items() for more in ("", "B", "IB")}
_DECIMAL = "0123456789"
_HEXADECIMAL = "0123456789abcdefABCDEF"
_LONGEST = 64


def parse_size(text: str, *, what: str = "size") -> int:
    """Bytes named by ``text`` (``64M``, ``1.5G``, ``0x1000``, ``4096``); UsageError names ``what`` when it is none.

    Like QEMU's size properties a bare number is bytes and suffixes are powers of 1024; a fraction must come to whole
    bytes.
    """
    is_hex = text[:2] in ("0x", "0X")
    behind = text[2:].lstrip(_HEXADECIMAL) if is_hex else text.lstrip(_DECIMAL + ".")
    number = text[: len(text) - len(behind)]
    whole, dot, fraction = number.partition(".")
    unit = _UNITS.get(behind.lower()) if behind.isascii() else None
    is_number = len(number) > 2 if is_hex else bool(whole) and (fraction.isdecimal() or not dot)
    if len(text) > _LONGEST or unit is None or not is_number:
        remedy = "write bytes or a number with K, M, G or T, such as 64M"
        raise UsageError(f"{what}: '{text[:_LONGEST]}' is not a size", remedy)
    if is_hex:
        value = int(number, 16) * unit
    elif dot:
        scaled, rest = divmod(int(fraction) * unit, 10 ** len(fraction))
        if rest:
            raise UsageError(f"{what}: '{text}' is not a whole number of bytes", "write it with a smaller unit")
        value = int(whole) * unit + scaled
    else:
        value = int(number) * unit
    if value > U64_MAX:
        raise UsageError(f"{what}: '{text}' does not fit in 64 bits", "give a smaller size")
    return value


def parse_number(text: str, *, what: str, low: int = 0, high: int = U64_MAX) -> int:
    """The decimal or 0x number ``text``, checked against the closed range ``low``..``high``."""
    negative = text.startswith("-")
    digits = text[1:] if negative else text
    is_hex = digits[:2] in ("0x", "0X")
    figures, known = (digits[2:], _HEXADECIMAL) if is_hex else (digits, _DECIMAL)
    if len(text) > _LONGEST or not figures or figures.strip(known):
        raise UsageError(f"{what}: '{text[:_LONGEST]}' is not a number", "write it in decimal or as 0x hexadecimal")
    value = int(digits, 16 if is_hex else 10)
    if negative:
        value = -value
    if not low <= value <= high:
        raise UsageError(f"{what}: {text} is out of range", f"give a number from {low} to {high}")
    return value


def human_size(size: int) -> str:
    """``size`` in the largest unit that divides it: 67108864 -> '64 MiB', 1000 -> '1000 B'."""
    for unit, name in ((1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def counted(count: int, noun: str, plural: str = "") -> str:
    """'1 store', '2 stores'; ``plural`` where it is not ``noun`` and an s."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of ``alignment`` that is at least ``value``."""
    return -(-value // alignment) * alignment


def align_down(value: int, alignment: int) -> int:
    """The largest multiple of ``alignment`` that is at most ``value``."""
    return value // alignment * alignment
