"""The instructions that the CPU examiner knows, as forms of ``cpu_cases``; after the Intel SDM, volume 2."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.oracle.cpu_cases import (
    AF,
    CF,
    DF,
    MASK64,
    OF,
    PF,
    RAX,
    RBP,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    SF,
    STATUS,
    ZF,
    Draft,
    Form,
    integer,
)  # fmt: skip
from tests.oracle.cpu_machine import ARENA

_WIDTHS = ("8", "16", "32", "64")


def _by_width(template: str, widths: tuple[str, ...] = _WIDTHS, **options: object) -> list[Form]:
    """``template`` with W replaced by each width; 64 bits only in 64-bit mode."""
    return [
        Form(template.replace("W", width), modes=(64,) if width == "64" else (64, 32), **options)  # type: ignore[arg-type]
        for width in widths
    ]


def _immediate(template: str, **options: object) -> list[Form]:
    """As ``_by_width``, with I replaced by the widest immediate of that width."""
    return [
        form
        for width in _WIDTHS
        for form in _by_width(template.replace("I", {"64": "32"}.get(width, width)), (width,), **options)
    ]


def _count(draft: Draft) -> tuple[int, int]:
    """Shift count as the CPU masks it, and operand width in bits."""
    text = draft.text
    *_, last = text.split(",")
    last = last.strip()
    value = 1
    if "," in text:
        value = draft.general[RCX] & 0xFF if last == "cl" else int(last, 0)
    width = int(draft.form.template.partition("rm")[2].partition("}")[0])
    return value & (63 if width == 64 else 31), width


def _shift_undefined(draft: Draft) -> int:
    count, width = _count(draft)
    if not count:
        return 0
    return AF | (OF if count != 1 else 0) | (CF if count >= width and not draft.text.startswith("sar") else 0)


def _rotate_undefined(draft: Draft) -> int:
    count, _ = _count(draft)
    return OF if count > 1 else 0


def _double_shift_undefined(draft: Draft) -> int:
    count, _ = _count(draft)
    return (AF | (OF if count != 1 else 0)) if count else 0


def _double_shift_defined(draft: Draft) -> None:
    """A count above the width leaves the result undefined, so 16-bit forms stay below."""
    if "{rm16}" in draft.form.template:
        draft.general[RCX] &= ~0x10
        head, _, last = draft.text.rpartition(",")
        if last.strip() != "cl":
            draft.text = f"{head}, {int(last, 0) & ~0x10:#x}"


def _near(register: int) -> Callable[[Draft], None]:
    """A bit offset in a register reaches beyond the operand in memory: within 256 bits of it."""

    def prepare(draft: Draft) -> None:
        draft.general[register] = draft.rng.randrange(-256, 256) & MASK64

    return prepare


def _few_shifts(draft: Draft) -> None:
    draft.general[RCX] = draft.general[RCX] & ~0xFF | draft.rng.choice(
        (draft.rng.randrange(64), draft.rng.randrange(256))
    )


def _quotient_fits(draft: Draft) -> None:
    """Mostly: the rest ends in a divide error."""
    if draft.rng.random() < 0.9:
        draft.general[RAX] &= draft.rng.choice((0xFF, 0x7FFF, MASK64 >> 1))
        draft.general[RDX] = 0


def _stack(draft: Draft) -> None:
    draft.general[RSP] = ARENA + 128 + draft.rng.choice((0, 0, 0, 2, 5))
    draft.general[RBP] = ARENA + 192


def _flags_on_stack(draft: Draft) -> None:
    _stack(draft)
    image = draft.rng.getrandbits(12) & (STATUS | DF)
    at = draft.general[RSP] - ARENA
    draft.memory[at : at + 8] = image.to_bytes(8, "little")


def _strings(draft: Draft) -> None:
    draft.general[RSI] = ARENA + draft.rng.randrange(96, 160)
    draft.general[RDI] = ARENA + draft.rng.randrange(96, 160)
    draft.general[RCX] = draft.rng.randrange(12) | (draft.general[RCX] >> 32 << 32 if "addr32" in draft.text else 0)
    draft.flags |= draft.rng.choice((0, DF))
    if draft.rng.random() < 0.5:  # let comparisons go on for a while
        draft.memory[:] = bytes([draft.general[RAX] & 0xFF]) * len(draft.memory)
        draft.general[RAX] = (draft.general[RAX] & 0xFF) * 0x0101010101010101
        draft.memory[draft.rng.randrange(256)] ^= 1


def _expected(draft: Draft) -> None:
    """Let the accumulator of CMPXCHG equal the destination in half of the cases."""
    if draft.rng.random() < 0.5:
        wide = "16b" in draft.text
        values = [integer(draft.rng, 64 if wide else 32) for _ in range(2)]
        for register, value in zip((RAX, RDX), values, strict=True):
            draft.general[register] = value if wide else draft.general[register] >> 32 << 32 | value
        step = 8 if wide else 4
        unit = values[0].to_bytes(step, "little") + values[1].to_bytes(step, "little")
        draft.memory[:] = (unit * 256)[:256]


def _equal_or_not(draft: Draft) -> None:
    if draft.rng.random() < 0.5:
        byte = draft.general[RAX] & 0xFF
        draft.memory[:] = bytes([byte]) * 256
        draft.general[RAX] = draft.general[RAX] >> 32 << 32 | byte * 0x01010101
        if draft.rng.random() < 0.5:
            draft.general[RAX] = byte * 0x0101010101010101


def _table_at_rbx(draft: Draft) -> None:
    draft.general[RBX] = ARENA


def _destination_at_rdi(draft: Draft) -> None:
    draft.general[RDI] = ARENA + draft.rng.randrange(96, 160)


def _environment(draft: Draft) -> None:
    """An x87 state in memory (SDM volume 1, figures 8-9 and 8-11): all exceptions masked, any tags, any TOP."""
    draft.general[RDI] = ARENA
    control, status = 0x7F | draft.rng.getrandbits(2) << 10 | 0x300, draft.rng.getrandbits(16) & 0x7F3F
    draft.memory[:12] = struct.pack("<3I", 0xFFFF0000 | control, 0xFFFF0000 | status, draft.rng.getrandbits(16))


def _masked_control(draft: Draft) -> None:
    draft.memory[:] = struct.pack("<H", 0x7F | draft.rng.getrandbits(4) << 8) * 128
    draft.memory[:] = bytes(byte | 0x3F for byte in draft.memory)


def _legal_mxcsr(draft: Draft) -> None:
    """Mostly: bits above 16 must be zero; AMD's has bit 17, which is never asked for."""
    draft.memory[:] = bytes(byte & ~2 for byte in draft.memory)
    if draft.rng.random() < 0.9:
        draft.memory[:] = bytes([0x5F, 0, 0, 0]) * 64


