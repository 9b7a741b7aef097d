"""Random instructions with random operands: what the CPU examiner is asked.

A form is a template in the assembler's Intel syntax. ``{a|b}`` stands for either word; other braces for operands:

    r8 r16 r32 r64      a general register        m8 ... m64 m80 m128  memory        rm8 ... rm64   either
    i8 i16 i32 u8       an immediate              x xm32 xm64 xm128    an XMM register, or memory
    mm mmm64            an MMX register, or memory;    st              ST(0) to ST(6);        cc       a condition

Registers that address memory are given addresses in the arena. ``undefined`` are the flags that the Intel SDM
(volume 2) leaves undefined after the instruction; nothing is asked about these.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.oracle.cpu_machine import ARENA, Case

CF, PF, AF, ZF, SF, DF, OF, AC = 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800, 0x40000
STATUS = CF | PF | AF | ZF | SF | OF
MASK64 = (1 << 64) - 1

_OLD = ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di")
_NEW = tuple(f"r{n}" for n in range(8, 16))
NAMES64 = (*(f"r{name}" for name in _OLD), *_NEW)
"""In the order of their numbers in encodings."""
_NAMES32 = (*(f"e{name}" for name in _OLD), *(f"{name}d" for name in _NEW))
_NAMES16 = (*_OLD, *(f"{name}w" for name in _NEW))
_LOW8 = ("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", *(f"{name}b" for name in _NEW))
_OLD8 = ("al", "cl", "dl", "bl", "ah", "ch", "dh", "bh")
_CONDITIONS = ("o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g")
_PREFIXES = ("rep", "repe", "repne", "lock", "addr32")
_WIDTHS = {8: "byte", 16: "word", 32: "dword", 64: "qword", 80: "tbyte", 128: "xmmword"}
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)

Undefined = int | Callable[["Draft"], int]


@dataclass(frozen=True, slots=True)
class Form:
    """``feature`` is a name of /proc/cpuinfo that host and guest must have ("" for none).

    ``prepare`` changes the drafted state after the operands are chosen; ``reserved`` registers are not used to address
    memory. ``weight`` is how often the form is drawn, relative to others.
    """

    template: str
    feature: str = ""
    undefined: Undefined = 0
    modes: tuple[int, ...] = (64, 32)
    reserved: tuple[int, ...] = ()
    prepare: Callable[[Draft], None] | None = None
    weight: int = 1
    fpu: str = ""
    """What of the FXSAVE image is worth interesting values: "x87", "pending" (an x87 exception is), "sse" or "mmx"."""
    name: str = ""
    """The instruction that is examined, when it is not the first."""


@dataclass(slots=True)
class Draft:
    """A case being made; ``operands`` are what those of the template became."""

    rng: random.Random
    mode: int
    form: Form
    general: list[int]
    memory: bytearray
    flags: int
    text: str = ""
    operands: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """A case and how to judge its answers."""

    case: Case
    form: Form
    mnemonic: str
    undefined: int


def integer(rng: random.Random, bits: int) -> int:
    """A number of ``bits`` bits, often one near an edge."""
    kind = rng.random()
    if kind < 0.4:
        return rng.getrandbits(bits)
    if kind < 0.6:
        return (rng.choice((0, 1 << bits - 1, 1 << bits)) + rng.randrange(-3, 4)) & (1 << bits) - 1
    if kind < 0.8:
        return (1 << rng.randrange(bits)) * rng.choice((1, -1)) & (1 << bits) - 1
    return rng.getrandbits(rng.randrange(1, bits + 1))


def _float_bits(rng: random.Random, exponent_bits: int, fraction_bits: int) -> int:
    """A binary floating-point number with implicit leading bit: often zero, denormal, infinite, NaN or near 1."""
    top = (1 << exponent_bits) - 1
    bias = top >> 1
    kind = rng.randrange(16)
    sign = rng.getrandbits(1) << exponent_bits + fraction_bits
    if kind == 0:
        exponent, fraction = 0, 0
    elif kind == 1:
        exponent, fraction = 0, integer(rng, fraction_bits)
    elif kind == 2:
        exponent, fraction = top, 0
    elif kind == 3:
        exponent, fraction = top, integer(rng, fraction_bits)
    elif kind < 6:
        exponent, fraction = rng.randrange(top + 1), rng.getrandbits(fraction_bits)
    elif kind < 8:
        exponent, fraction = rng.choice((1, 2, top - 1, top - 2, bias)), integer(rng, fraction_bits)
    elif kind < 11:
        places = rng.randrange(fraction_bits)
        exponent, fraction = bias + rng.randrange(-4, 34), integer(rng, fraction_bits) >> places << places
    else:
        exponent, fraction = bias + rng.randrange(-8, 9), rng.getrandbits(fraction_bits)
    return sign | exponent << fraction_bits | fraction


def single(rng: random.Random) -> bytes:
    return struct.pack("<I", _float_bits(rng, 8, 23))


def double(rng: random.Random) -> bytes:
    return struct.pack("<Q", _float_bits(rng, 11, 52))


def extended(rng: random.Random) -> bytes:
    """An 80-bit number; only encodings that a CPU makes (integer bit set, but for zero and denormals)."""
    bits = _float_bits(rng, 15, 63)
    fraction, rest = bits & (1 << 63) - 1, bits >> 63
    return struct.pack("<QH", fraction | (1 << 63 if rest & 0x7FFF else 0), rest)


def _vector(rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    if kind < 2:
        return b"".join(single(rng) for _ in range(4))
    if kind < 4:
        return double(rng) + double(rng)
    if kind == 4:
        return rng.randbytes(16)
    width = rng.choice((8, 16, 32, 64))
    return b"".join(integer(rng, width).to_bytes(width // 8, "little") for _ in range(128 // width))


def _fx(rng: random.Random, fpu: str) -> bytes:
    control, mxcsr, tags = 0x37F, 0x1F80, 0
    status = rng.getrandbits(1) << 8
    registers = [bytes(16)] * 8
    vectors = bytes(256)
    if fpu == "x87":
        control = 0x7F | rng.choice((0x300, 0x300, 0x200, 0)) | rng.choice((0, 0, 0x400, 0x800, 0xC00))
        status = rng.getrandbits(3) << 11 | rng.getrandbits(1) << 14 | rng.getrandbits(3) << 8
        if rng.random() < 0.1:  # some exceptions not masked, none pending
            control &= ~rng.getrandbits(6)
        top = status >> 11 & 7
        tags = 0xFF & ~(1 << (top - 1 & 7))  # ST(7) is empty, so that there is room to push
        registers = [extended(rng).ljust(16, b"\0") for _ in range(8)]
    elif fpu == "mmx":
        tags = 0xFF
        registers = [_vector(rng)[:8] + b"\xff\xff" + bytes(6) for _ in range(8)]
    elif fpu == "pending":
        control, status, tags = 0x37E, 0x8081, 0x7F
    if fpu in ("sse", "mmx"):
        vectors = b"".join(_vector(rng) for _ in range(16))
        mxcsr |= rng.choice((0, 0, 0x2000, 0x4000, 0x6000)) | rng.choice((0, 0, 0, 0x40, 0x8000, 0x8040))
        if rng.random() < 0.1:
            mxcsr &= ~(rng.getrandbits(6) << 7)
    head = struct.pack("<HHB", control, status, tags).ljust(24, b"\0") + struct.pack("<II", mxcsr, 0xFFFF)
    return (head + b"".join(registers) + vectors).ljust(512, b"\0")


class States:
    """Machine states drawn beforehand: many cases share one, which costs no variety where operands vary too."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.rng = rng
        self.general = [[integer(rng, 64) for _ in range(16)] for _ in range(count)]
        self.memory = [b"".join(_vector(rng) for _ in range(16)) for _ in range(count)]
        self.fx = {fpu: [_fx(rng, fpu) for _ in range(count)] for fpu in ("", "x87", "pending", "sse", "mmx")}


