"""Which instructions count, and where their memory operands are."""

from __future__ import annotations

import pytest

from emu.cpu import registers as r
from emu.cpu.sites import UNKNOWN, SiteKind, describe_instruction, find_sites

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
        ("0f09", K.SPECIAL, 0),  # wbinvd
        ("f30f09", K.SPECIAL, 1),  # wbnoinvd
        ("0f08", K.SPECIAL, 2),  # invd
        ("8ed8", K.WIDE, 0),  # mov ds, eax marks a descriptor
        ("0f0107", K.WIDE, 0),  # sgdt
        ("6c", K.WIDE, 0),  # insb stores twice in Unicorn
    ],
)
def test_sites(code: str, kind: SiteKind, detail: int) -> None:
    (site,) = find_sites(bytes.fromhex("90" + code + "90"), 0x1000)
    assert (site.pc, site.length, site.kind, site.detail) == (0x1001, len(code) // 2, kind, detail)


@pytest.mark.parametrize(
    "code", ["488907", "488b07", "0faee8", "4887c8", "f3a6", "480107", "0f2807", "0f0b", "c3", "660faef8", "f30faef8"]
)
def test_others_are_none(code: str) -> None:
    assert find_sites(bytes.fromhex(code), 0x1000) == []


def test_memory_operands() -> None:
    (scaled,) = find_sites(bytes.fromhex("0fae7c4f40"), 0)  # clflush [rdi + rcx*2 + 0x40]
    assert (scaled.base, scaled.index, scaled.scale, scaled.displacement) == (r.GENERAL["rdi"], r.GENERAL["rcx"], 2, 64)
    (relative,) = find_sites(bytes.fromhex("0fae3d10000000"), 0x1000)  # clflush [rip + 0x10]
    assert (relative.base, relative.displacement) == (0, 0x1017)
    (gs,) = find_sites(bytes.fromhex("650fae3f"), 0)
    assert gs.segment == r.GS + 1
    (short,) = find_sites(bytes.fromhex("670fae3f"), 0)  # clflush [edi]
    assert short.address_mask == 0xFFFFFFFF
    (cas,) = find_sites(bytes.fromhex("f00fb10f"), 0)  # lock cmpxchg [rdi], ecx
    assert cas.size == 4


def test_code_of_32_bits() -> None:
    (site,) = find_sites(bytes.fromhex("0fae3f"), 0x1000, 32)
    assert (site.base, site.address_mask, site.linear_mask) == (23, 0xFFFFFFFF, 0xFFFFFFFF)  # edi
    assert site.segment == r.DS + 1
    (stack,) = find_sites(bytes.fromhex("0fae7d00"), 0x1000, 32)  # clflush [ebp]
    assert stack.segment == r.SS + 1
    (extra,) = find_sites(bytes.fromhex("260fae3f"), 0x1000, 32)  # clflush es:[edi]
    assert extra.segment == r.ES + 1


def test_every_encoding_of_the_fences() -> None:
    """The low bits of their last byte are ignored (Intel SDM volume 2, SFENCE and MFENCE)."""
    for last, name in ((0xE8, None), (0xF0, "mfence"), (0xF8, "sfence")):
        for low in range(8):
            code = bytes((0x0F, 0xAE, last + low))
            for prefix in (b"", b"\x48", b"\x2e", b"\x67"):
                found = [(site.pc, site.mnemonic) for site in find_sites(b"\x90" + prefix + code + b"\x90", 0x1000)]
                assert found == ([(0x1001, name)] if name else []), (prefix + code).hex()


def test_the_search_goes_on_behind_what_cannot_be_decoded() -> None:
    unknown, flush, fence = find_sites(bytes.fromhex("060fae3f0faef9"), 0x1000)
    assert (unknown.pc, unknown.mnemonic) == (0x1000, UNKNOWN)
    assert (flush.pc, flush.mnemonic) == (0x1001, "clflush")
    assert (fence.pc, fence.mnemonic) == (0x1004, "sfence")


def test_describe() -> None:
    assert describe_instruction(b"\x48\x89\x07\x90", 0) == "mov qword ptr [rdi], rax"
    assert describe_instruction(b"\x06", 0) == ""
