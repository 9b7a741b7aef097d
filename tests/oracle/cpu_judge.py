"""What differs between two results of one case, as far as the architecture says that they must be equal."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

from tests.oracle.cpu_cases import AC, DF, NAMES64, STATUS, Question
from tests.oracle.cpu_machine import Result

_FLAGS = {1: "CF", 4: "PF", 0x10: "AF", 0x40: "ZF", 0x80: "SF", 0x400: "DF", 0x800: "OF", AC: "AC"}
_STATUS_WORD = {
    1: "IE", 2: "DE", 4: "ZE", 8: "OE", 0x10: "UE", 0x20: "PE", 0x40: "SF", 0x80: "ES",
    0x100: "C0", 0x200: "C1", 0x400: "C2", 0x3800: "TOP", 0x4000: "C3", 0x8000: "B",
}  # fmt: skip
_MXCSR = {1: "IE", 2: "DE", 4: "ZE", 8: "OE", 0x10: "UE", 0x20: "PE", 0xFFC0: "control"}

_ZF = 0x40
_C1, _CONDITIONS = 0x200, 0x4700
_UNASKED_STATUS = {"ffree": _CONDITIONS} | dict.fromkeys(("fcomi", "fcomip", "fucomi", "fucomip"), _C1)
"""Undefined (SDM volume 2, FFREE), or known to differ between makers: FCOMI clears C1 (Intel) or keeps it (AMD)."""

RECIPROCAL_ERROR = 1.5 * 2**-12
"""Largest relative error of RCPPS, RCPSS, RSQRTPS and RSQRTSS (Intel SDM volume 2)."""
SMALLEST_NORMAL = 2.0**-126
_RECIPROCALS = ("rcpps", "rcpss", "rsqrtps", "rsqrtss")


def _bits(name: str, names: dict[int, str], host: int, guest: int) -> Iterator[str]:
    for mask, label in names.items():
        if (host ^ guest) & mask:
            yield f"{name}.{label}"


def _close(host: bytes, guest: bytes) -> bool:
    """Each of four singles is equal, or both lie as near to the exact value as a reciprocal must."""
    for mine, theirs in zip(struct.unpack("<4f", host), struct.unpack("<4f", guest), strict=True):
        if math.isnan(mine) and math.isnan(theirs):
            continue
        if 0 in (mine, theirs) and max(abs(mine), abs(theirs)) <= SMALLEST_NORMAL * (1 + RECIPROCAL_ERROR):
            continue  # just where results become too small, CPUs may differ
        if abs(mine - theirs) > 2 * RECIPROCAL_ERROR * abs(mine) if math.isfinite(mine) else mine != theirs:
            return False
    return True


def differences(question: Question, host: Result, guest: Result) -> list[str]:
    """Names of what differs: ``rax``, ``flags.CF``, ``mxcsr.PE``, ``status.C1``, ``st0``, ``xmm3``, ``memory`` ..."""
    return list(_differences(question, host, guest))


def _differences(question: Question, host: Result, guest: Result) -> Iterator[str]:
    if host.vector != guest.vector:
        yield f"exception {guest.vector} instead of {host.vector}"
        return
    if (host.rip, host.error) != (guest.rip, guest.error):
        yield "rip or error code"
    wide = question.case.mode == 64
    if question.mnemonic in ("bsf", "bsr") and host.flags & guest.flags & _ZF:
        wide = False  # without a bit set the result is undefined; CPUs differ about the upper half (SDM volume 2, BSF)
    for n, name in enumerate(NAMES64[: 16 if question.case.mode == 64 else 8]):
        if (host.general[n] ^ guest.general[n]) & (0xFFFFFFFFFFFFFFFF if wide else 0xFFFFFFFF):
            yield name
    asked = (STATUS | DF | AC) & ~question.undefined
    yield from _bits("flags", _FLAGS, host.flags & asked, guest.flags & asked)
    if host.memory != guest.memory:
        yield "memory"
    if host.fx != guest.fx:
        yield from _floating(question, host.fx, guest.fx)


def _floating(question: Question, host: bytes, guest: bytes) -> Iterator[str]:
    """Not asked: the last instruction's address and opcode, which CPUs keep differently, and MXCSR_MASK."""
    if host[0:2] != guest[0:2]:
        yield "control"
    asked = ~_UNASKED_STATUS.get(question.mnemonic, 0)
    yield from _bits("status", _STATUS_WORD, *(struct.unpack_from("<H", fx, 2)[0] & asked for fx in (host, guest)))
    if host[4] != guest[4]:
        yield "tags"
    yield from _bits("mxcsr", _MXCSR, *(struct.unpack_from("<I", fx, 24)[0] for fx in (host, guest)))
    for n in range(8):
        at = 32 + 16 * n
        if host[at : at + 10] != guest[at : at + 10]:
            yield f"st{n}"
    for n in range(16):
        at = 160 + 16 * n
        mine, theirs = host[at : at + 16], guest[at : at + 16]
        if mine != theirs and not (question.mnemonic in _RECIPROCALS and _close(mine, theirs)):
            yield f"xmm{n}"