def _whole_state(draft: Draft) -> None:
    draft.general[RDI] = ARENA
    draft.memory[:] = bytes(len(draft.memory))  # reserved fields are left alone or cleared


def _pointers(draft: Draft) -> None:
    """A stack, and room for far pointers at RDI."""
    _stack(draft)
    draft.general[RDI] = ARENA


# To another place and to other code and back, by each kind of pointer; 33h and 23h are 64-bit and 32-bit code.
_POINTER = "lea eax, [rip+1f]\nmov [rdi], eax\nmov word ptr [rdi+4], 0x33\n"
FAR: list[Form] = [
    Form("lea rax, [rip+1f]\npush rax\nret {0|8|16}\nnot ecx\n1:", modes=(64,), prepare=_stack, name="ret"),
    Form(
        "push 0x33\nlea rax, [rip+1f]\npush rax\n.byte 0x48, {0xcb, 0x90, 0x90|0xca, 0x08, 0x00}\nnot ecx\n1:",
        modes=(64,), prepare=_stack, name="retfq",
    ),
    Form(_POINTER + "{call|jmp} fword ptr [rdi]\nnot ecx\n1:", modes=(64,), prepare=_pointers, name="far"),
    Form(
        _POINTER.replace("0x33", "0x23") + "lea eax, [rip+2f]\nmov [rdi+8], eax\nmov word ptr [rdi+12], 0x33\n"
        # inc eax; add ax, cx; jmp far [edi+8]: 32-bit code, whatever the assembler thinks
        "jmp fword ptr [rdi]\n1: .byte 0x40, 0x66, 0x01, 0xc8, 0xff, 0x6f, 0x08\n2:",
        modes=(64,), prepare=_pointers, name="compatibility",
    ),
]  # fmt: skip

_ARITHMETIC = "{add|adc|sub|sbb|cmp}"
_LOGIC = "{and|or|xor}"
_SHIFT, _ROTATE = "{shl|shr|sar}", "{rol|ror|rcl|rcr}"