def _address(draft: Draft, width: int) -> str:
    """A memory operand in the arena; the registers in it are set. Seldom misaligned where that faults."""
    rng = draft.rng
    offset = rng.randrange(96, 160) if width < 128 or rng.random() < 0.1 else 16 * rng.randrange(6, 10)
    where = ARENA + offset
    size = f"{_WIDTHS[width]} ptr "
    narrow = draft.mode == 32 or rng.random() < 0.1
    names = _NAMES32 if narrow else NAMES64
    free = [n for n in range(16 if draft.mode == 64 else 8) if n not in (*draft.form.reserved, RSP)]
    base, index = rng.sample(free, 2)

    def put(register: int, value: int) -> None:
        old = draft.general[register]
        draft.general[register] = old >> 32 << 32 | value & 0xFFFFFFFF if narrow else value & MASK64

    displacement = rng.choice((0, rng.randrange(-128, 128), rng.randrange(-(1 << 20), 1 << 20)))
    kind = rng.randrange(8)
    if kind == 0 and not draft.form.template.startswith("lea"):
        return f"{size}ds:[{where:#x}]"
    if kind < 5:
        put(base, where - displacement)
        return f"{size}[{names[base]}{displacement:+#x}]"
    scale, count = rng.choice((1, 2, 4, 8)), rng.randrange(-64, 64)
    put(index, count)
    put(base, where - displacement - scale * count)
    return f"{size}[{names[base]}+{names[index]}*{scale}{displacement:+#x}]"


