"""Fletcher64, the checksum of label areas (UEFI 2.10, section 13.19.2)."""

from __future__ import annotations

import struct
from itertools import accumulate


def fletcher64(data: bytes) -> int:
    """The checksum of ``data``, whose length is a multiple of four: two 32-bit sums over little-endian 32-bit words.

    The low half sums the words, the high half sums the low half's values after each word.
    """
    words: tuple[int, ...] = struct.unpack(f"<{len(data) // 4}I", data)
    return (sum(accumulate(words)) & 0xFFFF_FFFF) << 32 | sum(words) & 0xFFFF_FFFF