INTEGER: list[Form] = [
    *_by_width(_ARITHMETIC + " {rmW}, {rW}"),
    *_by_width(_ARITHMETIC + " {rW}, {mW}"),
    *_immediate(_ARITHMETIC + " {rmW}, {iI}"),
    *_by_width("lock {add|adc|sub|sbb} {mW}, {rW}"),
    *_by_width(_LOGIC + " {rmW}, {rW}", undefined=AF),
    *_by_width(_LOGIC + " {rW}, {mW}", undefined=AF),
    *_immediate(_LOGIC + " {rmW}, {iI}", undefined=AF),
    *_by_width("lock {and|or|xor} {mW}, {rW}", undefined=AF),
    *_by_width("test {rmW}, {rW}", undefined=AF),
    *_immediate("test {rmW}, {iI}", undefined=AF),
    *_by_width("{inc|dec|neg|not} {rmW}"),
    *_by_width("lock {inc|dec|neg|not} {mW}"),
    *_by_width("{mul|imul} {rmW}", undefined=SF | ZF | AF | PF),
    *_by_width("imul {rW}, {rmW}", ("16", "32", "64"), undefined=SF | ZF | AF | PF),
    *[f for f in _immediate("imul {rW}, {rmW}, {iI}", undefined=SF | ZF | AF | PF) if "{r8}" not in f.template],
    *_by_width("{div|idiv} {rmW}", undefined=STATUS, reserved=(RAX, RDX), prepare=_quotient_fits),
    *_by_width(_SHIFT + " {rmW}, {u8}", undefined=_shift_undefined),
    *_by_width(_SHIFT + " {rmW}, cl", undefined=_shift_undefined, reserved=(RCX,), prepare=_few_shifts),
    *_by_width(_SHIFT + " {rmW}, 1", undefined=AF),
    *_by_width(_ROTATE + " {rmW}, {u8}", undefined=_rotate_undefined),
    *_by_width(_ROTATE + " {rmW}, cl", undefined=_rotate_undefined, reserved=(RCX,), prepare=_few_shifts),
    *_by_width(
        "{shld|shrd} {rmW}, {rW}, {u8}",
        ("16", "32", "64"),
        undefined=_double_shift_undefined,
        prepare=_double_shift_defined,
    ),
    *_by_width(
        "{shld|shrd} {rmW}, {rW}, cl",
        ("16", "32", "64"),
        undefined=_double_shift_undefined,
        prepare=_double_shift_defined,
        reserved=(RCX,),
    ),
    *_by_width("{bt|bts|btr|btc} {rmW}, {u8}", ("16", "32", "64"), undefined=OF | SF | AF | PF),
    *_by_width("{bt|bts|btr|btc} {rW}, {rW}", ("16", "32", "64"), undefined=OF | SF | AF | PF),
    Form("{|lock} {bts|btr|btc} {m16}, dx", undefined=OF | SF | AF | PF, reserved=(RDX,), prepare=_near(RDX)),
    Form("{bt|bts|btr|btc} {m32}, edx", undefined=OF | SF | AF | PF, reserved=(RDX,), prepare=_near(RDX)),
    Form("{bt|bts|btr|btc} {m64}, rdx", "", OF | SF | AF | PF, (64,), reserved=(RDX,), prepare=_near(RDX)),
    *_by_width("{bsf|bsr} {rW}, {rmW}", ("16", "32", "64"), undefined=CF | OF | SF | AF | PF),
    *_by_width("popcnt {rW}, {rmW}", ("16", "32", "64"), feature="popcnt"),
    *_by_width("lzcnt {rW}, {rmW}", ("16", "32", "64"), feature="abm", undefined=OF | SF | AF | PF),
    *_by_width("tzcnt {rW}, {rmW}", ("16", "32", "64"), feature="bmi1", undefined=OF | SF | AF | PF),
    *_by_width("mov {rmW}, {rW}"),
    *_by_width("mov {rW}, {mW}"),
    *_immediate("mov {rmW}, {iI}"),
    *_by_width("xchg {rmW}, {rW}"),
    *_by_width("{|lock} xadd {mW}, {rW}"),
    *_by_width("xadd {rW}, {rW}"),
    *_by_width("cmpxchg {rmW}, {rW}", reserved=(RAX,), prepare=_equal_or_not),
    *_by_width("lock cmpxchg {mW}, {rW}", reserved=(RAX,), prepare=_equal_or_not),
    *_by_width("cmpxchg {rW}, {rW}"),
    Form("{|lock} cmpxchg8b {m64}", reserved=(RAX, RDX, RBX, RCX), prepare=_expected),
    Form(
        "{add|sub|cmp} esi, edi\ncmpxchg8b {m64}",
        reserved=(RAX, RDX, RBX, RCX, RSI),
        prepare=_expected,
        name="cmpxchg8b",
    ),
    Form("{|lock} cmpxchg16b {m128}", "cx16", modes=(64,), reserved=(RAX, RDX, RBX, RCX), prepare=_expected),
    *_by_width("bswap {rW}", ("32", "64")),
    *_by_width("movbe {rW}, {mW}", ("16", "32", "64"), feature="movbe"),
    *_by_width("movbe {mW}, {rW}", ("16", "32", "64"), feature="movbe"),
    *_by_width("lea {rW}, {mW}", ("16", "32", "64")),
    *_by_width("cmov{cc} {rW}, {rmW}", ("16", "32", "64")),
    Form("set{cc} {rm8}"),
    *_by_width("{movzx|movsx} {rW}, {rm8}", ("16", "32", "64")),
    *_by_width("{movzx|movsx} {rW}, {rm16}", ("32", "64")),
    Form("movsxd {r64}, {rm32}", modes=(64,)),
    Form("{cbw|cwde|cwd|cdq|lahf|sahf|clc|stc|cmc|cld|std}", weight=4),
    Form("{cdqe|cqo}", modes=(64,)),
    Form(".byte 0xd6", modes=(32,), name="salc"),
    Form(".byte 0xf1, 0x90", name="int1"),
    Form(
        ".byte {0x06|0x07|0x0e|0x16|0x17|0x1e|0x1f|0x27|0x2f|0x37|0x3f|0x60|0x61|0x62|0x82|0x9a|0xc4|0xce|0xd4|0xd5|"
        "0xd6|0xea}, 0xc0, 0x11, 0x22, 0x33, 0x44",
        modes=(64,),
        name="none in 64-bit code",
        weight=2,
    ),
    *_by_width("push {rmW}", ("16", "64"), reserved=(RSP, RBP), prepare=_stack),
    *_by_width("pop {rmW}", ("16", "64"), reserved=(RSP, RBP), prepare=_stack),
    Form("{push|pop} {rm32}", modes=(32,), reserved=(RSP, RBP), prepare=_stack),
    Form("{push rsp|pop rsp|push sp|pop sp|push qword ptr [rsp+8]|pop qword ptr [rsp+8]}", modes=(64,), prepare=_stack),
    Form("{push esp|pop esp|push sp|pop sp|push dword ptr [esp+8]|pop dword ptr [esp+8]}", modes=(32,), prepare=_stack),
    Form("push {i8}", prepare=_stack),
    Form("push {i32}", prepare=_stack),
    Form("{pushfq|leave|pushfw}", modes=(64,), prepare=_stack),
    Form("{pushfd|leave|pushfw|pushad|pushaw|popad}", modes=(32,), prepare=_stack),
    Form("{popfq|popfw}", modes=(64,), prepare=_flags_on_stack),
    Form("{popfd|popfw}", modes=(32,), prepare=_flags_on_stack),
    Form("enter {0|8|24|32}, {0|1|2|3}", prepare=_stack, weight=2),
    Form("{|rep} {movsb|movsw|movsd|stosb|stosw|stosd|lodsb|lodsw|lodsd}", prepare=_strings, weight=6),
    Form("{|rep} {movsq|stosq|lodsq}", modes=(64,), prepare=_strings, weight=2),
    Form("{|repe|repne} {scasb|scasw|scasd|cmpsb|cmpsw}", prepare=_strings, weight=6),
    Form("{|repe|repne} {scasq|cmpsq}", modes=(64,), prepare=_strings, weight=2),
    Form("{lods al, byte ptr gs:[rsi]|repe cmps byte ptr gs:[rsi], byte ptr es:[rdi]}", modes=(64,), prepare=_strings),
    Form(
        "rep movs {byte ptr es:[rdi], byte ptr gs:[rsi]|word ptr es:[rdi], word ptr gs:[rsi]}",
        modes=(64,),
        prepare=_strings,
    ),
    Form("{lods al, byte ptr cs:[esi]|repne cmps word ptr cs:[esi], word ptr es:[edi]}", modes=(32,), prepare=_strings),
    Form("addr32 {|rep} {movsb|stosw|lodsd|movsq}", modes=(64,), prepare=_strings, weight=2),
    Form("addr32 {repe|repne} {scasb|cmpsw|scasq}", modes=(64,), prepare=_strings, weight=2),
    Form("{loop|loope|loopne} 1f\nnot eax\n1:", weight=2),
    Form("jecxz 1f\nnot eax\n1:"),
    Form("j{cc} 1f\nnot eax\n1:", weight=2),
    Form("call 1f\n1:", prepare=_stack),
    *FAR,
    Form("xlatb", reserved=(RBX,), prepare=_table_at_rbx),
    Form("{daa|das}", undefined=OF, modes=(32,), weight=2),
    Form("{aaa|aas}", undefined=OF | SF | ZF | PF, modes=(32,), weight=2),
    Form("{aam|aad} {u8}", undefined=OF | AF | CF, modes=(32,), weight=2),
    Form("crc32 {r32}, {rm8}", "sse4_2"),
    Form("crc32 {r32}, {rm16}", "sse4_2"),
    Form("crc32 {r32}, {rm32}", "sse4_2"),
    Form("crc32 {r64}, {rm8}", "sse4_2", modes=(64,)),
    Form("crc32 {r64}, {rm64}", "sse4_2", modes=(64,)),
    *_by_width("{adcx|adox} {rW}, {rmW}", ("32", "64"), feature="adx"),
    *_by_width("andn {rW}, {rW}, {rmW}", ("32", "64"), feature="bmi1", undefined=AF | PF),
    *_by_width("bextr {rW}, {rmW}, {rW}", ("32", "64"), feature="bmi1", undefined=AF | SF | PF),
    *_by_width("bextr {rW}, {rmW}, edx", ("32",), feature="bmi1", undefined=AF | SF | PF, reserved=(RDX,)),
    *_by_width("{blsi|blsr|blsmsk} {rW}, {rmW}", ("32", "64"), feature="bmi1", undefined=AF | PF, weight=2),
    *_by_width("bzhi {rW}, {rmW}, {rW}", ("32", "64"), feature="bmi2", undefined=AF | PF, weight=2),
    Form("bzhi {r32}, {rm32}, ecx", "bmi2", AF | PF, reserved=(RCX,), prepare=_few_shifts),
    Form("bzhi {r64}, {rm64}, rcx", "bmi2", AF | PF, (64,), reserved=(RCX,), prepare=_few_shifts),
    *_by_width("{pdep|pext|mulx} {rW}, {rW}, {rmW}", ("32", "64"), feature="bmi2", weight=2),
    *_by_width("{sarx|shlx|shrx} {rW}, {rmW}, {rW}", ("32", "64"), feature="bmi2"),
    *_by_width("rorx {rW}, {rmW}, {u8}", ("32", "64"), feature="bmi2"),
]

