"""The symbols that a kernel carries in itself, for its own messages: what /proc/kallsyms shows.

Distributions strip their kernels and keep the System.map in another package, but with CONFIG_KALLSYMS the names are in
the image: compressed by a table of 256 tokens, each name one byte of length and as many tokens, the first letter its
type. Where the tables lie no header says, so they are looked for, and what is found must fit together. (The kernel's
scripts/kallsyms.c writes them; up to release 6.3 addresses stand before the names, from 6.4 on behind the tokens.)

A kernel has a hundred thousand names, and few of them are asked for: only those are decoded.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import NamedTuple

from emu.boot import elf, payload
from emu.errors import UsageError

_TOKENS = 256
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
"""Digits stand for themselves, in their places of the table."""
_PER_MARKER = 256
_LONGEST_NAME = 1024
_MOST_NAMES, _FEWEST_MARKERS = 1 << 20, 4
_KERNEL = 0xFFFF_FFFF_8000_0000
_ALIGN = 8
_CODE = frozenset("tTwW")
_LARGEST_GAP = 64


class _Tokens(NamedTuple):
    """The token table begins at ``start``, and behind it ``end`` ends the index of its tokens."""

    texts: tuple[bytes, ...]
    start: int
    end: int


class _Names(NamedTuple):
    """``number`` names begin at ``start``; ``before`` ends what lies before the word that says so. ``markers`` are
    where every 256th begins, from ``start`` on.
    """

    start: int
    number: int
    before: int
    markers: Sequence[int]


class Table(NamedTuple):
    """The symbols of one kernel: their ``addresses``, rising, and where their names are."""

    image: bytes
    tokens: _Tokens
    names: _Names
    addresses: Sequence[int]

    def function(self, address: int) -> tuple[int, int, str] | None:
        """Start, size and name of the function that ``address`` is in; None where it is in none. Of several names the
        last one in the alphabet. An address is where the kernel is linked to (``nokaslr``).
        """
        end = bisect_right(self.addresses, address)
        if not end or address < _KERNEL:
            return None
        start = self.addresses[end - 1]
        begin = bisect_left(self.addresses, start, hi=end)
        names = [name[1:] for name in map(self._name, range(begin, end)) if name[:1] in _CODE]
        following = self.addresses[end] if end < len(self.addresses) else start + 1
        return (start, following - start, max(names)) if names else None

    def _name(self, number: int) -> str:
        at = self.names.start + self.names.markers[number // _PER_MARKER]
        for _ in range(number % _PER_MARKER):
            at, length = _length(self.image, at)
            at += length
        at, length = _length(self.image, at)
        return b"".join(self.tokens.texts[token] for token in self.image[at : at + length]).decode("ascii", "replace")


def table(image: bytes) -> Table | None:
    """The symbols that the kernel ``image`` (an unpacked one) carries; None where it carries none, or in a way that is
    not known here.
    """
    for tokens in _tokens(image):
        for names in _names(image, tokens):
            for addresses in _addresses(image, tokens, names):
                return Table(image, tokens, names, addresses)
    return None


def of_file(path: str) -> Table | None:
    """Those of the kernel at ``path``, an ELF file or a bzImage; None where it cannot be read or unpacked."""
    try:
        data = Path(path).read_bytes()
        image = data if data.startswith(elf.MAGIC) else payload.vmlinux(data, path)
    except (OSError, UsageError):
        return None
    return None if image is None else table(image)


def _align(at: int) -> int:
    return at + -at % _ALIGN


def _tokens(image: bytes) -> Iterator[_Tokens]:
    at = image.find(_DIGITS)
    while at >= 0:
        start = at
        for _ in range(ord("0")):
            start = image.rfind(b"\0", 0, start - 1) + 1
        texts, end = [], start
        for _ in range(_TOKENS):
            stop = image.find(b"\0", end)
            texts.append(image[end:stop])
            end = stop + 1
        offsets = accumulate((len(text) + 1 for text in texts[:-1]), initial=0)
        index = image.find(
            struct.pack(f"<{_TOKENS}H", *(offset & 0xFFFF for offset in offsets)), end, end + 2 * _TOKENS + _LARGEST_GAP
        )
        if index >= 0:
            yield _Tokens(tuple(texts), start, index + 2 * _TOKENS)
        at = image.find(_DIGITS, at + 1)


def _names(image: bytes, tokens: _Tokens) -> Iterator[_Names]:
    """Before the tokens stand markers, where every 256th name begins, before them the names, and their number."""
    for start, markers in chain(_markers(image, tokens.start), _markers_before_order(image, tokens.start)):
        last = start - markers[-1]
        for names in range(last & -_ALIGN, max(last - _PER_MARKER * _LONGEST_NAME, _ALIGN), -_ALIGN):
            (count,) = struct.unpack_from("<I", image, names - _ALIGN)
            if -(-count // _PER_MARKER) == len(markers) and _fits(image, names, count, markers):
                yield _Names(names, count, names - _ALIGN, markers)


def _markers(image: bytes, end: int) -> Iterator[tuple[int, list[int]]]:
    """Rising numbers from 0 on that end at ``end`` or in the gap before it, and where they begin."""
    markers: list[int] = []
    at = end & -4
    while at >= 4 and (not markers or markers[-1]):
        at -= 4
        (value,) = struct.unpack_from("<I", image, at)
        if markers and value >= markers[-1]:
            return
        if value or markers:
            markers.append(value)
    if len(markers) >= _FEWEST_MARKERS:
        yield at, markers[::-1]


def _markers_before_order(image: bytes, end: int) -> Iterator[tuple[int, list[int]]]:
    """The same with the order of the names in between, 3 bytes for each (6.2, and stable releases of 6.1)."""
    for size in range(_FEWEST_MARKERS * 3 * _PER_MARKER, min(3 * _MOST_NAMES, end - _ALIGN), _ALIGN):
        markers = -(-(size // 3) // _PER_MARKER)
        start = end - size - _align(4 * markers)
        if start < _ALIGN or image[start : start + 4] != b"\0\0\0\0" or not _rises(image, start, _FEWEST_MARKERS):
            continue
        if _rises(image, start, markers):
            yield start, list(struct.unpack_from(f"<{markers}I", image, start))


def _rises(image: bytes, start: int, markers: int) -> bool:
    found = struct.unpack_from(f"<{markers}I", image, start)
    return all(0 < b - a <= _PER_MARKER * _LONGEST_NAME for a, b in pairwise(found))


def _fits(image: bytes, start: int, count: int, markers: list[int]) -> bool:
    at = start
    for number in range(count):
        if number % _PER_MARKER == 0 and at - start != markers[number // _PER_MARKER]:
            return False
        if at + 1 >= len(image):
            return False
        at, length = _length(image, at)
        at += length
    return True


def _length(image: bytes, at: int) -> tuple[int, int]:
    """Where the tokens of the name at ``at`` begin, and how many there are: 7 bits a byte, the low ones first."""
    if image[at] & 0x80:
        return at + 2, image[at] & 0x7F | image[at + 1] << 7
    return at + 1, image[at]


def _addresses(image: bytes, tokens: _Tokens, names: _Names) -> Iterator[list[int]]:
    """Offsets, and behind them the base that they are from. Where some are negative, the others are addresses, of
    per-CPU data.
    """
    size = _align(4 * names.number)
    for start in (names.before - _ALIGN - size, _align(tokens.end)):
        if start < 0 or start + size + _ALIGN > len(image):
            continue
        (base,) = struct.unpack_from("<Q", image, start + size)
        offsets = struct.unpack_from(f"<{names.number}i", image, start)
        if min(offsets) < 0:
            addresses = [base - 1 - offset if offset < 0 else offset for offset in offsets]
        else:
            addresses = [base + offset for offset in offsets]
        if base >= _KERNEL and all(a <= b for a, b in pairwise(addresses)):
            yield addresses
