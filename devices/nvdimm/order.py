"""The order in which QEMU's NFIT lists several NVDIMMs.

QEMU walks its device tree, and a node's children come in the order of a GLib hash table of their names: devices with an
id below one node, then those without, named ``device[0]``, ``device[1]``, ... in the order they were plugged. That
order is a pure function of the names and of the order of insertion, which this module computes: GLib 2.60 and later
hash with h = 33 h + c, spread with (11 h mod 2^32) mod p, probe with steps 1, 2, 3, ... and grow when nearly full.
"""

from __future__ import annotations

from collections.abc import Sequence

_MIN_SHIFT = 3
_PRIMES = (1, 2, 3, 7, 13, 31, 61, 127, 251, 509, 1021)  # the largest below each power of two that GLib uses
_MASK = 0xFFFF_FFFF


def string_hash(text: str) -> int:
    """GLib's string hash: 32 bits, characters taken as signed bytes of UTF-8."""
    value = 5381
    for byte in text.encode():
        value = (value * 33 + (byte - 256 if byte > 127 else byte)) & _MASK
    return value if value > 1 else 2  # 0 and 1 mark free places of the table


def table_order(names: Sequence[str]) -> list[str]:
    """``names`` (all different, at most 500) in the order of a hash table that they were inserted into one by one."""
    shift = _MIN_SHIFT
    table: list[str | None] = [None] * (1 << shift)
    for count, name in enumerate(names, 1):
        table[_place(name, [entry is not None for entry in table], shift)] = name
        if len(table) <= count + count // 16:
            shift = int(count * 1.333).bit_length()
            table = _rehash(table, shift)
    return [name for name in table if name is not None]


def _place(name: str, taken: Sequence[bool], shift: int) -> int:
    at = (string_hash(name) * 11 & _MASK) % _PRIMES[shift]
    step = 0
    while taken[at]:
        step += 1
        at = (at + step) & ((1 << shift) - 1)
    return at


def _rehash(old: list[str | None], shift: int) -> list[str | None]:
    """The table grown in place: an entry that finds an unmoved one at its new place evicts that and moves it next."""
    size = 1 << shift
    table = old + [None] * (size - len(old))
    moved = [False] * size
    for start in range(len(old)):
        if moved[start]:
            continue
        name, table[start] = table[start], None
        while name is not None:
            at = _place(name, moved, shift)
            moved[at] = True
            name, table[at] = table[at], name
    return table


def nfit_order(ids: Sequence[str | None]) -> list[int]:
    """Positions of NVDIMMs in the NFIT, given their ids in plug order (None for a device without one)."""
    named = {name: position for position, name in enumerate(ids) if name is not None}
    unnamed = [position for position, name in enumerate(ids) if name is None]
    anonymous = {f"device[{number}]": position for number, position in enumerate(unnamed)}
    return [named[name] for name in table_order(list(named))] + [anonymous[n] for n in table_order(list(anonymous))]
