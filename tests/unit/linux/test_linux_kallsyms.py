"""Names that a kernel carries in itself, from tables made here in each of the forms that releases have."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from emu.boot.elf import MAGIC
from emu.linux import kallsyms
from emu.persistence.report.programs import ProgramSymbols

BASE = 0xFFFF_FFFF_8100_0000
TOKENS = [chr(code) if 0x30 <= code <= 0x7A else f"tok{code:02x}_" for code in range(256)]
NUMBERS = {token: number for number, token in enumerate(TOKENS)}
Symbol = tuple[int, str, str]


def aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def name(text: str) -> bytes:
    """The longest token that fits, then the next: those that stand for more than a letter have six."""
    tokens = []
    while text:
        best = text[:6] if text[:6] in NUMBERS else text[0]
        tokens.append(NUMBERS[best])
        text = text[len(best) :]
    length = len(tokens)
    return (bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7])) + bytes(tokens)


def image(symbols: Sequence[Symbol], form: str, *, per_cpu: bool) -> bytes:
    """What scripts/kallsyms.c writes for ``symbols``, between other things."""
    names = [name(kind + text) for _, kind, text in symbols]
    starts = [sum(map(len, names[:number])) for number in range(0, len(names), 256)]
    relative = [address if address < BASE else BASE - 1 - address for address, _, _ in symbols]
    offsets = relative if per_cpu else [address - BASE for address, _, _ in symbols]
    addresses = aligned(struct.pack(f"<{len(symbols)}i", *offsets)) + struct.pack("<Q", BASE)
    texts = [token.encode() + b"\0" for token in TOKENS]
    parts = [
        aligned(struct.pack("<I", len(names))),
        aligned(b"".join(names)),
        aligned(struct.pack(f"<{len(starts)}I", *starts)),
    ]
    if form == "6.2":
        parts.append(aligned(b"".join(number.to_bytes(3, "big") for number in range(len(names)))))
    tokens = aligned(b"".join(texts)) + struct.pack("<256H", *(sum(map(len, texts[:n])) for n in range(256)))
    rng = random.Random(form)
    decoys = "".join(f"{digit}\0" for digit in range(10)).encode() + rng.randbytes(4000) + b"0\0001\0002\0003\000"
    before, behind = ([], [addresses]) if form == "6.4" else ([addresses], [])
    return aligned(decoys) + b"".join([*before, *parts, tokens, *behind]) + decoys


@pytest.mark.parametrize("per_cpu", [False, True])
@pytest.mark.parametrize("form", ["5.10", "6.2", "6.4"])
def test_functions_are_found_with_their_addresses_and_sizes(form: str, per_cpu: bool) -> None:
    symbols: list[Symbol] = [(0x1000 * n, "A", f"cpu{n}") for n in range(3)] if per_cpu else []
    kinds = "tTdDwWrB"
    symbols += [(BASE + 16 * n, kinds[n % 8], f"tok{n % 48:02x}_{n:05d}" + "x" * (n % 200)) for n in range(1100)]
    expected = [(at, 16, text) for at, kind, text in symbols if kind in "tTwW" and at >= BASE]
    found = kallsyms.table(image(symbols, form, per_cpu=per_cpu))
    assert found is not None
    last = symbols[-1][0]  # nothing says where it ends
    expected = [(at, 16 if at < last else 1, text) for at, _, text in expected]
    assert [found.function(at) for at, _, _ in expected] == expected
    assert [found.function(at + size - 1) for at, size, _ in expected] == expected
    assert [found.function(at) for at, kind, _ in symbols if kind not in "tTwW"] == [None] * (
        len(symbols) - len(expected)
    )
    assert found.function(last + 1) == (None if symbols[-1][1] not in "tTwW" else expected[-1])


def test_of_two_names_for_a_function_one_counts_always() -> None:
    symbols = [(BASE + 32 * (n // 2), "T", f"f{1100 - n:04d}") for n in range(1100)]
    found = kallsyms.table(image(symbols, "6.2", per_cpu=False))
    assert found is not None
    expected = [(at, 32, text) for at, _, text in symbols[:-2:2]]
    assert [found.function(at + 5) for at, _, _ in expected] == expected


@pytest.mark.parametrize("damage", [b"", b"\0" * 100_000, bytes(range(256)) * 300])
def test_an_image_without_names_has_none(damage: bytes) -> None:
    assert kallsyms.table(damage) is None


def test_names_that_do_not_fit_their_markers_are_none() -> None:
    symbols = [(BASE + 16 * n, "T", f"f{n:04d}") for n in range(1100)]
    whole = bytearray(image(symbols, "5.10", per_cpu=False))
    at = whole.index(name("Tf0300"))
    whole[at] += 1
    assert kallsyms.table(bytes(whole)) is None


def test_a_kernel_without_a_system_map_has_names_in_a_report(tmp_path: Path) -> None:
    """Debian's System.map says only which package has the real one."""
    kernel, pointer = tmp_path / "vmlinux-6.1.0", tmp_path / "System.map-6.1.0"
    kernel.write_bytes(
        aligned(MAGIC) + image([(BASE + 16 * n, "T", f"f{n:04d}") for n in range(1100)], "6.2", per_cpu=False)
    )
    pointer.write_text("ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n")
    found = ProgramSymbols({}, b"", str(kernel)).find(BASE + 16 * 700 + 5)
    assert (found.symbol, kallsyms.of_file(str(tmp_path / "missing"))) == ("f0700+0x5", None)
