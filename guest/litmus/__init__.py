"""The litmus tests of the persistence model: short programs, each with the exact set of memories a crash can leave.

``catalogue.txt`` says them in the notation of the papers; this module reads it and turns each into a flat 64-bit guest
of a few dozen bytes, so that the whole way is tested: instructions, Unicorn's callbacks, the log, and the model.

    x=1            8-byte store            x:4=1  x+4:8=1  x:16=1   store of that many bytes, all 01 (16: one SSE store)
    nt x=1         non-temporal store      rep x:16=1  movs x:16=1   REP STOSB, REP MOVSB
    FL FO CW x     CLFLUSH, CLFLUSHOPT, CLWB of the line of x            SF MF LF   fences
    X(z)           XCHG z with 1           ADD(z)  LOCK ADD z, 1         CAS(z,a,b)  LOCK CMPXCHG: if z is a, b
    R x            load

x, x2, x3 share a cache line, y and y2 another; z, w have lines of their own; p and q pages of their own.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ADDRESSES = {"x": 0, "x2": 8, "x3": 16, "y": 64, "y2": 72, "z": 128, "w": 192, "p": 4096, "q": 8192}
SIZE = 12288
LOAD_ADDRESS = 0x100000

_PLACE = re.compile(r"(?P<name>[a-z]\d?)(?:\+(?P<offset>\d+))?(?::(?P<size>\d+))?")
_STORE = re.compile(r"(?:(?P<how>nt|rep|movs) )?(?P<place>[a-z]\d?(?:\+\d+)?(?::\d+)?)=(?P<value>\d)")
_OTHER = re.compile(
    r"(?P<name>FL|FO|CW|R) (?P<place>\w+)|(?P<fence>SF|MF|LF)|(?P<locked>X|ADD|CAS)\((?P<args>[\w,]+)\)"
)


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: ``op`` is store, nt, rep, movs, FL, FO, CW, R, SF, MF, LF, X, ADD or CAS."""

    op: str
    address: int = 0
    data: bytes = b""
    expected: int = 0


@dataclass(frozen=True, slots=True)
class Litmus:
    """One test. ``sets`` maps a mode (``adr``, ``location``, ``eadr``, ``dax``, ``page-cache``, ``cas-load``) to what
    the observed places hold, one digit each.
    """

    name: str
    text: str
    steps: tuple[Step, ...]
    observed: tuple[tuple[int, int], ...]
    sets: dict[str, frozenset[str]]


def place(text: str) -> tuple[int, int]:
    """(offset in the NVDIMM, bytes) of ``x``, ``x+4``, ``x:16`` or ``x+4:8``."""
    match = _PLACE.fullmatch(text)
    assert match, text
    return ADDRESSES[match["name"]] + int(match["offset"] or 0), int(match["size"] or 8)


def parse_step(text: str) -> Step:
    store = _STORE.fullmatch(text)
    if store:
        address, size = place(store["place"])
        value = int(store["value"])
        plain = ":" not in store["place"]
        data = value.to_bytes(8, "little") if plain else bytes([value]) * size
        return Step(store["how"] or "store", address, data)
    match = _OTHER.fullmatch(text)
    assert match, text
    if match["fence"]:
        return Step(match["fence"])
    if match["name"]:
        return Step(match["name"], place(match["place"])[0])
    name, *values = match["args"].split(",")
    expected, value = (int(item) for item in values) if values else (0, 1)
    return Step(match["locked"], place(name)[0], value.to_bytes(8, "little"), expected)


@cache
def catalogue() -> tuple[Litmus, ...]:
    """Every test of ``catalogue.txt``: ``name | program | observed | mode: set | mode: set ...``."""
    tests = []
    for line in Path(__file__).with_name("catalogue.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, text, observed, *sets = (part.strip() for part in line.split("|"))
        tests.append(
            Litmus(
                name,
                text,
                tuple(parse_step(step.strip()) for step in text.split(";")),
                tuple(place(item) for item in observed.split()),
                {mode.strip(): frozenset(values.split()) for mode, _, values in (item.partition(":") for item in sets)},
            )
        )
    return tuple(tests)


def digits(memory: bytes, observed: tuple[tuple[int, int], ...]) -> str:
    """What a memory shows: the largest byte of each observed place."""
    return "".join(str(max(memory[address : address + size])) for address, size in observed)


def assemble(steps: tuple[Step, ...], base: int) -> bytes:
    """A flat 64-bit guest that does ``steps`` on the NVDIMM at guest-physical ``base`` and halts."""
    code = bytearray(b"\x48\xbf" + struct.pack("<Q", base))  # mov rdi, base
    for step in steps:
        code += _encode(step, len(code))
    return bytes(code + b"\xf4")  # hlt


def _encode(step: Step, at: int) -> bytes:
    where = struct.pack("<I", step.address)
    simple = {
        "SF": b"\x0f\xae\xf8",
        "MF": b"\x0f\xae\xf0",
        "LF": b"\x0f\xae\xe8",
        "FL": b"\x0f\xae\xbf" + where,
        "FO": b"\x66\x0f\xae\xbf" + where,
        "CW": b"\x66\x0f\xae\xb7" + where,
        "R": b"\x48\x8b\x87" + where,
    }
    if step.op in simple:
        return simple[step.op]
    rax = b"\x48\xb8" + step.data[:8].ljust(8, b"\0")  # mov rax, data
    if step.op == "X":
        return rax + b"\x48\x87\x87" + where  # xchg [rdi+where], rax
    if step.op == "ADD":
        return b"\xf0\x48\x83\x87" + where + b"\x01"  # lock add qword [rdi+where], 1
    if step.op == "CAS":
        new = b"\x48\xb9" + step.data  # mov rcx, data
        expected = b"\x48\xb8" + struct.pack("<Q", step.expected)
        return new + expected + b"\xf0\x48\x0f\xb1\x8f" + where  # lock cmpxchg [rdi+where], rcx
    if step.op in ("rep", "movs"):
        return _string(step, where, at)
    if len(step.data) == 16:
        fill = rax + b"\x66\x48\x0f\x6e\xc0\x66\x0f\x6c\xc0"  # movq xmm0, rax; punpcklqdq xmm0, xmm0
        return fill + (b"\x66\x0f\xe7\x87" if step.op == "nt" else b"\x0f\x11\x87") + where  # movntdq, movups
    stores = {8: b"\x48\x89\x87", 4: b"\x89\x87", 2: b"\x66\x89\x87", 1: b"\x88\x87"}
    if step.op == "nt":
        stores = {8: b"\x48\x0f\xc3\x87", 4: b"\x0f\xc3\x87"}  # movnti
    return rax + stores[len(step.data)] + where


def _string(step: Step, where: bytes, at: int) -> bytes:
    """REP STOSB, or REP MOVSB of bytes that lie between the instructions."""
    count = struct.pack("<I", len(step.data))
    ready = b"\x48\x89\xfa\x48\x8d\xbf" + where + b"\xb9" + count  # mov rdx, rdi; lea rdi, [rdi+where]; mov ecx, count
    back = b"\x48\x89\xd7"  # mov rdi, rdx
    if step.op == "rep":
        return ready + b"\xb0" + step.data[:1] + b"\xf3\xaa" + back
    jump = b"\xeb" + bytes([len(step.data)])  # over the data
    source = struct.pack("<I", LOAD_ADDRESS + at + len(jump))
    return jump + step.data + ready + b"\xbe" + source + b"\xf3\xa4" + back