_INT_BINARY = (
    "{paddb|paddw|paddd|paddq|paddsb|paddsw|paddusb|paddusw|psubb|psubw|psubd|psubq|psubsb|psubsw|psubusb|psubusw|"
    "pand|pandn|por|pxor|pcmpeqb|pcmpeqw|pcmpeqd|pcmpgtb|pcmpgtw|pcmpgtd|pmullw|pmulhw|pmulhuw|pmaddwd|pmuludq|"
    "packsswb|packssdw|packuswb|punpckhbw|punpckhwd|punpckhdq|psllw|pslld|psllq|psrlw|psrld|psrlq|psraw|psrad|"
    "pavgb|pavgw|pminub|pmaxub|pminsw|pmaxsw|psadbw}"
)
_SSSE3 = (
    "{pshufb|phaddw|phaddd|phaddsw|pmaddubsw|phsubw|phsubd|phsubsw|psignb|psignw|psignd|pmulhrsw|pabsb|pabsw|pabsd}"
)
_SHIFT_IMMEDIATE = "{psllw|pslld|psllq|psrlw|psrld|psrlq|psraw|psrad}"

MMX: list[Form] = [
    Form(_INT_BINARY + " {mm}, {mmm64}", "mmx", fpu="mmx", weight=20),
    Form("{punpcklbw|punpcklwd|punpckldq} {mm}, {mm}", "mmx", fpu="mmx", weight=2),
    Form(_SHIFT_IMMEDIATE + " {mm}, {u8}", "mmx", fpu="mmx", weight=4),
    Form("movd {mm}, {rm32}", "mmx", fpu="mmx"),
    Form("movd {rm32}, {mm}", "mmx", fpu="mmx"),
    Form("movq {mm}, {rm64}", "mmx", modes=(64,), fpu="mmx"),
    Form("movq {m64}, {mm}", "mmx", fpu="mmx"),
    Form("movntq {m64}, {mm}", "mmx", fpu="mmx"),
    Form("pshufw {mm}, {mmm64}, {u8}", "sse", fpu="mmx"),
    Form("pinsrw {mm}, {r32}, {u8}", "sse", fpu="mmx"),
    Form("pextrw {r32}, {mm}, {u8}", "sse", fpu="mmx"),
    Form("pmovmskb {r32}, {mm}", "sse", fpu="mmx"),
    Form("maskmovq {mm}, {mm}", "sse", reserved=(RDI,), prepare=_destination_at_rdi, fpu="mmx"),
    Form("emms", "mmx", fpu="mmx"),
    Form(_SSSE3 + " {mm}, {mmm64}", "ssse3", fpu="mmx", weight=6),
    Form("palignr {mm}, {mmm64}, {u8}", "ssse3", fpu="mmx"),
    Form("{cvtpi2ps|cvtpi2pd} {x}, {mmm64}", "sse2", fpu="mmx", weight=2),
    Form("{cvtps2pi|cvttps2pi} {mm}, {xm64}", "sse2", fpu="mmx", weight=2),
    Form("{cvtpd2pi|cvttpd2pi} {mm}, {xm128}", "sse2", fpu="mmx", weight=2),
    Form("movq2dq {x}, {mm}", "sse2", fpu="mmx"),
    Form("movdq2q {mm}, {x}", "sse2", fpu="mmx"),
]

