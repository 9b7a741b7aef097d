"""The symbols that a kernel carries in itself, for its own messages: what /proc/kallsyms shows.

Distributions strip their kernels and keep the System.map in another package, but with CONFIG_KALLSYMS the names are in
the image: compressed by a table of 256 tokens, each name one byte of length and as many tokens, the first letter its
type. Where the tables lie no header says, so they are looked for, and what is found must fit together. (The kernel's
scripts/kallsyms.c writes them; up to release 6.3 addresses stand before the names, from 6.4 on behind the tokens.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
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
    """``number`` names begin at ``start``; ``before`` ends what lies before the word that says so."""

    start: int
    number: int
    before: int


def functions(image: bytes) -> list[tuple[int, int, str]]:
    """Address, size and name of each function of the kernel ``image`` (an unpacked one), by address; none where it
    carries none, or in a way that is not known here. An address is where the kernel is linked to (``nokaslr``).
    """
    for tokens in _tokens(image):
        for names in _names(image, tokens):
            for addresses in _addresses(image, tokens, names):
                found = list(_decode(image, tokens, names))
                code = sorted({(address, name[1:]) for address, name in zip(addresses, found, strict=True)
                               if name[:1] in _CODE and address >= _KERNEL})  # fmt: skip
                ends = sorted(address for address in set(addresses) if address >= _KERNEL)
                following = dict(pairwise(ends))
                return [(address, following.get(address, address) - address, name) for address, name in code]
    return []


def of_file(path: str) -> list[tuple[int, int, str]]:
    """The functions of the kernel at ``path``, an ELF file or a bzImage; none where it cannot be read or unpacked."""
    try:
        data = Path(path).read_bytes()
        image = data if data.startswith(elf.MAGIC) else payload.vmlinux(data, path)
    except (OSError, UsageError):
        return []
    return [] if image is None else functions(image)


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
                yield _Names(names, count, names - _ALIGN)


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


def _decode(image: bytes, tokens: _Tokens, names: _Names) -> Iterator[str]:
    at = names.start
    for _ in range(names.number):
        at, length = _length(image, at)
        yield b"".join(tokens.texts[token] for token in image[at : at + length]).decode("ascii", "replace")
        at += length


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
