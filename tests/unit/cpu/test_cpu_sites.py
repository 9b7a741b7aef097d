"""Which instructions count, and where their memory operands are."""

from __future__ import annotations

import pytest

from emu.cpu import registers as r
from emu.cpu.sites import SiteKind, describe_instruction, find_sites

K = SiteKind


@pytest.mark.parametrize(
    ("code", "kind", "detail"),
    [
        ("0fae3f", K.FLUSH, 0),  # clflush [rdi]
        ("660fae3f", K.FLUSH, 1),  # clflushopt
        ("660fae37", K.FLUSH, 2),  # clwb
        ("0faef8", K.FENCE, 0),  # sfence
        ("0faef0", K.FENCE, 1),  # mfence
        ("480fc307", K.NON_TEMPORAL, 0),  # movnti
        ("660fe707", K.NON_TEMPORAL, 0),  # movntdq
        ("0f2b07", K.NON_TEMPORAL, 0),  # movntps
        ("660ff7c1", K.NON_TEMPORAL, 0),  # maskmovdqu
        ("488707", K.LOCKED, 2),  # xchg with memory is always locked
        ("f0480107", K.LOCKED, 2),  # lock add
        ("f0480fb10f", K.LOCKED | K.CAS, 2),
        ("f0480fc70f", K.LOCKED | K.CAS_PAIR, 2),  # lock cmpxchg16b
        ("f3a4", K.REP, 0),
        ("f348ab", K.REP, 0),
        ("0f2907", K.WIDE, 0),  # movaps
        ("0fae07", K.WIDE, 0),  # fxsave
        ("db3f", K.WIDE, 0),  # fstp tword
    ],
)
def test_sites(code: str, kind: SiteKind, detail: int) -> None:
    (site,) = find_sites(bytes.fromhex("90" + code + "90"), 0x1000)
    assert (site.pc, site.length, site.kind, site.detail) == (0x1001, len(code) // 2, kind, detail)


@pytest.mark.parametrize(
    "code", ["488907", "488b07", "0faee8", "4887c8", "f3a6", "480107", "0f2807", "0f0b", "c3", "06"]
)
def test_others_are_none(code: str) -> None:
    assert find_sites(bytes.fromhex(code), 0x1000) == []


def test_memory_operands() -> None:
    (scaled,) = find_sites(bytes.fromhex("0fae7c4f40"), 0)  # clflush [rdi + rcx*2 + 0x40]
    assert (scaled.base, scaled.index, scaled.scale, scaled.displacement) == (r.GENERAL["rdi"], r.GENERAL["rcx"], 2, 64)
    (relative,) = find_sites(bytes.fromhex("0fae3d10000000"), 0x1000)  # clflush [rip + 0x10]
    assert (relative.base, relative.displacement) == (0, 0x1017)
    (gs,) = find_sites(bytes.fromhex("650fae3f"), 0)
    assert gs.segment == r.GS_BASE
    (short,) = find_sites(bytes.fromhex("670fae3f"), 0)  # clflush [edi]
    assert short.address_mask == 0xFFFFFFFF
    (cas,) = find_sites(bytes.fromhex("f00fb10f"), 0)  # lock cmpxchg [rdi], ecx
    assert cas.size == 4


def test_code_of_32_bits() -> None:
    (site,) = find_sites(bytes.fromhex("0fae3f"), 0x1000, 32)
    assert (site.base, site.address_mask) == (23, 0xFFFFFFFF)  # edi


def test_describe() -> None:
    assert describe_instruction(b"\x48\x89\x07\x90", 0) == "mov qword ptr [rdi], rax"
    assert describe_instruction(b"\x06", 0) == ""