SSE: list[Form] = [
    Form("{addps|subps|mulps|divps|minps|maxps|sqrtps} {x}, {xm128}", "sse", fpu="sse", weight=20),
    Form("{addss|subss|mulss|divss|minss|maxss|sqrtss} {x}, {xm32}", "sse", fpu="sse", weight=20),
    Form("{addpd|subpd|mulpd|divpd|minpd|maxpd|sqrtpd} {x}, {xm128}", "sse2", fpu="sse", weight=20),
    Form("{addsd|subsd|mulsd|divsd|minsd|maxsd|sqrtsd} {x}, {xm64}", "sse2", fpu="sse", weight=20),
    Form("{rcpps|rsqrtps} {x}, {xm128}", "sse", fpu="sse", weight=3),
    Form("{rcpss|rsqrtss} {x}, {xm32}", "sse", fpu="sse", weight=3),
    Form("cmpps {x}, {xm128}, {0|1|2|3|4|5|6|7}", "sse", fpu="sse", weight=4),
    Form("cmpss {x}, {xm32}, {0|1|2|3|4|5|6|7}", "sse", fpu="sse", weight=4),
    Form("cmppd {x}, {xm128}, {0|1|2|3|4|5|6|7}", "sse2", fpu="sse", weight=4),
    Form("cmpsd {x}, {xm64}, {0|1|2|3|4|5|6|7}", "sse2", fpu="sse", weight=4),
    Form("{comiss|ucomiss} {x}, {xm32}", "sse", fpu="sse", weight=4),
    Form("{comisd|ucomisd} {x}, {xm64}", "sse2", fpu="sse", weight=4),
    Form("cvtsi2{ss|sd} {x}, {rm32}", "sse2", fpu="sse", weight=3),
    Form("cvtsi2{ss|sd} {x}, {rm64}", "sse2", modes=(64,), fpu="sse", weight=3),
    Form("{cvtss2si|cvttss2si} {r32}, {xm32}", "sse", fpu="sse", weight=3),
    Form("{cvtss2si|cvttss2si} {r64}, {xm32}", "sse", modes=(64,), fpu="sse", weight=3),
    Form("{cvtsd2si|cvttsd2si} {r32}, {xm64}", "sse2", fpu="sse", weight=3),
    Form("{cvtsd2si|cvttsd2si} {r64}, {xm64}", "sse2", modes=(64,), fpu="sse", weight=3),
    Form("{cvtdq2ps|cvtps2dq|cvttps2dq|cvtpd2dq|cvttpd2dq|cvtpd2ps} {x}, {xm128}", "sse2", fpu="sse", weight=8),
    Form("{cvtdq2pd|cvtps2pd|cvtsd2ss} {x}, {xm64}", "sse2", fpu="sse", weight=5),
    Form("cvtss2sd {x}, {xm32}", "sse2", fpu="sse", weight=2),
    Form("{haddps|hsubps|addsubps|haddpd|hsubpd|addsubpd} {x}, {xm128}", "pni", fpu="sse", weight=8),
    Form("{dpps|dppd} {x}, {xm128}, {u8}", "sse4_1", fpu="sse", weight=3),
    Form("{roundps|roundpd} {x}, {xm128}, {u8}", "sse4_1", fpu="sse", weight=3),
    Form("roundss {x}, {xm32}, {u8}", "sse4_1", fpu="sse", weight=2),
    Form("roundsd {x}, {xm64}, {u8}", "sse4_1", fpu="sse", weight=2),
    Form("{andps|andnps|orps|xorps|unpcklps|unpckhps} {x}, {xm128}", "sse", fpu="sse", weight=3),
    Form("{andpd|andnpd|orpd|xorpd|unpcklpd|unpckhpd} {x}, {xm128}", "sse2", fpu="sse", weight=3),
    Form("{shufps|shufpd} {x}, {xm128}, {u8}", "sse2", fpu="sse", weight=2),
    Form("{movaps|movups|movapd|movupd|movdqa|movdqu} {x}, {xm128}", "sse2", fpu="sse", weight=4),
    Form(
        "{movaps|movups|movapd|movupd|movdqa|movdqu|movntps|movntpd|movntdq} {m128}, {x}", "sse2", fpu="sse", weight=5
    ),
    Form("{lddqu|movsldup|movshdup} {x}, {m128}", "pni", fpu="sse", weight=2),
    Form("movddup {x}, {xm64}", "pni", fpu="sse"),
    Form("movss {x}, {xm32}", "sse", fpu="sse"),
    Form("movss {m32}, {x}", "sse", fpu="sse"),
    Form("movsd {x}, {xm64}", "sse2", fpu="sse"),
    Form("{movsd|movlps|movhps|movlpd|movhpd} {m64}, {x}", "sse2", fpu="sse", weight=2),
    Form("{movlps|movhps|movlpd|movhpd} {x}, {m64}", "sse2", fpu="sse", weight=2),
    Form("{movhlps|movlhps} {x}, {x}", "sse", fpu="sse"),
    Form("{movmskps|movmskpd|pmovmskb} {r32}, {x}", "sse2", fpu="sse"),
    Form("movd {x}, {rm32}", "sse2", fpu="sse"),
    Form("movd {rm32}, {x}", "sse2", fpu="sse"),
    Form("movq {x}, {rm64}", "sse2", modes=(64,), fpu="sse"),
    Form("movq {rm64}, {x}", "sse2", modes=(64,), fpu="sse"),
    Form("movq {x}, {xm64}", "sse2", fpu="sse"),
    Form("movnti {m32}, {r32}", "sse2"),
    Form("maskmovdqu {x}, {x}", "sse2", reserved=(RDI,), prepare=_destination_at_rdi, fpu="sse"),
    Form(_INT_BINARY + " {x}, {xm128}", "sse2", fpu="sse", weight=20),
    Form("{punpcklbw|punpcklwd|punpckldq|punpcklqdq|punpckhqdq} {x}, {xm128}", "sse2", fpu="sse", weight=3),
    Form("{psllw|pslld|psllq|psrlw|psrld|psrlq|psraw|psrad|pslldq|psrldq} {x}, {u8}", "sse2", fpu="sse", weight=5),
    Form("{pshufd|pshufhw|pshuflw} {x}, {xm128}, {u8}", "sse2", fpu="sse", weight=2),
    Form("pinsrw {x}, {r32}, {u8}", "sse2", fpu="sse"),
    Form("pextrw {r32}, {x}, {u8}", "sse2", fpu="sse"),
    Form(_SSSE3 + " {x}, {xm128}", "ssse3", fpu="sse", weight=6),
    Form("palignr {x}, {xm128}, {u8}", "ssse3", fpu="sse"),
    Form(
        "{pmuldq|pcmpeqq|packusdw|pminsb|pminsd|pminuw|pminud|pmaxsb|pmaxsd|pmaxuw|pmaxud|pmulld|phminposuw|ptest|"
        "pblendvb|blendvps|blendvpd} {x}, {xm128}",
        "sse4_1",
        fpu="sse",
        weight=8,
    ),
    Form("{pmovsxbw|pmovsxwd|pmovsxdq|pmovzxbw|pmovzxwd|pmovzxdq} {x}, {xm64}", "sse4_1", fpu="sse", weight=3),
    Form("{pmovsxbd|pmovsxwq|pmovzxbd|pmovzxwq} {x}, {xm32}", "sse4_1", fpu="sse", weight=2),
    Form("{pmovsxbq|pmovzxbq} {x}, {xm16}", "sse4_1", fpu="sse"),
    Form("{blendps|blendpd|pblendw|mpsadbw} {x}, {xm128}, {u8}", "sse4_1", fpu="sse", weight=2),
    Form("pextrb {m8}, {x}, {u8}", "sse4_1", fpu="sse"),
    Form("pextrb {r32}, {x}, {u8}", "sse4_1", fpu="sse"),
    Form("pextrw {m16}, {x}, {u8}", "sse4_1", fpu="sse"),
    Form("{pextrd|extractps} {rm32}, {x}, {u8}", "sse4_1", fpu="sse"),
    Form("pextrq {rm64}, {x}, {u8}", "sse4_1", modes=(64,), fpu="sse"),
    Form("pinsrb {x}, {m8}, {u8}", "sse4_1", fpu="sse"),
    Form("pinsrd {x}, {rm32}, {u8}", "sse4_1", fpu="sse"),
    Form("pinsrq {x}, {rm64}, {u8}", "sse4_1", modes=(64,), fpu="sse"),
    Form("insertps {x}, {xm32}, {u8}", "sse4_1", fpu="sse"),
    Form("movntdqa {x}, {m128}", "sse4_1", fpu="sse"),
    Form("pcmpgtq {x}, {xm128}", "sse4_2", fpu="sse"),
    Form("{pcmpestri|pcmpestrm|pcmpistri|pcmpistrm} {x}, {xm128}, {u8}", "sse4_2", fpu="sse", weight=6),
    Form("{aesenc|aesenclast|aesdec|aesdeclast|aesimc} {x}, {xm128}", "aes", fpu="sse", weight=3),
    Form("aeskeygenassist {x}, {xm128}, {u8}", "aes", fpu="sse"),
    Form("pclmulqdq {x}, {xm128}, {0|1|16|17}", "pclmulqdq", fpu="sse"),
    Form("{sha1msg1|sha1msg2|sha1nexte|sha256msg1|sha256msg2|sha256rnds2} {x}, {xm128}", "sha_ni", fpu="sse", weight=3),
    Form("sha1rnds4 {x}, {xm128}, {u8}", "sha_ni", fpu="sse"),
]

