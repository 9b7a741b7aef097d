"""NFIT and SSDT against QEMU's golden tables, and the parser against what is no NFIT."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.acpi import structures as layouts
from emu.board import map as at
from emu.config import PersistenceDomain
from emu.devices.nvdimm.nfit import NfitEntry, fit, nfit_table, parse
from emu.devices.nvdimm.ssdt import ssdt
from emu.structure import LayoutError


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_golden_nfit() -> None:
    table = nfit_table([NfitEntry(None, 1, 0x108000000, 0x8000000, node=2)], PersistenceDomain.EADR)
    assert (len(table), table[9]) == (240, 0xD5)
    assert sha256(table) == "6a2f220396b936163a88b786a76ebb93e307b8f45547f0174098d2b99875ea33"


@pytest.mark.parametrize(
    ("page", "digest"),
    [
        (0x7FFE000, "446d6657e51164fb9d83a63f0de17e7035b0a5120efcb42771cf6c3df3dcc331"),
        (0x7FFF000, "81511dc3fbced013d6dcd25813e0a809201429be4421acaa10b036a4064dfb90"),
    ],
)
def test_golden_ssdt(page: int, digest: str) -> None:
    table = ssdt(3, page, at.DSM)
    assert len(table) == 1815
    assert table[-10:] == b"\x08MEMA\x0c" + struct.pack("<I", page)
    assert sha256(table) == digest


def test_structures_are_found_again() -> None:
    entries = [NfitEntry("a", 0, 1 << 32, 1 << 24, unarmed=True), NfitEntry("b", 3, 1 << 33, 1 << 25, node=1)]
    found = [item for item, rest in parse(fit(entries, PersistenceDomain.ADR)) if not rest]
    assert [type(item).__name__ for item in found] == [
        "SpaRange", "MemoryMap", "ControlRegion", "SpaRange", "MemoryMap", "ControlRegion", "PlatformCapabilities",
    ]  # fmt: skip
    maps = {item.device_handle: item for item in found if isinstance(item, layouts.MemoryMap)}
    assert maps[1].flags == layouts.MapFlags.NOT_ARMED
    assert (maps[4].flags, maps[4].spa_index, maps[4].control_index, maps[4].region_size) == (0, 8, 9, 1 << 25)
    capabilities = found[-1]
    assert isinstance(capabilities, layouts.PlatformCapabilities)
    assert (capabilities.highest_valid, capabilities.capabilities) == (1, 2)


def test_unknown_structures_are_skipped_and_tails_kept() -> None:
    hints = layouts.FlushHints(length=24, device_handle=1, hints=1, reserved=bytes(6)).pack() + b"12345678"
    assert parse(struct.pack("<HHI", 99, 8, 0) + hints) == [(layouts.FlushHints.unpack_from(hints), b"12345678")]


@pytest.mark.parametrize(
    "data",
    [b"\x00", struct.pack("<HH", 0, 0), struct.pack("<HH", 0, 56), struct.pack("<HH", 99, 3), struct.pack("<HH", 1, 4)],
)
def test_impossible_lengths(data: bytes) -> None:
    with pytest.raises(LayoutError, match="expected"):
        parse(data)


@settings(max_examples=200)
@given(st.randoms(use_true_random=False), st.integers(0, 600))
def test_parser_survives_anything(chance: random.Random, length: int) -> None:
    good = fit([NfitEntry(None, 0, 1 << 32, 1 << 24)], PersistenceDomain.EADR)
    for data in (chance.randbytes(length), bytearray(good)):
        mutated = bytearray(data)
        for _ in range(chance.randint(0, 4)):
            if mutated:
                mutated[chance.randrange(len(mutated))] = chance.getrandbits(8)
        try:
            found = parse(bytes(mutated))
        except LayoutError:
            continue
        assert sum(item.SIZE + len(rest) for item, rest in found) <= len(mutated)