def _without_high_bytes(text: str) -> str:
    """``text`` with AL for AH and so on where a REX prefix forbids those."""
    if re.search(r"\br\d|\b(sp|bp|si|di)l\b|^\w+ r[a-ds]", text):
        return re.sub(r"\b([acdb])h\b", r"\1l", text)
    return text


def _operand(draft: Draft, kind: str) -> str:
    rng = draft.rng
    registers = 16 if draft.mode == 64 else 8
    if match := re.fullmatch(r"(xm|mmm|rm)(\d+)", kind):
        kind = {"xm": "x", "mmm": "mm", "rm": f"r{match[2]}"}[match[1]] if rng.random() < 0.5 else f"m{match[2]}"
    if kind == "r8":
        return rng.choice(_OLD8 if draft.mode == 32 or rng.random() < 0.3 else _LOW8)
    if match := re.fullmatch(r"r(16|32|64)", kind):
        return {"16": _NAMES16, "32": _NAMES32, "64": NAMES64}[match[1]][rng.randrange(registers)]
    if match := re.fullmatch(r"m(\d+)", kind):
        return _address(draft, int(match[1]))
    if match := re.fullmatch(r"i(\d+)", kind):
        bits = int(match[1])
        value = integer(rng, bits)
        return f"{value - (1 << bits) if value >> bits - 1 else value:#x}"
    if kind == "u8":
        return f"{integer(rng, 8):#x}"
    if kind == "x":
        return f"xmm{rng.randrange(registers)}"
    if kind == "mm":
        return f"mm{rng.randrange(8)}"
    if kind == "st":
        return f"st({rng.randrange(7)})"
    assert kind == "cc", kind
    return rng.choice(_CONDITIONS)


def draft(rng: random.Random, form: Form, states: States) -> Question:
    """One case of ``form``."""
    which = rng.randrange(len(states.general))
    mode = rng.choice(form.modes)
    made = Draft(
        rng,
        mode,
        form,
        list(states.general[which]),
        bytearray(rng.choice(states.memory)),
        2 | rng.getrandbits(12) & STATUS,
    )
    template = re.sub(r"\{([^{}]*\|[^{}]*)\}", lambda match: rng.choice(match[1].split("|")), form.template)

    def replace(match: re.Match[str]) -> str:
        made.operands.append(_operand(made, match[1]))
        return made.operands[-1]

    made.text = re.sub(r"\{(\w+)\}", replace, template)
    if form.prepare is not None:
        form.prepare(made)
    if mode == 64:
        made.text = _without_high_bytes(made.text)
    else:
        made.general = [value & 0xFFFFFFFF for value in made.general]
    fx = rng.choice(states.fx[form.fpu])
    undefined = form.undefined if isinstance(form.undefined, int) else form.undefined(made)
    case = Case(made.text, mode, made.general, made.flags, fx, bytes(made.memory))
    mnemonic = form.name or next(word for word in made.text.split() if word not in _PREFIXES)
    return Question(case, form, mnemonic, undefined)
