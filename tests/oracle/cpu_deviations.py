"""Where the guest's CPU is known to differ from a real one: the list that docs/reference/cpu.md publishes.

The examiner accepts nothing else. Each entry has a case that shows it, so that none outlives its deviation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from tests.oracle.cpu_cases import NAMES64, Question
from tests.oracle.cpu_machine import ARENA, Case, Result

X87_MASKS = 0x3F


def fx(
    control: int = 0x37F, status: int = 0, tags: int = 0, mxcsr: int = 0x1F80, st0: bytes = b"", xmm0: bytes = b""
) -> bytes:
    """An FXSAVE image with zero in all other registers."""
    head = struct.pack("<HHB", control, status, tags).ljust(24, b"\0") + struct.pack("<II", mxcsr, 0xFFFF)
    return (head + st0.ljust(128, b"\0") + xmm0).ljust(512, b"\0")


def case(
    text: str, *, mode: int = 64, flags: int = 2, image: bytes | None = None, memory: bytes = b"", **registers: int
) -> Case:
    """RSP points into the arena, RDI at its start; other registers are zero unless named."""
    values = {"rsp": ARENA + 128, "rdi": ARENA} | registers
    general = [values.get(name, 0) for name in NAMES64]
    return Case(text, mode, general, flags, image or fx(), memory.ljust(256, b"\0"))


class Deviation(NamedTuple):
    """``shown`` says whether the results of ``case`` differ in the way listed.

    ``covers`` says whether a difference that the examiner found is this one; None for what random cases do not meet.
    """

    case: Case
    shown: Callable[[Result, Result], bool]
    covers: Callable[[Question, Result, Result, list[str]], bool] | None = None


def _unmasked_x87_store(question: Question, host: Result, guest: Result, what: list[str]) -> bool:
    (control,) = struct.unpack_from("<H", question.case.fx)
    stores = question.mnemonic.startswith(("fst", "fist", "fbst")) and "ptr" in question.case.text
    return stores and control & X87_MASKS != X87_MASKS and "memory" in what


_SIGNALING = bytes.fromhex("0100000000000080ff7f")

LISTED = {
    "x87-store-unmasked": Deviation(
        case("fst dword ptr [rdi]", image=fx(0x37E, tags=1, st0=_SIGNALING)),
        lambda host, guest: host.memory == bytes(256) and guest.memory != bytes(256),
        _unmasked_x87_store,
    ),
    "x87-pointers": Deviation(
        case("fld1\nfnstenv [rdi]", image=fx()),
        lambda host, guest: host.memory[12:16] != bytes(4) == guest.memory[12:16],
    ),
    "canonical-end": Deviation(
        case("mov eax, [rcx]", rcx=(1 << 47) - 2), lambda host, guest: (host.vector, guest.vector) == (13, 14)
    ),
    "branch-not-canonical": Deviation(
        case("call rax", rax=1 << 62),
        lambda host, guest: host.vector == guest.vector == 13 and host.rip != guest.rip == 1 << 62,
    ),
}


def is_listed(question: Question, host: Result, guest: Result, what: list[str]) -> bool:
    return any(entry.covers and entry.covers(question, host, guest, what) for entry in LISTED.values())