X87: list[Form] = [
    Form("fld {m32}", fpu="x87", weight=2),
    Form("fld {m64}", fpu="x87", weight=2),
    Form("fld {st}", fpu="x87"),
    Form("{fst|fstp} {m32}", fpu="x87", weight=4),
    Form("{fst|fstp} {m64}", fpu="x87", weight=4),
    Form("fstp {m80}", fpu="x87"),
    Form("{fst|fstp|fxch|ffree} {st}", fpu="x87", weight=2),
    Form("fild {m16}", fpu="x87"),
    Form("fild {m32}", fpu="x87"),
    Form("fild {m64}", fpu="x87"),
    Form("{fist|fistp|fisttp} {m16}", fpu="x87", weight=3),
    Form("{fist|fistp|fisttp} {m32}", fpu="x87", weight=3),
    Form("{fistp|fisttp} {m64}", fpu="x87", weight=3),
    Form("fbstp {m80}", fpu="x87"),
    Form("{fld1|fldl2t|fldl2e|fldpi|fldlg2|fldln2|fldz|fnop|fincstp|fdecstp|fninit|fnclex}", fpu="x87", weight=6),
    Form("{fadd|fmul|fsub|fsubr|fdiv|fdivr} {m32}", fpu="x87", weight=8),
    Form("{fadd|fmul|fsub|fsubr|fdiv|fdivr} {m64}", fpu="x87", weight=8),
    Form("{fadd|fmul|fsub|fsubr|fdiv|fdivr} st, {st}", fpu="x87", weight=8),
    Form("{fadd|fmul|fsub|fsubr|fdiv|fdivr|faddp|fmulp|fsubp|fsubrp|fdivp|fdivrp} {st}, st", fpu="x87", weight=8),
    Form("{fiadd|fimul|fisub|fisubr|fidiv|fidivr|ficom|ficomp} {m16}", fpu="x87", weight=4),
    Form("{fiadd|fimul|fisub|fisubr|fidiv|fidivr|ficom|ficomp} {m32}", fpu="x87", weight=4),
    Form("{fcom|fcomp} {m32}", fpu="x87", weight=2),
    Form("{fcom|fcomp} {m64}", fpu="x87", weight=2),
    Form("{fcom|fcomp|fucom|fucomp} {st}", fpu="x87", weight=3),
    Form("{fcompp|fucompp}", fpu="x87"),
    Form("{fcomi|fcomip|fucomi|fucomip} st, {st}", fpu="x87", weight=4),
    Form("fcmov{b|nb|e|ne|be|nbe|u|nu} st, {st}", fpu="x87", weight=2),
    Form("{ftst|fxam|fabs|fchs|fsqrt|frndint|fxtract}", fpu="x87", weight=12),
    Form("{fscale|fprem|fprem1}", fpu="x87", weight=8),
    Form("{f2xm1|fyl2x|fyl2xp1|fpatan|fptan|fsin|fcos|fsincos}", fpu="x87", weight=16),
    Form("fnstsw ax", fpu="x87"),
    # Where the last instruction was is not asked: CPUs keep it differently.
    Form(
        "{fnstenv|fnsave} [rdi]\nmov qword ptr [rdi+12], 0\nmov qword ptr [rdi+20], 0",
        modes=(64,),
        reserved=(RDI,),
        prepare=_whole_state,
        fpu="x87",
        weight=2,
    ),
    Form("{fldenv|frstor} [rdi]", modes=(64,), reserved=(RDI,), prepare=_environment, fpu="x87", weight=2),
    Form("fldcw {m16}", prepare=_masked_control, fpu="x87"),
    Form(
        "fxsave [rdi]\nmov word ptr [rdi+6], 0\nmov qword ptr [rdi+8], 0\nmov qword ptr [rdi+16], 0\n"
        "mov dword ptr [rdi+28], 0",
        modes=(64,),
        reserved=(RDI,),
        prepare=_whole_state,
        fpu="sse",
    ),
    Form("ldmxcsr {m32}", "sse", fpu="sse", prepare=_legal_mxcsr),
    Form("stmxcsr {m32}", "sse", fpu="sse"),
    Form("{fnstsw|fnstcw} {m16}", fpu="x87"),
]

# With an x87 exception pending: those that wait raise #MF, the others do not.
PENDING: list[Form] = [
    Form("{fld1|fnop|fchs|fincstp|fwait|fnclex|fninit|fnstsw ax|emms}", fpu="pending", weight=4),
    Form("{fadd|fst|fcom} {m32}", fpu="pending", weight=2),
    Form("{fnstcw|fnstsw|fist} {m16}", fpu="pending", weight=2),
    Form("paddb {mm}, {mmm64}", fpu="pending"),
    Form("movq {mm}, {mm}", fpu="pending"),
    Form("paddb {x}, {x}", fpu="pending"),
]

ALL = INTEGER + MMX + SSE + X87 + PENDING
